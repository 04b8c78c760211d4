"""Allowed N+1s: each with a reason, and with an end if it is not for ever."""

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.db.models import QuerySet

from dbpatterns.errors import ConfigurationError

__all__ = ["Allowed", "allow", "checked"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """One entry of an allow-list; made by `allow`."""

    what: str
    at: str
    sql: str
    reason: str
    until: str

    def matches(self, subject: str, path: str, sql: str) -> bool:
        """Tell whether all that the entry says fits; `subject` may end in a method."""
        return (
            (not self.what or fnmatchcase(subject, self.what) or self._is_owner_of(subject))
            and (not self.at or fnmatchcase(path, self.at) or fnmatchcase(path, f"*/{self.at}"))
            and (not self.sql or re.search(self.sql, sql) is not None)
        )

    def is_expired(self, today: datetime.date) -> bool:
        """Tell whether the last day has passed."""
        return bool(self.until) and datetime.date.fromisoformat(self.until) < today

    def _is_owner_of(self, subject: str) -> bool:
        """Tell whether the subject is a method of the field that the entry names."""
        return self.what.count(".") > 1 and fnmatchcase(subject.rpartition(".")[0], self.what)

    def __str__(self) -> str:
        given = [repr(self.what)] if self.what else []
        given += [
            f"{name}={getattr(self, name)!r}"
            for name in ("at", "sql", "reason", "until")
            if getattr(self, name)
        ]
        return f"allow({', '.join(given)})"


def allow(
    what: str = "", *, at: str = "", sql: str = "", reason: str = "", until: str = ""
) -> Allowed:
    """Allow an N+1 for a reason; give it to `guard(allow=[...])` or, as a dict, to the settings.

    Args:
        what: "blog.Post.author", as the message says it; `*` stands for anything.
        at: the file, "blog/views.py"; also a pattern.
        sql: a regular expression that the statement contains.
        reason: why; needed.
        until: the last day, "2027-01-01"; for ever if not given.
    Raises: ConfigurationError: nothing to match, no reason, no such date or expression.
    """
    entry = Allowed(what=what, at=at, sql=sql, reason=reason, until=until)
    for field in fields(Allowed):
        if not isinstance(getattr(entry, field.name), str):
            raise _broken(entry, f"{field.name} must be text")
    if not (what or at or sql):
        raise _broken(entry, 'say what it allows: "app.Model.field", at="file.py" or sql="..."')
    if not reason.strip():
        raise _broken(entry, "give a reason")
    try:
        if until:
            datetime.date.fromisoformat(until)
        re.compile(sql)
    except ValueError as error:
        raise _broken(entry, f"until is no date like 2027-01-01: {error}") from error
    except re.error as error:
        raise _broken(entry, f"sql is no regular expression: {error}") from error
    return entry


def checked(entries: Iterable[Allowed | Mapping[str, Any]]) -> tuple[Allowed, ...]:
    """Return entries, those of the settings too, after looking their models and fields up.

    Raises: ConfigurationError: an entry is broken, or names a model or field there is not.
    """
    if isinstance(entries, str | Mapping | Allowed) or not isinstance(entries, Iterable):
        raise ConfigurationError(f"The allow-list is {entries!r}: give a list of allow(...).")
    made = tuple(_made(entry) for entry in entries)
    for entry in made:
        label, _, name = entry.what.partition(".")
        if set("*?[") & set(entry.what) or entry.what in ("", "sql"):
            continue
        if not name:
            raise _broken(entry, 'name app.Model or app.Model.field, "sql" for raw SQL')
        model_name, _, field_name = name.partition(".")
        try:
            model = apps.get_model(label, model_name)
        except LookupError as error:
            raise _broken(entry, f"there is no model {label}.{model_name}") from error
        name = field_name.partition(".")[0]
        if name and not hasattr(model, name) and not hasattr(QuerySet, name):
            try:
                model._meta.get_field(name)
            except FieldDoesNotExist as error:
                raise _broken(entry, f"{label}.{model_name} has no {name!r}") from error
    return made


def _made(entry: object) -> Allowed:
    if isinstance(entry, Allowed):
        return entry
    if not isinstance(entry, Mapping):
        raise ConfigurationError(
            f"The allow-list has {entry!r}: give allow(...), or a dict of its arguments."
        )
    unknown = set(entry) - {field.name for field in fields(Allowed)}
    if unknown:
        raise ConfigurationError(
            f"The allow-list's entry {dict(entry)!r} has no {sorted(unknown)[0]!r}. "
            f"Known: {', '.join(field.name for field in fields(Allowed))}."
        )
    return allow(**entry)


def _broken(entry: Allowed, why: str) -> ConfigurationError:
    return ConfigurationError(f"{entry} is broken: {why}.")
