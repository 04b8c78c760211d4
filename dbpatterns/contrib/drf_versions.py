"""Django REST framework: ETag, If-Match, 412 and 428 for a VersionedModel.

class PostViewSet(VersionedViewMixin, ModelViewSet):
    queryset = Post.objects.all()
"""

from typing import Any
from urllib.parse import quote

from django.http.request import HttpHeaders
from django.utils.http import parse_etags
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response

from dbpatterns.optimistic.errors import StaleObjectError
from dbpatterns.optimistic.models import VersionedModel
from dbpatterns.optimistic.versions import expected_version

__all__ = [
    "PreconditionFailed",
    "PreconditionRequired",
    "VersionedViewMixin",
    "check_if_match",
    "etag",
]


class PreconditionFailed(APIException):
    """412: the row is at another version than If-Match names."""

    status_code = status.HTTP_412_PRECONDITION_FAILED
    default_detail = "It has changed since you read it: read it again."
    default_code = "precondition_failed"


class PreconditionRequired(APIException):
    """428: a write needs If-Match."""

    status_code = status.HTTP_428_PRECONDITION_REQUIRED
    default_detail = "Send If-Match with the ETag of what you read."
    default_code = "precondition_required"


def etag(row: VersionedModel) -> str:
    """Return the strong ETag of a row's version, such as `"5-7"`."""
    key = quote(str(row.pk), safe="")  # what a header, or a list of tags, would not take
    return f'"{key}-{expected_version(row)}"'


def check_if_match(headers: HttpHeaders, row: VersionedModel, *, required: bool = True) -> None:
    """Refuse a write whose If-Match does not name the row's version; no query.

    Raises: PreconditionRequired: there is none, and it is required. PreconditionFailed.
    """
    asked = headers.get("If-Match")
    if asked is None:
        if required:
            raise PreconditionRequired
        return
    tags = parse_etags(asked)
    if "*" not in tags and etag(row) not in tags:
        raise PreconditionFailed


class VersionedViewMixin:
    """Gives single rows their ETag and asks each write for it; before the generic view's bases."""

    if_match_required = True

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the row with its ETag."""
        return self._tagged(super().retrieve, request, *args, **kwargs)  # type: ignore[misc]

    def update(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Write the row if If-Match names its version."""
        return self._tagged(super().update, request, *args, **kwargs)  # type: ignore[misc]

    def destroy(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Delete the row if If-Match names its version."""
        response: Response = super().destroy(request, *args, **kwargs)  # type: ignore[misc]
        return response

    def handle_exception(self, exc: Exception) -> Response:
        """Answer 412 for a write, of whatever action, that another was faster than."""
        told = PreconditionFailed() if isinstance(exc, StaleObjectError) else exc
        response: Response = super().handle_exception(told)  # type: ignore[misc]
        return response

    def get_object(self) -> Any:
        """Return the row, once If-Match was compared with it where the request writes."""
        view: Any = self
        row = view._row = super().get_object()  # type: ignore[misc]
        # OPTIONS asks what the other methods would take, each by a request of its own.
        if view.request._request.method not in ("GET", "HEAD", "OPTIONS", "TRACE"):
            check_if_match(view.request.headers, row, required=self.if_match_required)
        return row

    def _tagged(self, answer: Any, request: Request, *args: Any, **kwargs: Any) -> Response:
        response: Response = answer(request, *args, **kwargs)
        view: Any = self
        response["ETag"] = etag(view._row)
        return response
