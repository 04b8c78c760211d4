"""What a statement is, without its values, and whether running it again is progress.

The template is the SQL as sent, with LIMIT and OFFSET, so that two pages are two statements.
Values that somebody wrote into the text himself are taken out of it, unless they are such bounds.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["Statement", "is_progress", "read_statement", "varying_columns"]

_COMMENT = re.compile(r"('(?:[^']|'')*')|/\*.*?\*/|--[^\n]*", re.DOTALL)
# Functions that are called for what they do, with another key each time.
_CALL = re.compile(
    r"SELECT\s+(?:pg_(?:try_)?advisory\w*|pg_notify|set_config|nextval|setval)\s*\(", re.I
)
_LITERAL = re.compile(
    r"""(?P<kept>"[^"]*"|`[^`]*`|\b(?:LIMIT|OFFSET)\s+\d+)"""
    r"""|'(?P<text>(?:[^']|'')*)'|(?<![\w$."])(?P<number>\d+(?:\.\d+)?)(?![\w"])""",
    re.IGNORECASE,
)
_WRITE = re.compile(r"\b(?:INSERT|UPDATE|DELETE|MERGE|REPLACE)\b", re.IGNORECASE)
_TOKEN = re.compile(r"""\(|\)|'(?:[^']|'')*'|%s|%\((?P<name>\w+)\)s""")
_COMPARED = re.compile(
    r"(\w+)[\"`]?(?:::\w+)?\)?\s*(=|<>|!=|<=|>=|<|>|\bIN\b|\bLIKE\b)"
    r"\s*(?:ANY\s*|UPPER|LOWER)?\(?$",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"(\w+)[\"`]?\)?\s+BETWEEN(?:\s+%s\s+AND)?$", re.IGNORECASE)
# What Django writes where a database has no row values: (id = 1 OR id = 2)
_ALTERNATIVES = re.compile(r"\((\S+ = %s|\([^()]+\))(?: OR \1)+\)")
_AGGREGATE = re.compile(r"SELECT\s+(?:COUNT|SUM|AVG|MIN|MAX)\s*\(", re.IGNORECASE)
_POSITION = re.compile(r"(?:^|,)\s*(\d+)\b")
_SELECTED = re.compile(r"\sFROM\s", re.IGNORECASE)
_ALIAS = re.compile(r'"(\w+)" AS "(\w+)"')
_RANGES = ("<", ">", "<=", ">=", "BETWEEN")
_KEY = re.compile(r"id|pk|uuid|\w+_ptr_id", re.IGNORECASE)
_ROW = re.compile(r"\(([^()]+)\)\s*([<>]=?|=)\s*\(([^()]*)$")
_MANY = re.compile(r"\bIN\s*\([^()]*%s[^()]*%s|\)\s*,\s*\(|\bUNNEST\s*\(", re.IGNORECASE)
_PAGE = re.compile(r"\bLIMIT\s+(?!1\b)(?:\d+|%s)", re.IGNORECASE)
_BOUND = re.compile(r"\b(LIMIT|OFFSET)$", re.IGNORECASE)
_BOUNDS = ("LIMIT", "OFFSET")
_ORDER = re.compile(r"\bORDER\s+BY\b(?P<terms>[^()]*)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement's template, and the values that were written into its text."""

    template: str
    is_write: bool
    literals: tuple[str, ...]


@lru_cache(maxsize=2048)
def read_statement(sql: str, has_params: bool) -> Statement | None:
    """Return what a statement is; None when it is neither a query nor a write of rows."""
    template = sql
    if "/*" in sql or "--" in sql:
        template = _COMMENT.sub(lambda match: match[1] or "", sql)
    template = template.strip()
    verb = template.lstrip("( ")[:6].upper()
    is_write = verb in ("INSERT", "UPDATE", "DELETE", "REPLAC", "MERGE ")
    if verb.startswith("WITH"):
        is_write = _WRITE.search(template) is not None
    elif not is_write and (verb not in ("SELECT", "VALUES", "TABLE ") or _CALL.match(template)):
        return None
    literals: list[str] = []
    if not has_params:

        def take_out(match: re.Match[str]) -> str:
            if match["kept"]:
                return match[0]
            literals.append(match["number"] or match["text"])
            return "%s"

        template = _LITERAL.sub(take_out, template)
    return Statement(template, is_write, tuple(literals))


def is_progress(statement: Statement, before: Any, now: Any) -> bool:
    """Tell whether a second run takes the next page or the next batch, not the next row.

    Looks at the values that differ. Members of a list of two or more, arrays and rows of a
    multi-row write are batches. Bounds on a column the rows are ordered by, with a LIMIT above
    one, and any OFFSET are pages.
    """
    template = statement.template
    if statement.is_write and _MANY.search(template):
        return True
    differing = _differing(template, before, now)
    if not differing:
        return differing is not None
    differing = [mark for mark in differing if mark.operator not in _BOUNDS]
    if not differing:
        return True
    if not any(mark.operator in _RANGES for mark in differing):
        return False
    if not _PAGE.search(template):  # from one key to another is a batch, from day to day is none
        return all(
            mark.operator in _RANGES and _KEY.fullmatch(mark.column) for mark in differing
        ) and _is_bounded(template, differing)
    order = _ORDER.search(template)
    if order is None:
        return all(mark.operator in _RANGES for mark in differing)
    terms = order["terms"]
    if positions := _POSITION.findall(terms):  # Django's way to order what values() returns
        columns = _SELECTED.split(template)[0].split(",")
        terms += " ".join(columns[int(each) - 1] for each in positions if int(each) <= len(columns))
    terms += " ".join(column for column, alias in _ALIAS.findall(template) if alias in terms)
    return all(
        re.search(rf"\b{re.escape(mark.column)}\b", terms) for mark in differing if mark.column
    )


def _is_bounded(template: str, differing: Sequence["_Mark"]) -> bool:
    return len(differing) > 1 and not _AGGREGATE.match(template)


def varying_columns(template: str, before: Any, now: Any) -> frozenset[str]:
    """Return the columns whose values differ from run to run; an empty name is one unknown."""
    return frozenset(mark.column for mark in _differing(template, before, now) or ())


def differ(one: Any, other: Any) -> bool:
    """Compare two values, also such as refuse to be compared."""
    try:
        return bool(one != other)
    except Exception:
        return True


@dataclass(frozen=True, slots=True)
class _Mark:
    """A value's place in a template."""

    name: str
    is_of_list: bool
    column: str = ""
    operator: str = ""


def _differing(template: str, before: Any, now: Any) -> list[_Mark] | None:
    """Return the marks outside lists whose values differ, None when values cannot be placed."""
    marks = _marks(template)
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        before, now = ([values.get(mark.name) for mark in marks] for values in (before, now))
    if not len(marks) == len(before) == len(now):
        return None
    return [
        mark
        for mark, old, new in zip(marks, before, now, strict=True)
        if not mark.is_of_list
        and differ(old, new)
        and not (isinstance(new, list | tuple) and len(new) > 1)
    ]


@lru_cache(maxsize=512)
def _marks(template: str) -> tuple[_Mark, ...]:
    found: list[re.Match[str]] = []
    in_lists: set[int] = set()
    groups: list[_Group | None] = [None]
    for token in _TOKEN.finditer(template):
        if token[0] == "(":
            outer = groups[-1]
            before = template[max(token.start() - 5, 0) : token.start()].rstrip()
            is_list = before[-3:].upper() == " IN"
            groups.append(_Group([]) if is_list else outer)
            if outer is not None:
                outer.rows += 1  # a row value is one member
        elif token[0] == ")":
            group = groups.pop() if len(groups) > 1 else None
            if group is not None and group is not groups[-1] and group.rows > 1:
                in_lists.update(group.members)
        elif token[0].startswith("%"):
            group = groups[-1]
            if group is not None:
                group.rows += group is not groups[-2]
                group.members.append(len(found))
            found.append(token)
    spans = [match.span() for match in _ALTERNATIVES.finditer(template)]
    return tuple(
        _Mark(match["name"] or "", True)
        if number in in_lists or any(start < match.start() < end for start, end in spans)
        else _Mark(match["name"] or "", False, *_compared(template[: match.start()]))
        for number, match in enumerate(found)
    )


@dataclass(slots=True)
class _Group:
    """The list of an IN while it is read."""

    members: list[int]
    rows: int = 0


def _compared(prefix: str) -> tuple[str, str]:
    text = prefix[-300:].rstrip()
    if match := _BOUND.search(text):
        return "", match[1].upper()
    if match := _BETWEEN.search(text):
        return match[1], "BETWEEN"
    if match := _ROW.search(text):
        columns = match[1].split(",")
        column = columns[min(match[3].count(","), len(columns) - 1)]
        return column.strip().split(".")[-1].strip('"`'), match[2]
    if match := _COMPARED.search(text):
        return match[1], match[2].upper()
    return "", ""
