"""Specifications: a business rule with a name, written once, asked of a table or of an object.

    published = Spec[Post]("published", status="published")
    recent = Spec[Post]("recent", Q(published_at__gte=start))

    PostRepository().find_by(published & ~recent)
    published.is_satisfied_by(post)

A specification is a frozen `Q` with a name. It combines with `&`, `|` and `~`, with another or
with a plain `Q` on its right (a `Q` on the left knows no specification and raises TypeError), and
goes wherever a repository takes criteria.
"""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from django.db.models import Model, Q

__all__ = ["Spec"]

M = TypeVar("M", bound=Model)


@dataclass(frozen=True, init=False)
class Spec(Generic[M]):
    """A named condition on rows of one model."""

    name: str
    _q: Q = field(repr=False)

    def __init__(self, name: str, condition: Q | None = None, /, **criteria: Any) -> None:
        """Name the condition; `criteria` are joined to it as in `filter`. No query."""
        q = Q(**criteria) if condition is None else condition & Q(**criteria)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "_q", _copied(q))

    def to_q(self) -> Q:
        """Return the condition for `filter`, `Count(filter=…)` or a `CheckConstraint`; a copy."""
        return _copied(self._q)

    def is_satisfied_by(self, obj: M, *, using: str | None = None) -> bool:
        """Tell whether a row with the object's values would be found; no query.

        As the database `using` would answer (the object's own if not given), with its rules for
        NULL, case and order of text. Relations must be loaded on the object.
        Raises: UnsupportedInMemory: the condition needs the database, or a relation is missing.
        """
        from dbpatterns.repositories.evaluation import matches, profile_of

        return matches(self._q, obj, profile=profile_of(using or obj._state.db))

    def __and__(self, other: "Spec[M] | Q") -> "Spec[M]":
        return self._joined(other, "&")

    def __or__(self, other: "Spec[M] | Q") -> "Spec[M]":
        return self._joined(other, "|")

    def __invert__(self) -> "Spec[M]":
        return Spec(f"~{self.name}", ~self._q)

    def __str__(self) -> str:
        return self.name

    def _joined(self, other: "Spec[M] | Q", operator: str) -> "Spec[M]":
        named = other.name if isinstance(other, Spec) else _described(other)
        q = other._q if isinstance(other, Spec) else other
        return Spec(
            f"({self.name} {operator} {named})", self._q & q if operator == "&" else self._q | q
        )


def _described(q: Q) -> str:
    """Name what a condition asks, not its values: the repr of a queryset would be a query."""
    parts = (
        _described(child)
        if isinstance(child, Q)
        else child[0]
        if isinstance(child, tuple)
        else type(child).__name__
        for child in q.children
    )
    return f"{'~' if q.negated else ''}Q({f' {q.connector} '.join(parts)})"


def _copied(q: Q) -> Q:
    """Return a condition that shares no node with the original: `Q.add` changes in place."""
    children = (_copied(each) if isinstance(each, Q) else each for each in q.children)
    return Q(*children, _connector=q.connector, _negated=q.negated)
