"""What strangers may ask of posts, and how the OpenAPI document says so: one list for both."""

from collections.abc import Iterator

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from dbpatterns.repositories.criteria import Criteria
from demo.blog.models import Post

__all__ = ["SEARCH", "SEARCH_PARAMETERS"]

_NAME = {"exact", "in"}
_TEXT = {"icontains"}
_MOMENT = {"gt", "gte", "lt", "lte"}
_ALLOWED = {
    "slug": _NAME,
    "title": {"exact", "iexact", "istartswith"} | _TEXT,
    "excerpt": _TEXT,
    "body": _TEXT,
    "published_at": _MOMENT,
    "author__login": _NAME,
    "author__name": {"exact"} | _TEXT,
    "categories__slug": _NAME,
    "tags__slug": _NAME,
}
_ORDERS = ("-published_at", "published_at", "title", "-title")

SEARCH = Criteria(Post, allow=_ALLOWED, order=_ORDERS)
"""Criteria for `/api/posts/search/`; who may see which posts is not theirs to say."""


def _parameters() -> Iterator[OpenApiParameter]:
    for name, lookups in _ALLOWED.items():
        for lookup in sorted(lookups):
            yield _parameter(name if lookup == "exact" else f"{name}__{lookup}", lookup)
    yield OpenApiParameter(
        "order",
        {"type": "array", "items": {"type": "string", "enum": list(_ORDERS)}, "minItems": 1},
        explode=False,
        description="Comma separated; newest first if not given.",
    )


def _parameter(name: str, lookup: str) -> OpenApiParameter:
    if lookup in _MOMENT:
        return OpenApiParameter(name, OpenApiTypes.DATETIME)
    text = {"type": "string", "minLength": 1, "maxLength": 200}
    if lookup == "in":
        several = {"type": "array", "items": text, "minItems": 1, "maxItems": 100}
        return OpenApiParameter(name, several, explode=False, description="Comma separated.")
    return OpenApiParameter(name, text)


SEARCH_PARAMETERS = list(_parameters())
"""The parameters of the search, for the OpenAPI document."""
