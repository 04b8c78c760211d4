"""What is asked of a repository, as values, and what is refused before any SQL is sent."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Generic, TypeVar

from django.core.exceptions import FieldError, ValidationError
from django.db import DataError
from django.db.models import F, IntegerField, Model, OuterRef, Q, Subquery
from django.db.models.expressions import ResolvedOuterRef

from dbpatterns.errors import DBPatternsError, UsageError
from dbpatterns.repositories.errors import DuplicateKeys, InvalidValue, UnknownField
from dbpatterns.repositories.keyset import OrderTerm, column_of
from dbpatterns.repositories.paths import field_path, lookup_path
from dbpatterns.repositories.specifications import Spec

__all__ = [
    "BAD_VALUE",
    "REFUSED",
    "Condition",
    "Selection",
    "UpsertResult",
    "check_columns",
    "check_distinct",
    "check_one_row_each",
    "check_upsert",
    "check_values",
    "columns_of",
    "condition",
    "explained",
    "is_empty",
    "is_many",
    "keeping_states",
    "key_values",
    "leaves",
    "meets_many",
    "one_row",
    "refuse_below_one",
    "refuse_text",
    "sentence_of",
    "shown",
]

M = TypeVar("M", bound=Model)

Condition = Spec[Any] | Q

BAD_VALUE = (TypeError, ValueError, ValidationError)
"""What Django's fields and lookups raise when a value does not fit."""

REFUSED = (*BAD_VALUE, ArithmeticError, DataError)
"""What a query may raise besides, once the driver or the database reads the value."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows to read, in which order and with which relations."""

    q: Q
    order_by: Sequence[OrderTerm] = ()
    load: Sequence[str] = ()
    limit: int | None = None

    def __post_init__(self) -> None:
        refuse_text(order_by=self.order_by, load=self.load)


@dataclass(frozen=True)
class UpsertResult(Generic[M]):
    """What an upsert did with each object; all of them have their primary keys."""

    created: list[M]
    updated: list[M]


def condition(spec: Condition | None, criteria: Mapping[str, Any]) -> Q:
    """Join a specification and keywords into one condition."""
    # Pairs, not keywords: Q(**{"_connector": …}) would be an instruction to Q, not a field.
    q = Q(*criteria.items())
    if spec is None:
        return q
    given = spec.to_q() if isinstance(spec, Spec) else spec
    return given & q if q else given


def refuse_text(**lists: object) -> None:
    """Refuse one text where a list of them is meant: its letters would be the names.

    Raises: UsageError.
    """
    for name, value in lists.items():
        if isinstance(value, str):
            raise UsageError(f"{name}={value!r} is one text: it takes a list, [{value!r}].")


def refuse_below_one(**counts: int) -> None:
    """Refuse a batch or a chunk of no rows.

    Raises: UsageError.
    """
    for name, count in counts.items():
        if type(count) is not int or count < 1:
            raise UsageError(f"{name}={count!r} is no number of rows: it takes one or more.")


def is_empty(q: Q) -> bool:
    """Tell whether a condition says nothing, however deep its brackets."""
    return all(isinstance(child, Q) and is_empty(child) for child in q.children)


def key_values(obj: Model) -> list[Any]:
    """Return the values of an object's primary key, several for a composite one."""
    return [getattr(obj, each.attname) for each in obj._meta.pk_fields]


def leaves(q: Q) -> Iterator[tuple[str, Any]]:
    """Yield every name and value of a condition; expressions are passed over."""
    for child in q.children:
        if isinstance(child, Q):
            yield from leaves(child)
        elif isinstance(child, tuple):
            yield child


def _paths(q: Q) -> Iterator[str]:
    """Yield every path that a condition names, those of F() in its values and expressions too."""
    for child in q.children:
        if isinstance(child, Q):
            yield from _paths(child)
        elif isinstance(child, tuple):
            yield child[0]
            yield from _references(child[1])
        else:
            yield from _references(child)


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, F):
        if not isinstance(value, OuterRef | ResolvedOuterRef):
            yield value.name  # type: ignore[attr-defined]  # the stubs lack it
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _references(each)
    elif hasattr(value, "get_source_expressions") and not isinstance(value, Subquery):
        # A lookup counts an F() on its right as a plain value.
        yield from _references([*value.get_source_expressions(), getattr(value, "rhs", None)])


def meets_many(model: type[Model], q: Q) -> bool:
    """Tell whether a condition may meet a row several times, by a relation of many.

    Raises: ValueError: what Django says only while the query runs.
    """
    for name, value in leaves(q):
        if name.endswith("__isnull") and not isinstance(value, bool):
            raise ValueError("It is True or False.")
        if name.endswith("__range") and len(value) != 2:
            raise ValueError("A range has two ends.")
    return any(is_many(model, each) for each in _paths(q))


def is_many(model: type[Model], name: str) -> bool:
    """Tell whether a path leads from one row to several; not of a manager's annotation."""
    try:
        return lookup_path(model, name)[0].is_many
    except UnknownField:
        return False


def explained(
    model: type[Model], error: Exception, q: Q, order_by: Sequence[OrderTerm] = ()
) -> Exception:
    """Return the error that names the field at fault, or the same one when none is."""
    try:
        for term in order_by:
            if column := column_of(term):
                field_path(model, column)
        asked = list(leaves(q))
        for name, value in asked:
            lookup_path(model, name)
            try:
                meets_many(model, Q((name, value)))
                model._base_manager.all().filter((name, value))
            except (FieldError, *BAD_VALUE) as cause:  # no filter by a generic relation
                return _invalid(model, name, value, cause)
    except UnknownField as unknown:
        return unknown
    if not isinstance(error, REFUSED) or isinstance(error, DBPatternsError):
        return error
    suspects = [each for each in asked if _is_unfit(*each)]
    if not suspects and len(asked) == 1 and not isinstance(error, DataError):
        suspects = asked  # the driver's error is about the only value there is
    return _invalid(model, *suspects[0], error) if suspects else error


def _invalid(model: type[Model], name: str, value: object, cause: Exception) -> InvalidValue:
    label = model._meta.label
    return InvalidValue(
        f"{label}: {name} cannot be compared with {shown(value)}. {sentence_of(cause)}",
        model=label,
        field=name,
    )


def _is_unfit(name: str, value: object) -> bool:
    """Tell whether a value, or one of several, is of those that a driver or server refuses."""
    if isinstance(value, list | tuple | set | frozenset):
        return any(_is_unfit(name, each) for each in value)
    if isinstance(value, str):
        is_pattern = name.endswith(("__regex", "__iregex"))  # it may be a bad one
        return is_pattern or "\0" in value or value != value.encode(errors="ignore").decode()
    return isinstance(value, int) and not -(2**63) <= value < 2**63


def check_columns(model: type[Model], names: Sequence[str], *, may_be_key: bool = True) -> None:
    """Refuse a name that is no column of the model's own table, or its key if it must not be.

    Raises: UnknownField.
    """
    for name in names:
        path = field_path(model, name)
        is_own = len(path.fields) == 1 and path.is_column
        if not is_own or (path.target in model._meta.pk_fields and not may_be_key):
            what = (
                "the primary key, which is never updated"
                if is_own
                else "not a column of its own table"
            )
            raise UnknownField(
                f"{name!r} on {model._meta.label} is {what}.", model=model._meta.label, field=name
            )


def columns_of(model: type[Model], names: Sequence[str] | None) -> list[Any]:
    """Return the columns of these names, every one for None."""
    if names is None:
        return list(model._meta.concrete_fields)
    return [field_path(model, name).target for name in names]


def check_values(
    model: type[Model], objs: Sequence[Model], names: Sequence[str] | None = None
) -> None:
    """Refuse a value that its column cannot hold; about a microsecond a column.

    Raises: InvalidValue.
    """
    for obj in objs:
        for column in columns_of(model, names):
            value = obj.__dict__.get(column.attname)
            if hasattr(value, "resolve_expression"):
                continue  # F("rating") + 1 is for the database to judge
            try:
                if value is None and column.is_relation:
                    _check_saved(obj, column)
                _check_sendable(column, column.get_prep_value(value))
            except BAD_VALUE as cause:
                raise InvalidValue(
                    f"{model._meta.label}.{column.name} cannot hold {shown(value)}. "
                    f"{sentence_of(cause)}",
                    model=model._meta.label,
                    field=column.name,
                ) from cause


def _check_saved(obj: Model, relation: Any) -> None:
    """Raise for a related object that has no key to store."""
    related = relation.get_cached_value(obj, default=None)
    if related is not None and getattr(related, relation.target_field.attname) is None:
        raise ValueError(f"The related {related._meta.label} is unsaved: save that first.")


def _check_sendable(column: Any, value: object) -> None:
    """Raise for what no driver sends, and which would break a transaction half-way."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(column, IntegerField) and value is not None and _is_unfit(column.name, value):
        raise ValueError("It has more than 64 bits.")


def shown(value: object) -> str:
    """Return a value for a message: short, and without the query that a queryset's repr sends."""
    is_asked = hasattr(value, "resolve_expression")
    return _short(f"<{type(value).__name__}>" if is_asked else repr(value))


def sentence_of(error: Exception) -> str:
    """Return what Django said, without a list's brackets."""
    return _short(" ".join(error.messages) if isinstance(error, ValidationError) else str(error))


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}…"


def check_upsert(
    model: type[Model], objs: Sequence[Model], *, match: Sequence[str], update: Sequence[str]
) -> None:
    """Refuse an upsert whose outcome would be an error half-way, or a guess.

    Raises: UnknownField; UsageError: no constraint covers `match`, or `update` has nothing to
    write or a column of `match`; DuplicateKeys.
    """
    check_columns(model, [*match, *update])
    label, targets = model._meta.label, [field_path(model, name).target for name in match]
    _check_unique(model, [each.name for each in targets])
    updated = {field_path(model, name).target for name in update}
    if computed := [each.name for each in updated if each.generated]:
        raise UsageError(f"{label}.{computed[0]} is generated by the database: leave it out.")
    if not updated or updated & {*targets, *model._meta.pk_fields}:
        raise UsageError(
            f"upsert_many on {label} needs the columns to update, and these may neither be the "
            "primary key nor what it matches by."
        )
    columns = [list(map(attrgetter(each.attname), objs)) for each in targets]
    _check_distinct(model, list(zip(*columns, strict=True)), ", ".join(match))


def check_distinct(model: type[Model], objs: Sequence[Model]) -> None:
    """Refuse a list in which one row stands twice: which of its objects should win?

    Raises: DuplicateKeys.
    """
    keys = [("new", id(obj)) if obj.pk is None else (obj.pk,) for obj in objs]
    _check_distinct(model, keys, "pk")


def _check_distinct(model: type[Model], keys: Sequence[tuple[object, ...]], named: str) -> None:
    if len(set(keys)) == len(keys):
        return
    times = Counter(keys).items()
    if twice := [key for key, count in times if count > 1 and None not in key]:
        raise DuplicateKeys(
            f"{len(twice)} keys ({named}) stand twice or more among the {model._meta.label} to "
            f"write, the first is {twice[0]!r}: keep one object for each.",
            keys=twice,
        )


def check_one_row_each(model: type[Model], objs: Sequence[Model], match: Sequence[str]) -> None:
    """Refuse objects of an upsert that turned out to be one row, once they have its key.

    Raises: DuplicateKeys.
    """
    if len({obj.pk for obj in objs}) < len(objs):
        raise one_row(model, match)


def one_row(model: type[Model], match: Sequence[str]) -> DuplicateKeys:
    """Return the refusal of two objects with `match` values that the database holds equal."""
    return DuplicateKeys(
        f"Two of the {model._meta.label} to write are one row by ({', '.join(match)}), as the "
        "database compares: nothing was written, keep one of them.",
        keys=[],
    )


@contextmanager
def keeping_states(objs: Sequence[Model]) -> Iterator[None]:
    """Give objects back the keys they had when the block fails: they have no other rows."""
    states = [(obj, obj.pk, obj._state.adding) for obj in objs]
    try:
        yield
    except BaseException:
        for obj, pk, adding in states:
            obj.pk, obj._state.adding = pk, adding
        raise


def _check_unique(model: type[Model], match: Sequence[str]) -> None:
    options, wanted = model._meta, set(match)
    keys = [{each.name} for each in options.concrete_fields if each.unique]
    keys.append({each.name for each in options.pk_fields})
    keys += [set(each) for each in options.unique_together]
    keys += [set(each.fields) for each in options.total_unique_constraints]
    if wanted not in keys:
        raise UsageError(
            f"upsert_many on {options.label} matches by ({', '.join(match)}), which no unique "
            "constraint covers: the database could not tell which row is meant."
        )
