"""The tables that a row of a model with parents lies in."""

from collections.abc import Iterator
from typing import Any

from django.db.models import Model

__all__ = ["own_tables", "root_of"]


def root_of(model: type[Model]) -> type[Model]:
    """Return the ancestor whose key is the model's own key; without one, the model."""
    for _, parent in _key_links(model):
        model = parent
    return model


def own_tables(model: type[Model]) -> tuple[str, ...]:
    """Name the row's own tables for `select_for_update(of=…)`: the root's first, its own last.

    PostgreSQL locks a row's tables in this order. No table is among them that a queryset joins.
    """
    concrete = model._meta.concrete_model or model
    names = [name for name, _ in _key_links(concrete)]
    keyed = ["__".join(names[: end + 1]) for end in range(len(names))]
    others = [name for name in _links(concrete) if name not in keyed]
    return (*reversed(keyed), *others, "self")


def _key_links(model: type[Model]) -> Iterator[tuple[str, type[Model]]]:
    """Yield the links to parents by which the key is inherited, and the parents."""
    while True:
        key: Any = model._meta.pk
        if not (key.remote_field and key.remote_field.parent_link):
            return
        model = key.remote_field.model
        yield key.name, model


def _links(model: type[Model], before: str = "") -> Iterator[str]:
    """Name the ways to the parents, and to theirs."""
    for parent, link in model._meta.parents.items():
        if link:
            yield before + link.name
            yield from _links(parent, f"{before}{link.name}__")
