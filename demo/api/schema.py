"""What the generated OpenAPI document says beyond the views: the problems each may answer."""

from collections.abc import Iterator
from typing import Any

from demo.api.problems import MEDIA_TYPE

__all__ = ["add_problems"]

_TEXT = {"type": "string"}
_PROBLEM = {
    "type": "object",
    "description": "What went wrong, as RFC 9457 says it.",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "format": "uri-reference", "example": "about:blank"},
        "title": {**_TEXT, "example": "Not Found"},
        "status": {"type": "integer", "minimum": 400, "maximum": 599, "example": 404},
        "detail": _TEXT,
        "instance": {"type": "string", "format": "uri-reference"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["pointer", "detail"],
                "properties": {
                    "pointer": {
                        **_TEXT,
                        "description": "A JSON pointer into the body, or `#/` and the name of a "
                        "query parameter.",
                        "example": "#/amount",
                    },
                    "detail": _TEXT,
                },
            },
        },
    },
}
_RETRY_AFTER = {
    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds to wait."},
}
_MEANINGS = {
    400: "The request or a value in it cannot be used.",
    401: "Log in first, or the credentials are wrong.",
    403: "Not for this login, or the CSRF token is missing.",
    404: "There is no such thing, or it is not yours.",
    406: "The answer is JSON, and the request accepts none.",
    413: "The body is too long.",
    415: "The body is no JSON.",
    422: "Understood, and refused: `type` says why.",
    429: "Too many requests.",
    503: "The database is busy or away.",
}
_REFUSING_PATHS = {"/api/transfers/", "/api/standing-orders/"}


def add_problems(result: dict[str, Any], **context: Any) -> dict[str, Any]:
    """Declare the problem responses of every operation; a postprocessing hook of spectacular.

    Rule: a status is declared where the operation can answer it, and nowhere else.
    """
    components = result["components"]
    components["schemas"]["Problem"] = _PROBLEM
    components["responses"] = {
        f"Problem{status}": {
            "description": meaning,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
            **({"headers": _RETRY_AFTER} if status in (429, 503) else {}),
        }
        for status, meaning in _MEANINGS.items()
    }
    for path, operations in result["paths"].items():
        for operation in operations.values():
            for status in sorted(_statuses(path, operation)):
                reference = {"$ref": f"#/components/responses/Problem{status}"}
                operation["responses"][str(status)] = reference
    for name, schema in components["schemas"].items():
        if name.endswith("Request"):
            schema["additionalProperties"] = False  # see StrictSerializer
    return result


def _statuses(path: str, operation: dict[str, Any]) -> Iterator[int]:
    yield from (400, 406, 429, 503)
    if "requestBody" in operation:
        yield from (413, 415)
        if path in _REFUSING_PATHS:
            yield 422
    places = {(each["in"], each["name"]) for each in operation.get("parameters", ())}
    if ("query", "cursor") in places or any(place == "path" for place, _ in places):
        yield 404
    if security := operation.get("security"):
        yield 401
        if {} not in security:
            yield 403
