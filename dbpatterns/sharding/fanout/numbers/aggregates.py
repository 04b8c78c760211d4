"""One aggregate as what each shard is asked for, and how its answers make the whole's.

A sum of averages is no average: a shard is asked for the sum and the count. Numbers are added
here; what is computed from them is left to a database, see `finishing`, since each divides, rounds
and compares texts in its own way.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from django.db import models
from django.db.models import Avg, Count, Max, Min, StdDev, Sum, Variance
from django.db.models.expressions import CombinedExpression
from django.db.models.lookups import IsNull
from django.db.models.sql.where import WhereNode

from dbpatterns.sharding.fanout.numbers.formulas import (
    FromSums,
    Numeric,
    Quotient,
    TextExtreme,
    collations_of,
)
from dbpatterns.sharding.fanout.numbers.sums import added, greatest, least, listed, spread
from dbpatterns.sharding.fanout.ordering import BINARY, NUMBERS, OTHERS, TEXTS
from dbpatterns.sharding.fanout.refusals import is_of_one_shard, refused
from dbpatterns.sharding.keys import end_field

__all__ = ["Split", "Unlike", "refuse_unlike", "split"]

EXACT = (models.IntegerField, models.AutoField, models.DecimalField)
"""What PostgreSQL computes without rounding."""
Answers = Sequence[tuple[Any, ...]]
"""A row of each shard that knows of a group."""


@dataclass(frozen=True, slots=True)
class Unlike:
    """Values to count once, of which shards may share some: they are shipped."""

    source: Any
    condition: Any
    """Which of them count."""
    answer: Callable[[Collection[Any]], tuple[Any, ...]]
    """What one database with these values would answer."""


@dataclass(frozen=True, slots=True)
class Split:
    """One aggregate, taken apart."""

    asked: tuple[Any, ...]
    """What each shard is asked for, of each group."""
    merge: Callable[[Answers], tuple[Any, ...]]
    """From what the shards answer about one group to what is known of it."""
    fields: tuple[Any, ...]
    """The types of what is known."""
    finish: Callable[..., Any] | None = None
    """From the columns of what is known to the aggregate; None where it is the only column."""
    unlike: Unlike | None = None
    """In place of what is asked."""


def split(aggregate: Any, query: Any, vendor: str) -> Split:
    """Return an aggregate's parts.

    Raises: UsageError: it has none that add up.
    """
    kind, source = type(aggregate), aggregate.source_expressions[0]
    if kind in (Count, Sum, Avg):
        return _total(aggregate, source, query, vendor)
    if kind in (Min, Max):
        return _extreme(aggregate, source, query, vendor)
    if kind in (StdDev, Variance):
        return _spread(aggregate, source, vendor)
    raise refused(
        query.model,
        f"merge {kind.__name__}()",
        "Ask each shard by `.using(alias)`, or list the rows and compute it in Python.",
    )


def refuse_unlike(expression: Any, model: type[models.Model]) -> None:
    """Refuse values that a database may take for one and Python for two, or the other way round.

    Raises: UsageError.
    """
    field = end_field(expression.output_field)
    if not isinstance(field, (*NUMBERS, *TEXTS, *OTHERS)):
        raise refused(
            model,
            f"tell values of a {type(field).__name__} apart as the database does",
            "Take a plain column, or ask each shard by `.using(alias)`.",
        )
    for collation in collations_of(expression) if isinstance(field, TEXTS) else ():
        if collation not in BINARY.values():
            raise refused(
                model,
                f"tell texts apart by the collation {collation!r}",
                "Take them by code point, with Collate(…, "
                f"{' or '.join(map(repr, BINARY.values()))}), or ask each shard by "
                "`.using(alias)`.",
            )


def _total(aggregate: Any, source: Any, query: Any, vendor: str) -> Split:
    kind = type(aggregate)
    parts = (Sum, Count) if kind is Avg else (kind,)
    asked = tuple(_asked(each, source, aggregate) for each in parts)
    fields = tuple(each.output_field for each in asked)
    merge: Callable[[Answers], tuple[Any, ...]] = partial(_sums, parts=parts)
    finish = None
    if kind is Avg:
        number = end_field(source.output_field)
        if vendor == "sqlite" or isinstance(number, models.FloatField):
            merge, fields = _mean, (aggregate.output_field,)
        else:
            finish = partial(
                _quotient,
                output_field=aggregate.output_field,
                is_exact=not isinstance(number, models.DurationField),
            )
    if not aggregate.distinct or is_of_one_shard(source, query):
        return Split(asked, merge, fields, finish)
    refuse_unlike(source, query.model)

    def answer(values: Collection[Any]) -> tuple[Any, ...]:
        return tuple(len(values) if each is Count else added(values) for each in parts)

    return Split((), merge, fields, finish, Unlike(source, _condition(aggregate), answer))


def _sums(answers: Answers, *, parts: Sequence[Any]) -> tuple[Any, ...]:
    sums = [added(answer[index] for answer in answers) for index, _ in enumerate(parts)]
    return tuple(
        0 if each is Count and total is None else total
        for each, total in zip(parts, sums, strict=True)
    )


def _mean(answers: Answers) -> tuple[Any, ...]:
    total, count = _sums(answers, parts=(Sum, Count))
    return (total / count if count else None,)


def _quotient(total: Any, count: Any, *, output_field: Any, is_exact: bool) -> Any:
    return Quotient(Numeric(total) if is_exact else total, count, output_field=output_field)


def _extreme(aggregate: Any, source: Any, query: Any, vendor: str) -> Split:
    asked = (_asked(type(aggregate), source, aggregate),)
    field = end_field(aggregate.output_field)
    if isinstance(field, TEXTS):
        collation = next(collations_of(source), None)
        if collation != BINARY[vendor] and (collation or vendor != "sqlite"):
            return Split(
                asked,
                lambda answers: (listed(each for (each,) in answers),),
                (models.TextField(),),
                partial(
                    TextExtreme,
                    name=aggregate.function,
                    collation=collation,
                    output_field=aggregate.output_field,
                ),
            )
    elif not isinstance(field, (*NUMBERS, *OTHERS)):
        raise refused(
            query.model,
            f"compare values of a {type(field).__name__} as the database does",
            "Take another column, or ask each shard by `.using(alias)`.",
        )
    choose = least if isinstance(aggregate, Min) else greatest
    return Split(
        asked, lambda answers: (choose(each for (each,) in answers),), (aggregate.output_field,)
    )


def _spread(aggregate: Any, source: Any, vendor: str) -> Split:
    sample, root = aggregate.function.endswith("SAMP"), isinstance(aggregate, StdDev)
    count = _asked(Count, source, aggregate)
    if vendor == "postgresql" and isinstance(end_field(source.output_field), EXACT):
        exact = Numeric(source)
        square = CombinedExpression(exact, "*", exact, output_field=models.DecimalField())
        asked = (count, _asked(Sum, exact, aggregate), _asked(Sum, square, aggregate))
        finish = partial(FromSums, sample=sample, root=root, output_field=aggregate.output_field)
        fields = tuple(each.output_field for each in asked)
        return Split(asked, partial(_sums, parts=(Count, Sum, Sum)), fields, finish)
    # Django's own on SQLite fails over NULLs.
    there: Any = WhereNode(
        cast("Any", [IsNull(source, False), *filter(None, [_condition(aggregate)])])
    )
    return Split(
        (count, _asked(Avg, source, aggregate), Variance(source, filter=there)),
        lambda answers: (spread(answers, sample=sample, root=root),),
        (aggregate.output_field,),
    )


def _asked(kind: Any, source: Any, aggregate: Any) -> Any:
    made = kind(source, filter=_condition(aggregate))
    made.distinct = aggregate.distinct
    return made


def _condition(aggregate: Any) -> Any:
    return getattr(aggregate.filter, "condition", aggregate.filter)  # wrapped since Django 6.0
