"""Django REST framework: the `Idempotency-Key` header, for any view that writes.

    class TransferView(IdempotencyMixin, CreateAPIView):
        ...

A client that lost the answer sends the request again with the same key, and gets the first
answer, status, headers and cookies too, with `Idempotency-Replayed: true`; nothing is done twice.
Needs `"dbpatterns.idempotency"` in INSTALLED_APPS.

Source: IETF draft "The Idempotency-Key HTTP Header Field".
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponse
from django.http.request import RawPostDataException
from django.http.response import HttpResponseBase
from django.utils.datastructures import MultiValueDict
from rest_framework import status
from rest_framework.exceptions import APIException, NotAuthenticated, ParseError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from dbpatterns.errors import UsageError
from dbpatterns.idempotency.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidIdempotencyKey,
)
from dbpatterns.idempotency.keys import run_once

__all__ = ["IdempotencyMixin"]

Handler = Callable[..., HttpResponseBase]
_FORM = "multipart/form-data"


class _Conflict(APIException):
    status_code = 422  # its name changed between versions of DRF
    default_code = "idempotency_conflict"


class _InProgress(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_code = "idempotency_in_progress"
    wait = 1  # seconds; DRF's exception handler makes it Retry-After


class _TooLarge(APIException):
    status_code = 413
    default_code = "idempotency_body_too_large"


class _Refused(Exception):
    """The handler's answer is an error: it undoes what was written, as a raised one does."""

    def __init__(self, response: HttpResponseBase) -> None:
        self.response = response


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
        if (
            getattr(request.user, "pk", None) is None
        ):  # anonymous, or what DRF is set to have instead
            raise NotAuthenticated("An idempotency key needs to be somebody's: log in.")
        return f"user:{request.user.pk}"

    def initialize_request(self, request: Any, *args: Any, **kwargs: Any) -> Request:
        """Read the body of a request with a key before anybody reads it as a stream.

        Not that of a multipart form, whose files may be larger than memory.
        """
        is_guarded = "Idempotency-Key" in request.headers
        if is_guarded and request.method in self.idempotent_methods:
            with suppress(RequestDataTooBig):  # told later, once it is known who asks
                _ = None if request.content_type == _FORM else request.body
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
            return _kept(first[0])

        try:
            outcome = run_once(
                self.get_idempotency_scope(request),
                key,
                [request.method, request.get_full_path(), *_content(request)],
                work=work,
                wait=self.idempotency_waits,
                using=self.idempotency_database,
            )
        except _Refused as refused:
            return refused.response
        except InvalidIdempotencyKey as error:
            raise ParseError(str(error)) from error
        except IdempotencyInProgress as error:
            raise _InProgress(str(error)) from error
        except IdempotencyConflict as error:
            raise _Conflict(str(error)) from error
        return _again(outcome.value) if outcome.is_replay else first[0]


def _content(request: Request) -> tuple[Any, Any]:
    """Return what tells a request's body from others: of a form the parts, for the boundary that
    parts them may be another one when it is sent again."""
    django_request = request._request
    if django_request.content_type == _FORM:
        return _FORM, _part(request.data)
    try:
        return request.content_type, hashlib.sha256(django_request.body).hexdigest()
    except (RequestDataTooBig, RawPostDataException) as error:
        raise _TooLarge(
            f"The body has more than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes. A request "
            f"with an Idempotency-Key may have more only in the files of {_FORM}."
        ) from error


def _part(value: Any) -> Any:
    if isinstance(value, UploadedFile):
        digest = hashlib.sha256()
        for chunk in value.chunks():
            digest.update(chunk)
        value.seek(0)
        return [value.name, value.content_type, digest.hexdigest()]
    if isinstance(value, MultiValueDict):
        return {name: _part(each) for name, each in value.lists()}
    if isinstance(value, Mapping):
        return {name: _part(each) for name, each in value.items()}
    return list(map(_part, value)) if isinstance(value, list | tuple) else value


def _kept(response: Any) -> dict[str, Any]:
    """Return an answer as JSON: its data by DRF's own encoder, or its bytes."""
    if isinstance(response, HttpResponseBase) and response.status_code >= 400:
        raise _Refused(response)
    kept: dict[str, Any]
    if isinstance(response, Response):
        try:
            text = json.dumps(response.data, cls=JSONEncoder, ensure_ascii=False)
            text.encode()  # half of a surrogate pair would fail when it is sent
        except (TypeError, ValueError, RecursionError) as error:
            raise UsageError(
                f"The answer's data cannot be kept as JSON ({error}), and so not be given again. "
                "Nothing was written: answer with what JSON has words for."
            ) from error
        kept = {"data": json.loads(text), "template_name": response.template_name}
        kept["content_type"] = response.content_type
    elif isinstance(response, HttpResponse) and getattr(response, "is_rendered", True):
        kept = {"bytes": b64encode(response.content).decode()}
    else:
        raise UsageError(
            f"An answer of type {type(response).__name__} cannot be kept, and so not be given "
            "again. Nothing was written: answer with a Response or with an HttpResponse that has "
            "its content, or leave the method out of idempotent_methods."
        )
    cookies = [
        (name, each.value, {fact: set_to for fact, set_to in each.items() if set_to != ""})
        for name, each in response.cookies.items()
    ]
    facts = {"status": response.status_code, "headers": dict(response.items())}
    return {**kept, **facts, "cookies": cookies}


def _again(kept: dict[str, Any]) -> HttpResponse:
    facts: dict[str, Any] = {
        "status": kept["status"],
        "headers": {**kept["headers"], "Idempotency-Replayed": "true"},
    }
    response: HttpResponse
    if "bytes" in kept:
        response = HttpResponse(b64decode(kept["bytes"]), **facts)
    else:
        facts |= {name: kept.get(name) for name in ("template_name", "content_type")}
        response = Response(kept["data"], **facts)
    for name, value, options in kept.get("cookies", ()):
        response.cookies[name] = value
        response.cookies[name].update(options)
    return response
