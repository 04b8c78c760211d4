"""What tells a request from others under its key, and what is kept of its answer for a replay."""

import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpResponse
from django.http.request import RawPostDataException
from django.http.response import HttpResponseBase
from django.utils.datastructures import MultiValueDict
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.encoders import JSONEncoder

from dbpatterns.errors import UsageError

__all__ = ["FORM", "Refused", "answer_again", "content_of", "kept_of"]

FORM = "multipart/form-data"


class _TooLarge(APIException):
    status_code = 413
    default_code = "idempotency_body_too_large"


class Refused(Exception):
    """The handler's answer is an error: it undoes what was written, as a raised one does."""

    def __init__(self, response: HttpResponseBase) -> None:
        self.response = response


def content_of(request: Request) -> tuple[Any, Any]:
    """Return what tells a request's body from others: of a form the parts, for the boundary that
    parts them may be another one when it is sent again."""
    django_request = request._request
    if django_request.content_type == FORM:
        return FORM, _part(request.data)
    try:
        return request.content_type, hashlib.sha256(django_request.body).hexdigest()
    except (RequestDataTooBig, RawPostDataException) as error:
        raise _TooLarge(
            f"The body has more than {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes. A request "
            f"with an Idempotency-Key may have more only in the files of {FORM}."
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


class _ReadOften(JSONEncoder):
    """DRF's, without what can be read only once: it would be empty when the answer is sent."""

    def default(self, obj: Any) -> Any:
        if isinstance(obj, Iterator):
            raise TypeError(f"a {type(obj).__name__} can be read only once: make it a list")
        return super().default(obj)


def kept_of(response: Any) -> dict[str, Any]:
    """Return an answer as JSON: its data by DRF's own encoder, or its bytes."""
    if isinstance(response, HttpResponseBase) and response.status_code >= 400:
        raise Refused(response)
    kept: dict[str, Any]
    if isinstance(response, Response):
        try:
            text = json.dumps(response.data, cls=_ReadOften, ensure_ascii=False)
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


def answer_again(kept: dict[str, Any]) -> HttpResponse:
    """Return the answer of which this was kept, marked as a replay."""
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
