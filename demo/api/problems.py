"""RFC 9457: every error of the API is one `application/problem+json` document.

`type` is `about:blank` where the status says it all, and `/problems/<slug>` where a program
may want to tell one refusal from another.
"""

import logging
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousOperation
from django.core.signals import got_request_exception
from django.db import DataError, InterfaceError, OperationalError
from django.http import Http404, JsonResponse
from django.utils.encoding import escape_uri_path
from redis.exceptions import RedisError
from rest_framework.exceptions import APIException, ParseError, ValidationError
from rest_framework.views import exception_handler

from dbpatterns.repositories.errors import InvalidCriteria
from demo.banking.transfers import TransferRefused

__all__ = ["MEDIA_TYPE", "Problem", "problem_response"]

MEDIA_TYPE = "application/problem+json"

_logger = logging.getLogger("demo.api")


class Problem(APIException):
    """An error with a type of its own, `/problems/<slug>`; `wait` becomes Retry-After."""

    def __init__(
        self, status: HTTPStatus, detail: str, *, slug: str = "", wait: int | None = None
    ) -> None:
        super().__init__(detail)
        self.status_code = status
        self.slug = slug
        self.wait = wait


def problem_response(exc: Exception, context: Mapping[str, Any]) -> JsonResponse:
    """Return the problem document for any exception; no query.

    An unexpected exception is logged with its traceback and sent to `got_request_exception`,
    as Django does; the client learns nothing of it. Shape: type, title, status, detail, instance
    and, for invalid values, errors: [{pointer, detail}]. Only ASCII is sent, the rest escaped, so
    that a value quoted in an error cannot break the answer.
    """
    known = _known(exc)
    if known is None:
        request = context["request"]
        _logger.error("%s %s failed", request.method, request.path, exc_info=exc)
        got_request_exception.send(sender=None, request=request)
        known = Problem(HTTPStatus.INTERNAL_SERVER_ERROR, "Something went wrong on our side.")
    answered = exception_handler(known, dict(context))
    assert answered is not None, "DRF answers every APIException, Http404 and PermissionDenied"
    status = HTTPStatus(answered.status_code)
    slug = getattr(known, "slug", "")
    members: dict[str, Any] = {
        "type": f"/problems/{slug}" if slug else "about:blank",
        "title": slug.replace("-", " ").capitalize() if slug else status.phrase,
        "status": status.value,
    }
    if isinstance(known, ValidationError):
        errors = list(_errors(known.detail))
        members["type"], members["title"] = "/problems/invalid-values", "Invalid values"
        members["detail"] = f"{len(errors)} of the values sent cannot be used; see errors."
        members["errors"] = errors
    else:
        members["detail"] = str(answered.data["detail"])
    members["instance"] = escape_uri_path(context["request"].path)
    headers = {
        name: answered[name] for name in ("Retry-After", "WWW-Authenticate") if name in answered
    }
    return JsonResponse(members, status=status, content_type=MEDIA_TYPE, headers=headers)


def _known(exc: Exception) -> Exception | None:
    """Return what DRF can answer, None for the unexpected."""
    if isinstance(exc, TransferRefused):
        return Problem(HTTPStatus.UNPROCESSABLE_ENTITY, str(exc), slug=exc.refusal)
    if isinstance(exc, InvalidCriteria):
        return ValidationError({name: [problem] for name, problem in exc.problems.items()})
    if isinstance(exc, OperationalError | InterfaceError | RedisError):  # Redis counts requests
        _logger.warning("The database did not answer: %s", exc)
        return Problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "The database is busy or away: nothing was changed. Try again.",
            slug="database-unavailable",
            wait=1,
        )
    if isinstance(exc, BadRequest | SuspiciousOperation):
        return ParseError("The request is malformed.")
    if isinstance(exc, DataError):
        return ParseError("The request has a value that the database cannot hold.")
    return exc if isinstance(exc, APIException | Http404 | PermissionDenied) else None


def _errors(detail: Any, pointer: str = "#") -> Iterator[dict[str, str]]:
    """Flatten DRF's nested details into JSON pointers (RFC 6901) and sentences."""
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            token = str(name).replace("~", "~0").replace("/", "~1")
            yield from _errors(
                inner, pointer if name == "non_field_errors" else f"{pointer}/{token}"
            )
    elif isinstance(detail, list):
        for position, inner in enumerate(detail):
            leaf = isinstance(inner, str)
            yield from _errors(inner, pointer if leaf else f"{pointer}/{position}")
    else:
        yield {"pointer": pointer, "detail": str(detail)}
