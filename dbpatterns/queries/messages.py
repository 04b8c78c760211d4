"""What a finding says, and the table of fixes."""

import datetime
import re
from collections.abc import Collection, Sequence
from typing import Any

from django.db.models import ForeignObjectRel, Model

from dbpatterns.queries.report import Finding
from dbpatterns.queries.subjects import Kind, Subject

__all__ = ["describe", "fix_for", "shorten"]

_COLUMNS = re.compile(r"^(\(?SELECT\s+(?:DISTINCT\s+)?).*?\s+FROM\s", re.IGNORECASE | re.DOTALL)
_QUALIFIED = re.compile(r'["`]?\w+["`]?\.["`](\w+)["`]')
_MAX_SQL = 120
_MAX_VALUE = 40
_IN_PYTHON = (
    "values",
    "values_list",
    "in_bulk",
    "iterator",
    "union",
    "intersection",
    "difference",
)
"""Methods that ask the database although the rows are prefetched."""


def describe(finding: Finding) -> str:
    """Return the message: what, where, whence, and what to do; no query, a few µs."""
    noun = "writes" if finding.is_write else "queries"
    count = f"{finding.count} {noun}{'' if finding.is_complete else ' so far'}"
    where = f"template {finding.template}" if finding.template else ""
    where = f"serializer {finding.serializer}" if finding.serializer else where
    head = f"N+1: {count} for {finding.label}   {finding.place}"
    lines = [f"{head}  ({where})" if where else head]
    if finding.callers:
        lines.append(f"  called by   {', '.join(map(str, finding.callers))}")
    if finding.rows_from:
        lines.append(f"  rows from   {finding.rows_from}")
    lines.append(f"  fix         {finding.fix}      {_gain(finding)}")
    values = ", ".join(_value(each) for each in finding.params)
    params = f"   first {len(finding.params)} params: {values}" if finding.params else ""
    lines.append(f"  SQL         {shorten(finding.sql)}{params}")
    path, year = finding.place.path, datetime.date.today().year + 1
    lines.append(
        f'  silence     allow("{finding.subject}", at="{path}", reason=…, until="{year}-01-01")'
    )
    return "\n".join(lines)


def _gain(finding: Finding) -> str:
    noun = "write" if finding.is_write else "query"
    nouns = "writes" if finding.is_write else "queries"
    after = f"{finding.after} {noun if finding.after == 1 else nouns}"
    rows = finding.count if finding.is_complete else finding.rows
    if not rows:
        return f"{after} instead of one a row"
    return f"{after} instead of {rows if finding.is_write else rows + 1}"


def shorten(sql: str) -> str:
    """Return a statement for one line: no columns, quotes or table names before columns."""
    text = _COLUMNS.sub(lambda match: f"{match[1]}… FROM ", " ".join(sql.split()))
    text = _QUALIFIED.sub(r"\1", text).replace('"', "").replace("`", "")
    return text if len(text) <= _MAX_SQL else f"{text[: _MAX_SQL - 1]}…"


def _value(value: object) -> str:
    # Never str(): a value may be an object of the user's, whose __str__ queries.
    text = repr(value) if isinstance(value, str | bytes) else format_plain(value)
    return text if len(text) <= _MAX_VALUE else f"{text[: _MAX_VALUE - 1]}…"


def format_plain(value: object) -> str:
    """Return a value as text, only its type when it is a model's object."""
    if isinstance(value, Model):
        return f"<{type(value).__name__} {value.pk}>"
    try:
        return str(value)
    except Exception:
        return f"<{type(value).__name__}>"


def fix_for(
    subject: Subject,
    route: Sequence[str],
    prefetched: str,
    columns: Collection[str],
    *,
    is_write: bool,
    further: Sequence[str] = (),
    form_field: str = "",
    goes_by_prefetch: bool = False,
    is_being_made: bool = False,
) -> tuple[str, int]:
    """Return the fix in one line and the queries that are left.

    Args:
        route: the relations from the loop's rows to the object that queried.
        prefetched: the prefetch that read the loop's rows, if one did.
        goes_by_prefetch: whether no join can be had: for a generic key, or for rows to delete.
        is_being_made: whether the object that queried is still being read from its row.
        columns: those whose values differ from run to run, "" for one unknown.
        further: the relations to one that are asked next, on the same path.
        form_field: the field that each form of a formset asks for.
    """
    path = "__".join(filter(None, (prefetched, *route, subject.name, *further)))
    if is_write:
        return _write_fix(subject)
    if form_field:
        return (
            f"read the choices once for all forms and give each form's {form_field} a list: "
            f'form.fields["{form_field}"].choices = choices'
        ), 2
    if subject.kind is Kind.ONE and is_being_made:
        return f"follow {subject.name} later: while a row is made (post_init) no join is there", 1
    if subject.kind is Kind.ONE:
        if prefetched or goes_by_prefetch:
            return f'.prefetch_related("{path}")', 3
        return f'.select_related("{path}")', 1
    if subject.kind is Kind.GENERIC:
        return f'.prefetch_related("{path}")', 2
    if subject.kind is Kind.DEFERRED:
        return f'read "{subject.name}" with the rows: name it in .only(), or drop .defer()', 1
    if subject.kind is Kind.PREFETCH:
        return f'one prefetch_related_objects(rows, "{subject.name}") for all rows', 2
    if subject.kind is Kind.MANY and subject.name:
        return _many_fix(subject, path, prefetched, route)
    if subject.kind in (Kind.QUERYSET, Kind.MODEL) and subject.model is not None:
        return _queryset_fix(subject, columns)
    column = next(iter(columns), "") if len(columns) == 1 else ""
    column = column or "id"
    return f"one query before the loop: WHERE {column} IN (…), or = ANY(%s) on PostgreSQL", 2


def _many_fix(
    subject: Subject, path: str, prefetched: str, route: Sequence[str]
) -> tuple[str, int]:
    related = subject.related.__name__ if subject.related else "Model"
    name, method = subject.name, subject.method
    if method in ("add", "set", "remove", "clear"):
        return f"{_relation_fix(subject, f'{related}.objects')}, after one query of those there", 2
    if annotation := _annotation(subject, related, "__".join((*route, name)), "__".join(route)):
        if not prefetched:
            return f".annotate({annotation})", 1
        assert subject.model is not None
        rows = f"{subject.model.__name__}.objects.annotate({annotation})"
        return f'.prefetch_related(Prefetch("{prefetched}", queryset={rows}))', 2
    if method in ("first", "last", "latest", "earliest", "get") or method == "__getitem__":
        return (
            f'.prefetch_related("{path}") and take it from {name}.all() in Python, or annotate '
            f'a Subquery({related}.objects.filter({_back(subject)}=OuterRef("pk"))[:1])'
        ), 2
    if method == "get_or_create":
        return f'.prefetch_related("{path}") and look in {name}.all(), then bulk_create()', 2
    if method in _IN_PYTHON:
        return (
            f'.prefetch_related("{path}") and take it from {name}.all() in Python: {method}() '
            "asks the database again"
        ), 2
    if subject.is_plain and method in ("", "only", "defer"):
        if _is_tree(subject):
            return (
                f'.prefetch_related("{path}__{name}"), as deep as the tree is, or read all of it '
                "at once"
            ), 3
        return f'.prefetch_related("{path}")', 2
    return (
        f'.prefetch_related(Prefetch("{path}", queryset={related}.objects.{method or "filter"}(…), '
        f'to_attr="some_{name}"))'
    ), 2


def _is_tree(subject: Subject) -> bool:
    """Tell whether the rows' owner was itself read by this relation, so that a level follows."""
    back = getattr(subject.model, subject.name).field if subject.model is subject.related else None
    return back is not None and subject.instance is not None and back.is_cached(subject.instance)


def _annotation(subject: Subject, related: str, path: str, owner: str) -> str:
    name, method = subject.name, subject.method
    some = ", filter=Q(…)" if subject.is_filtered else ""
    if method == "count":
        return f'{name}_count=Count("{path}"{some}, distinct=True)'
    if method in ("exists", "contains"):
        more = ", …" if subject.is_filtered or method == "contains" else ""
        outer = f'{_back(subject)}=OuterRef("{owner or "pk"}"){more}'
        return f"has_{name}=Exists({related}.objects.filter({outer}))"
    if method == "aggregate":
        return f'total=Sum("{path}__…"{some})'
    return ""


def _back(subject: Subject) -> str:
    """Return the lookup from the related rows to their owner."""
    assert subject.model is not None
    for each in subject.model._meta.get_fields():
        if isinstance(each, ForeignObjectRel) and each.get_accessor_name() == subject.name:
            return str(each.field.name)
    field: Any = subject.model._meta.get_field(subject.name)
    return str(getattr(field, "object_id_field_name", "") or field.related_query_name())


def _queryset_fix(subject: Subject, columns: Collection[str]) -> tuple[str, int]:
    assert subject.model is not None
    objects, method = f"{subject.model.__name__}.objects", subject.method
    if method == "refresh_from_db":
        return f"read the rows again at once: {objects}.filter(pk__in=…)", 2
    if method == "update_or_create":
        return (
            f"one {objects}.bulk_create(rows, update_conflicts=True, unique_fields=[…], "
            "update_fields=[…])"
        ), 2
    keys = {field.attname for field in subject.model._meta.pk_fields}
    if method == "in_bulk" or (columns and keys.issuperset(columns)):
        lookup = "pk"
    elif len(columns) == 1 and "" not in columns:
        (lookup,) = columns
    else:
        return f"one {objects}.filter(…) for all the values before the loop, told apart after", 2
    if method in ("get", "first", "last", "in_bulk") or (method == "filter" and lookup == "pk"):
        if lookup == "pk":
            return f"one {objects}.in_bulk(ids) before the loop", 2
        return f"one {objects}.filter({lookup}__in=…) before the loop, into a dict by {lookup}", 2
    if method == "count":
        return f'one {objects}.values("{lookup}").annotate(count=Count("pk")) before the loop', 2
    if method in ("exists", "contains"):
        return f'one set({objects}.filter({lookup}__in=…).values_list("{lookup}", flat=True))', 2
    if method == "aggregate":
        return f'one {objects}.values("{lookup}").annotate(…) before the loop', 2
    if method == "get_or_create":
        return f"one {objects}.filter({lookup}__in=…), then bulk_create() of those not there", 2
    return f"one {objects}.filter({lookup}__in=…) before the loop", 2


def _write_fix(subject: Subject) -> tuple[str, int]:
    if subject.model is None:
        return "one statement for all rows: cursor.executemany(), or VALUES of many rows", 1
    name = (subject.related or subject.model).__name__
    objects, method = f"{name}.objects", subject.method
    rows = f"{_back(subject)}__in=…" if subject.kind is Kind.MANY else "pk__in=ids"
    if method == "delete":
        return f"one {objects}.filter({rows}).delete()", 1
    if method in ("create", "get_or_create", "bulk_create"):
        return f"one {objects}.bulk_create(rows)", 1
    if method == "update_or_create":
        return f"one {objects}.bulk_create(rows, update_conflicts=True, …)", 1
    if method == "update":
        return f"one {objects}.filter({rows}).update(…), or bulk_update() of the rows", 1
    if subject.name:
        return _relation_fix(subject, objects), 1
    instance = subject.instance
    if instance is not None and instance._state.adding:
        return f"one {objects}.bulk_create(rows)", 1
    return f"one {objects}.bulk_update(rows, [fields])", 1


def _relation_fix(subject: Subject, objects: str) -> str:
    """Return the fix of `add`, `set`, `remove` and `clear`, for keys and for tables between."""
    assert subject.model is not None
    is_less = subject.method in ("remove", "clear")
    if not hasattr(getattr(subject.model, subject.name), "through"):
        value = "None" if is_less else "…"
        return f"one {objects}.filter(pk__in=ids).update({_back(subject)}={value})"
    through = f"{subject.model.__name__}.{subject.name}.through"
    return (
        f"one {through}.objects.filter(…).delete()"
        if is_less
        else f"one bulk_create() of {through}"
    )
