"""Django REST framework: the `Idempotency-Key` header, for any view that writes.

    class TransferView(IdempotencyMixin, CreateAPIView):
        ...

A client that lost the answer sends the request again with the same key, and gets the first
answer, status, headers and cookies too, with `Idempotency-Replayed: true`; nothing is done twice.
Needs `"dbpatterns.idempotency"` in INSTALLED_APPS.

Source: IETF draft "The Idempotency-Key HTTP Header Field".
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from django.core.exceptions import RequestDataTooBig
from django.http.response import HttpResponseBase
from rest_framework import status
from rest_framework.exceptions import APIException, NotAuthenticated, ParseError
from rest_framework.request import Request

from dbpatterns.contrib.drf_answers import FORM, Refused, answer_again, content_of, kept_of
from dbpatterns.idempotency.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidIdempotencyKey,
)
from dbpatterns.idempotency.keys import run_once

__all__ = ["IdempotencyMixin"]

Handler = Callable[..., HttpResponseBase]


class _Conflict(APIException):
    status_code = 422  # its name changed between versions of DRF
    default_code = "idempotency_conflict"


class _InProgress(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_code = "idempotency_in_progress"
    wait = 1  # seconds; DRF's exception handler makes it Retry-After


class IdempotencyMixin:
    """Runs the handlers of `idempotent_methods` once for each key; put it before DRF's class.

    Authentication, permissions and throttles are asked first, for a replay too. An answer of 400
    or more is not kept and what was written for it is undone: the key stays free.
    400 without a key where one is required, or with one that cannot be stored; 409 while the
    first request runs; 413 for a body of more than `DATA_UPLOAD_MAX_MEMORY_SIZE` that is no
    multipart form; 422 for another request under the same key.

    The first answer goes out as the handler gave it. Of a `Response` the data are kept, as JSON,
    and a replay renders them anew; of another `HttpResponse` the bytes. What cannot be kept, such
    as a stream, a file or a template that is not rendered, is a UsageError, and undoes the work.
    A multipart form is parsed before the handler.
    """

    idempotent_methods: tuple[str, ...] = ("POST",)
    idempotency_key_required = True
    """False: a request without the header runs as if there were no mixin."""
    idempotency_waits = False
    """True: a second request waits for the first one's answer, and holds its worker meanwhile."""
    idempotency_database: str | None = None
    """The alias that the handlers write to; the routers' answer if not given."""

    def get_idempotency_scope(self, request: Request) -> str:
        """Return whose keys these are: the user's, so that nobody is given another's answer.

        Raises: NotAuthenticated: the request has no user. Override it to say what tells
            strangers apart, if anything does.
        """
        pk = getattr(request.user, "pk", None)  # there may be no user at all, as DRF is set
        if pk is None:
            raise NotAuthenticated("An idempotency key needs to be somebody's: log in.")
        return f"user:{pk}"

    def initialize_request(self, request: Any, *args: Any, **kwargs: Any) -> Request:
        """Read the body of a request with a key before anybody reads it as a stream.

        Not that of a multipart form, whose files may be larger than memory.
        """
        is_guarded = (
            "Idempotency-Key" in request.headers and request.method in self.idempotent_methods
        )
        if is_guarded and request.content_type != FORM:
            with suppress(RequestDataTooBig):  # told later, once it is known who asks
                _ = request.body
        made: Request = super().initialize_request(request, *args, **kwargs)  # type: ignore[misc]
        return made

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Let the request in as ever, then put `run_once` around its handler."""
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        name = (request.method or "").lower()
        handler = getattr(self, name, None)
        if request.method not in self.idempotent_methods or handler is None:
            return
        if key := request.headers.get("Idempotency-Key", ""):
            # The view is this request's own; ViewSet binds its handlers in the same way.
            setattr(self, name, partial(self._answer_once, handler, key))
        elif self.idempotency_key_required:
            raise ParseError("This request needs an Idempotency-Key header, such as a new UUID.")

    def _answer_once(
        self, handler: Handler, key: str, request: Request, *args: Any, **kwargs: Any
    ) -> HttpResponseBase:
        first: list[HttpResponseBase] = []

        def work() -> dict[str, Any]:
            first.append(handler(request, *args, **kwargs))
            return kept_of(first[0])

        try:
            outcome = run_once(
                self.get_idempotency_scope(request),
                key,
                [request.method, request.get_full_path(), *content_of(request)],
                work=work,
                wait=self.idempotency_waits,
                using=self.idempotency_database,
            )
        except Refused as refused:
            return refused.response
        except InvalidIdempotencyKey as error:
            raise ParseError(str(error)) from error
        except IdempotencyInProgress as error:
            raise _InProgress(str(error)) from error
        except IdempotencyConflict as error:
            raise _Conflict(str(error)) from error
        return answer_again(outcome.value) if outcome.is_replay else first[0]
