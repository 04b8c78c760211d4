"""From live frames to a finding; done once for each, when it is found, and never a query."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from types import FrameType
from typing import Any

from django.conf import settings
from django.contrib.contenttypes.fields import GenericForeignKey
from django.db.models import Model
from django.db.models.deletion import Collector

from dbpatterns.queries.fingerprints import Statement, varying_columns
from dbpatterns.queries.frames import spots_from
from dbpatterns.queries.libraries import is_users, tail_of
from dbpatterns.queries.messages import fix_for
from dbpatterns.queries.report import Finding, Place
from dbpatterns.queries.routes import (
    method_at,
    onward,
    owners_in,
    route_to,
    rows_around,
    rows_expression,
)
from dbpatterns.queries.spots import Spot
from dbpatterns.queries.stacks import Stack
from dbpatterns.queries.subjects import Kind, attributes_of, field_named, owned_by, subject_of

__all__ = ["Source", "diagnose", "place_of"]

_CALLERS = 3
_HANDLER = "django/core/handlers/base.py"
_HANDLERS = ("_get_response", "_get_response_async")
_DELETES = Collector.delete.__code__
_MAKES = Model.__init__.__code__
_SETS = (Kind.MANY, Kind.QUERYSET)
Source = Callable[[type[Model]], Stack | None]
"""Says which stack read the last rows of a model in this scope."""


def diagnose(
    statement: Statement,
    sql: str,
    runs: Sequence[Any],
    stack: Stack,
    frame: FrameType,
    until: FrameType | None,
    *,
    database: str,
    source: Source,
) -> Finding:
    """Return the finding of a statement that is about to run once more."""
    doing = spots_from(frame, until)
    frames = list(doing)
    users = [each for each in frames if is_users(each.f_code.co_filename)]
    subject = subject_of(_up_to_user(frames), sql, database)
    if subject.kind is Kind.QUERYSET:  # a generic relation's queryset does not know its owner
        subject = next(
            (
                owned
                for owner, names in owners_in(doing)
                if (owned := owned_by(owner, subject, sql, database)).name in names
            ),
            subject,
        )
    if not subject.method and users and subject.related and subject.kind in _SETS:
        subject = replace(subject, method=method_at(doing[users[0]], subject.related))
    route: list[str] = []
    further: list[str] = []
    root, rows = None, 0
    if subject.instance is not None:
        if subject.kind is Kind.ONE:
            further = onward(doing, subject.instance, subject.name)
        route, root = route_to(doing, subject.instance)
        rows = rows_around(frames, root)
    read_by = source(type(root) if root is not None else subject.model) if subject.model else None
    relations = [field_named(type(root), name) for name in route[:1] if root is not None]
    columns = varying_columns(statement.template, runs[0], runs[1])
    if subject.model is not None and subject.kind in (Kind.QUERYSET, Kind.MODEL):
        columns = attributes_of(subject.model, columns, sql, database)
    prefetched = _detail(read_by, "prefetch") if read_by is not None else ()
    fix, after = fix_for(
        subject,
        route,
        prefetched[0] if prefetched else "",
        columns,
        further=further,
        form_field="".join(_detail(stack, "form")),
        is_write=statement.is_write,
        goes_by_prefetch=any(isinstance(each, GenericForeignKey) for each in relations)
        or any(each.f_code is _DELETES for each in frames),
        is_being_made=any(
            each.f_code is _MAKES and each.f_locals.get("self") is subject.instance
            for each in frames
        ),
    )
    template = _detail(stack, "template")
    field = _detail(stack, "serializer")
    blamed = users[0] if users else _outside_database(frames)
    place, filename = place_of(doing[blamed]), blamed.f_code.co_filename
    if template and is_users(template[0]) and _is_after_the_view(frames, blamed):
        place, filename = Place(_relative(template[0]), template[1]), template[0]
    return Finding(
        subject=subject.full_name,
        label=subject.label,
        place=place,
        callers=_callers(place, [doing[each] for each in users]),
        template=f"{_relative(template[0])}:{template[1]}" if template else "",
        serializer=".".join(field),
        rows_from="" if read_by is None else _rows_from(read_by),
        fix=fix,
        after=after,
        sql=statement.template,
        params=tuple(_told(each) for each in runs[:3]),
        database=database,
        is_write=statement.is_write,
        filename=filename,
        rows=rows,
    )


def place_of(spot: Spot) -> Place:
    """Return an instruction's file, relative to the project, line and function."""
    return Place(_relative(spot.code.co_filename), spot.line, spot.code.co_name)


def _up_to_user(frames: Sequence[FrameType]) -> Iterator[FrameType]:
    for frame in frames:
        if is_users(frame.f_code.co_filename):
            return
        yield frame


def _outside_database(frames: Sequence[FrameType]) -> FrameType:
    """Return the innermost frame of an installed package that is not the database layer."""
    layers = ("django/db/", "asgiref/")
    tails = ((each, tail_of(each.f_code.co_filename)) for each in frames)
    packages = [(each, tail) for each, tail in tails if "site-packages" in each.f_code.co_filename]
    return next((each for each, tail in packages if not tail.startswith(layers)), frames[0])


def _is_after_the_view(frames: Sequence[FrameType], blamed: FrameType) -> bool:
    """Tell whether no line of a view, only of middleware or of a test, has led to a template.

    So does a `ListView`, or a `TemplateResponse` that Django renders when the view has returned.
    """
    inside = takewhile(lambda frame: not _is_handler(frame), frames)
    return not is_users(blamed.f_code.co_filename) or all(each is not blamed for each in inside)


def _is_handler(frame: FrameType) -> bool:
    code = frame.f_code
    return code.co_name in _HANDLERS and tail_of(code.co_filename) == _HANDLER


def _callers(place: Place, users: Sequence[Spot]) -> tuple[Place, ...]:
    places = map(place_of, users)
    further = list(dict.fromkeys(each for each in places if each != place))
    return tuple(further[:_CALLERS])


def _rows_from(stack: Stack) -> str:
    template = _detail(stack, "template")
    if stack.user is None or (template and stack.is_in_template):
        return f"template {_relative(template[0])}:{template[1]}" if template else ""
    place = place_of(stack.user)
    expression = rows_expression(stack.user)
    return f"{expression}   {place.path}:{place.line}" if expression else str(place)


def _detail(stack: Stack, kind: str) -> tuple[Any, ...]:
    return next((tuple(rest) for first, *rest in stack.details if first == kind), ())


def _told(params: Any) -> Any:
    if isinstance(params, tuple | list) and len(params) == 1:
        return params[0]
    return params


def _relative(path: str) -> str:
    base = os.fspath(getattr(settings, "BASE_DIR", "") or os.getcwd())
    if tail := tail_of(path):
        return tail
    for root in (base, os.getcwd()):
        if path.startswith(root + os.sep):
            return path[len(root) + 1 :].replace(os.sep, "/")
    return path.replace(os.sep, "/")
