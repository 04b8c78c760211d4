"""Which relations a join can bring, and which need a query of their own."""

from functools import lru_cache
from typing import Any

from django.db.models import Model

from dbpatterns.repositories.errors import UnknownField
from dbpatterns.repositories.paths import field_path

__all__ = ["load_plan"]


@lru_cache(maxsize=1024)
def load_plan(
    model: type[Model], names: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split relations into those for `select_related` and those for `prefetch_related`.

    The single relations at the start of a path are joined; from the first of many on, or generic,
    each costs a query.
    Raises: UnknownField: no such relation.
    """
    joined, fetched = [], []
    for name in names:
        path = field_path(model, name)
        if not path.target.is_relation:
            raise UnknownField(
                f"{name!r} on {model._meta.label} is no relation: `load` takes relations.",
                model=model._meta.label,
                field=name,
            )
        single = 0
        for each in path.fields:
            if each.one_to_many or each.many_to_many or each.related_model is None:
                break  # of many, or generic
            single += 1
        if single:
            joined.append("__".join(each.name for each in path.fields[:single]))
        if single < len(path.fields):
            fetched.append("__".join(_accessor(each) for each in path.fields))
    return tuple(joined), tuple(fetched)


def _accessor(relation: Any) -> str:
    is_reverse = hasattr(relation, "get_accessor_name")
    name: str = relation.get_accessor_name() if is_reverse else relation.name
    return name
