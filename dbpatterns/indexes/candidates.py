"""From what the queries ask of a table to the few indexes that are worth trying.

Columns go in the order equality, then sort or range, then INCLUDE: the only order in which one
range of a B-tree holds all the rows and nothing else, already sorted.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from django.db import models

from dbpatterns.indexes.catalog import ExistingIndex, Table, plain
from dbpatterns.indexes.declaring import Candidate, field_of
from dbpatterns.indexes.predicates import Access, Condition, Key

__all__ = ["candidates", "is_served", "redundant"]

MAX_KEYS = 3
MAX_INCLUDE = 3
INCLUDE_BYTES = 64
"""Of all included values of a row: the index is to stay smaller than its table."""
PARTIAL_ROWS = 0.2
"""A partial index must leave out four fifths of the rows: else a whole one serves more queries."""
PARTIAL_QUERIES = 0.9
"""The part of the table's queries that must ask for a condition: others could not use the index.

Of those queries only that no index serves yet."""
CONSTANT_CALLS = 20
"""Calls that must have had the same value before it is taken for a constant."""
CONSTANT_VALUES = 20
"""Values that a column of constants has at most."""


def candidates(
    model: type[models.Model],
    table: Table,
    asked: Mapping[Access, int],
    *,
    vendor: str,
) -> Iterator[tuple[Candidate, list[Access]]]:
    """Yield each candidate with the accesses it is for; `asked` counts the calls of each."""
    known = {str(field.column) for field in model._meta.local_concrete_fields}
    narrowed = {access: _only(access, known) for access in asked}
    unserved = {
        access: only
        for access, only in narrowed.items()
        if only.is_selective() and not is_served(only, table)
    }
    votes: Counter[Condition] = Counter()
    for access, only in unserved.items():
        votes.update(dict.fromkeys(only.conditions, asked[access]))
    enough = PARTIAL_QUERIES * sum(asked[access] for access in unserved)
    usual = [
        each
        for each, calls in votes.items()
        if calls >= enough
        and _part(table, each) < PARTIAL_ROWS
        and _is_constant(model, table, each, calls)
    ]
    usual.sort(key=lambda each: (_part(table, each), str(each)))
    found: dict[Candidate, list[Access]] = {}
    for access, only in unserved.items():
        constant = tuple(each for each in usual if each in only.conditions)
        for candidate in _of(model, table, only, constant, vendor):
            found.setdefault(candidate, []).append(access)
    yield from _merged(found)


def is_served(access: Access, table: Table) -> bool:
    """Tell whether an index that is there has what the access asks for as its prefix."""
    return any(_serves(index, access) for index in table.indexes)


def redundant(indexes: Sequence[ExistingIndex]) -> Iterator[tuple[ExistingIndex, ExistingIndex]]:
    """Yield each index that another one can stand in for, with that other.

    Unique ones stay: they are constraints. Of two that are equal the later name is the one.
    """
    for index in indexes:
        for other in sorted(indexes, key=lambda each: len(each.keys)):
            size = len(index.keys)
            is_equal = other.keys == index.keys and not other.is_unique
            if (
                index is not other
                and not index.is_unique
                and index.method == other.method
                and index.predicate == other.predicate
                and index.keys == other.keys[:size]
                and index.descending == other.descending[:size]
                and index.details == other.details[:size]
                and index.include <= other.include | set(other.keys)
                and (not is_equal or index.include < other.include or index.name > other.name)
                and (index.method == "btree" or is_equal)
            ):
                yield index, other
                break


def _only(access: Access, known: set[str]) -> Access:
    """Leave out what is no column of the model: an alias, or a column of another table."""
    order = access.order if all(key.column in known for key in access.order) else ()
    return replace(
        access,
        equals=frozenset(key for key in access.equals if key.column in known),
        ranges=frozenset(key for key in access.ranges if key.column in known),
        prefixes=frozenset(key for key in access.prefixes if key.column in known),
        patterns=frozenset(key for key in access.patterns if key.column in known),
        conditions=frozenset(each for each in access.conditions if each.column in known),
        order=order,
    )


def _of(
    model: type[models.Model],
    table: Table,
    access: Access,
    constant: tuple[Condition, ...],
    vendor: str,
) -> Iterator[Candidate]:
    if vendor == "postgresql":
        for key in sorted(access.patterns, key=str):
            if _is_text(model, key.column):
                yield Candidate(model, (key,), constant, opclass="gin_trgm_ops")
    fixed = {each.column for each in constant}
    equals = sorted(
        (key for key in access.equals if key.column not in fixed),
        key=lambda key: (-_distinct(table, key.column), key.column, key.function),
    )[:MAX_KEYS]
    rest, opclass = _after(model, access, equals, vendor)
    keys = (*equals, *rest)[:MAX_KEYS]
    if len(equals) == MAX_KEYS:
        opclass = ""
    if not keys and constant and not access.patterns:
        keys = (Key(str(model._meta.pk.column)),)
    if keys:
        include = () if opclass else _include(access, table, keys, constant, vendor)
        yield Candidate(model, keys, constant, include, opclass)


def _after(
    model: type[models.Model], access: Access, equals: Sequence[Key], vendor: str
) -> tuple[list[Key], str]:
    same = {key.unsorted() for key in equals}
    order = [key for key in access.order if key.unsorted() not in same]
    ranges = sorted(access.ranges - same, key=str)
    if order and (not ranges or order[0].unsorted() in access.ranges):
        return order, ""
    prefixes = sorted(access.prefixes, key=str)
    if prefixes and vendor == "postgresql" and _is_text(model, prefixes[0].column):
        return prefixes[:1], "text_pattern_ops"
    return ranges[:1] or order, ""


def _include(
    access: Access, table: Table, keys: Sequence[Key], constant: Sequence[Condition], vendor: str
) -> tuple[str, ...]:
    if vendor != "postgresql" or access.columns is None or any(key.function for key in keys):
        return ()
    more = access.columns - {key.column for key in keys} - {each.column for each in constant}
    width = sum(table.columns[each].width_bytes for each in more if each in table.columns)
    return tuple(sorted(more)) if len(more) <= MAX_INCLUDE and width <= INCLUDE_BYTES else ()


def _merged(
    found: Mapping[Candidate, list[Access]],
) -> Iterator[tuple[Candidate, list[Access]]]:
    """Leave out a candidate that is the beginning of another one, which serves both."""
    for candidate, own in found.items():
        if longer := [each for each in found if _begins(candidate, each)]:
            found[max(longer, key=lambda each: (len(each.keys), len(each.include)))].extend(own)
    for candidate, own in found.items():
        if not any(_begins(candidate, each) for each in found):
            yield candidate, list(dict.fromkeys(own))


def _begins(short: Candidate, longer: Candidate) -> bool:
    size = len(short.keys)
    return (
        short != longer
        and (short.conditions, short.opclass) == (longer.conditions, longer.opclass)
        and short.keys == longer.keys[:size]
        and (size < len(longer.keys) or set(short.include) < set(longer.include))
        and set(short.include) <= set(longer.include) | {key.column for key in longer.keys}
    )


def _serves(index: ExistingIndex, access: Access) -> bool:
    met = {text for each in access.conditions for text in _spellings(each)}
    equals = {_key_as_plain(key) for key in access.equals}
    if not index.predicate <= met:
        return False
    if index.is_unique and set(index.keys) <= equals:
        return True
    if access.patterns or access.prefixes or index.method != "btree":
        return False
    equals -= {each.removeprefix("not ").partition(" ")[0] for each in index.predicate}
    same = min(len(equals), MAX_KEYS)  # of more columns a candidate has no more either
    if not set(index.keys[:same]) <= equals or len(index.keys) < same:
        return False
    rest = list(zip(index.keys, index.descending, strict=True))[same:]
    order = [
        (_key_as_plain(key), key.is_descending)
        for key in access.order
        if _key_as_plain(key) not in equals
    ][: MAX_KEYS - same]
    ranges = {_key_as_plain(key) for key in access.ranges} - equals
    if same < MAX_KEYS and (order or ranges):
        turned = [(name, not is_descending) for name, is_descending in order]
        has_order = bool(order) and rest[: len(order)] in (order, turned)
        has_range = bool(rest) and rest[0][0] in ranges
        return has_order if not ranges or (order and order[0][0] in ranges) else has_range
    return bool(equals or index.predicate)


def _key_as_plain(key: Key) -> str:
    return plain(f"{key.function} {key.column}")


def _spellings(condition: Condition) -> set[str]:
    """Return how a database may have written the condition down."""
    value = condition.value
    if isinstance(value, str):
        value = value.replace("'", "''")
        return {f"{condition.column.lower()} = '{value}'"}
    sql, params = condition.as_sql(lambda name: name)
    found = {plain(sql % tuple(params))}
    if isinstance(value, bool):
        found.add(f"{condition.column.lower()} = {value:d}")  # SQLite, since Django 6.1
    return found


def _is_constant(model: type[models.Model], table: Table, condition: Condition, calls: int) -> bool:
    """Tell whether a value is the program's, as a status is, and not one of many users'."""
    if condition.value is None or isinstance(condition.value, bool):
        return True
    field = field_of(model, condition.column)
    return (
        calls >= CONSTANT_CALLS
        and table.columns[condition.column].distinct <= CONSTANT_VALUES
        and not (field.is_relation or field.unique)
    )


def _part(table: Table, condition: Condition) -> float:
    part = table.part_of(condition)
    return 1.0 if part is None else part


def _distinct(table: Table, column: str) -> float:
    return table.columns[column].distinct if column in table.columns else 0


def _is_text(model: type[models.Model], column: str) -> bool:
    return isinstance(field_of(model, column), models.CharField | models.TextField)
