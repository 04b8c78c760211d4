"""The one way a request body is read."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import IO, Any, NoReturn

from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import JSONParser

__all__ = ["MAX_BODY_BYTES", "BodyTooLong", "BoundedJSONParser"]

MAX_BODY_BYTES = 65_536
"""Far above any body the API takes; what is larger is not even read."""


class BodyTooLong(APIException):
    """413: the body is not read to its end."""

    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_detail = f"The body is longer than {MAX_BODY_BYTES} bytes."


class BoundedJSONParser(JSONParser):
    """JSON in UTF-8 (RFC 8259), of bounded length and depth.

    DRF's own parser takes any length, and fails on deep nesting and on `charset=zlib`.
    """

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the value; reads at most MAX_BODY_BYTES + 1.

        Raises: ParseError, BodyTooLong.
        """
        body = stream.read(MAX_BODY_BYTES + 1)
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLong
        try:
            return json.loads(body.decode("utf-8"), parse_constant=_refuse)
        except ValueError as error:
            raise ParseError(f"The body is no JSON in UTF-8: {error}.") from error
        except RecursionError as error:
            raise ParseError("The body is nested too deeply.") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")
