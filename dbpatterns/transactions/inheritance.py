"""The tables that a row of a model with parents lies in."""

from collections.abc import Iterator

from django.db.models import Model

__all__ = ["own_tables", "root_of"]


def root_of(model: type[Model]) -> type[Model]:
    """Return the ancestor whose table has a row for each of the model's; without one, the model.

    Of two parents that have no common ancestor, the first one's.
    """
    ancestors = model._meta.get_parent_list()
    return next((each for each in ancestors if not each._meta.parents), model)


def own_tables(model: type[Model]) -> tuple[str, ...]:
    """Name the row's own tables for `select_for_update(of=…)`, the root's first.

    PostgreSQL locks a row's tables in this order. No table is among them that a queryset joins.
    """
    return (*reversed([*_links(model)]), "self")


def _links(model: type[Model], before: str = "") -> Iterator[str]:
    """Name the ways to the parents, and to theirs."""
    for parent, link in model._meta.parents.items():
        if link:
            yield before + link.name
            yield from _links(parent, f"{before}{link.name}__")
