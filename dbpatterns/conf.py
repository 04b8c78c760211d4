"""Settings: one dict, `DBPATTERNS`, read through one frozen dataclass per pattern.

    DBPATTERNS = {"SHARDING": {"SHARDS": ["shard_0", "shard_1"]}}

A section is read when it is used, never at import, and forgotten when a test changes the
setting. An unknown or mistyped key is an error that lists the known ones: a typo must not
be silently the default.
"""

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Self

from django.apps import apps
from django.conf import settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from dbpatterns.errors import ConfigurationError

__all__ = ["SECTIONS", "Section", "problems", "require_installed"]

SECTIONS: Mapping[str, str] = {
    "IDEMPOTENCY": "dbpatterns.idempotency.conf.IdempotencySettings",
    "QUERIES": "dbpatterns.queries.conf.QueriesSettings",
    "REPOSITORIES": "dbpatterns.repositories.conf.RepositoriesSettings",
    "SHARDING": "dbpatterns.sharding.conf.ShardingSettings",
    "TRANSACTIONS": "dbpatterns.transactions.conf.TransactionsSettings",
}
"""Every section's key and where its dataclass lives, so that checks know those not imported."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One pattern's settings; subclass it with typed fields and their defaults."""

    key: ClassVar[str]
    """The section's name in `DBPATTERNS`."""
    app: ClassVar[str] = ""
    """The sub-app that reads the section; empty for a library, which needs no installing."""

    @classmethod
    def load(cls) -> Self:
        """Return the section as the settings have it now; one dict look-up once it is known.

        Raises: ConfigurationError: an unknown key, or a value of another type.
        """
        section = _load(cls)  # type: ignore[arg-type]  # a class is hashable
        assert isinstance(section, cls)
        return section


@cache
def _load(section: type[Section]) -> Section:
    values = _user_settings().get(section.key, {})
    found = list(_section_problems(section, values, f"DBPATTERNS[{section.key!r}]"))
    if found:
        raise ConfigurationError(" ".join(found))
    built: Section = _build(section, values)
    return built


def _build(section: type[Any], values: Mapping[str, Any]) -> Any:
    hints = typing.get_type_hints(section)
    return section(
        **{key.lower(): _converted(value, hints[key.lower()]) for key, value in values.items()}
    )


def _converted(value: Any, hint: Any) -> Any:
    if _is_tuple(hint):
        return tuple(value)
    if part := _part(hint):
        return {name: _build(part, values) for name, values in value.items()}
    if _is_mapping(hint):
        return {name: _converted(each, typing.get_args(hint)[1]) for name, each in value.items()}
    return value


def problems() -> Iterator[str]:
    """Yield one sentence for each thing wrong with `DBPATTERNS`; nothing when it is right."""
    user = getattr(settings, "DBPATTERNS", {})
    if not isinstance(user, Mapping):
        yield f"DBPATTERNS must be a dict of sections, not {type(user).__name__}."
        return
    for key, values in user.items():
        if key not in SECTIONS:
            yield f"DBPATTERNS has no section {key!r}.{_suggestion(key, SECTIONS)}"
            continue
        section: type[Section] = import_string(SECTIONS[key])
        yield from _section_problems(section, values, f"DBPATTERNS[{key!r}]")
        if section.app and not apps.is_installed(section.app):
            yield (
                f"DBPATTERNS[{key!r}] is set, but its app is missing: "
                f'add "{section.app}" to INSTALLED_APPS, or remove the section.'
            )


def require_installed(app: str) -> None:
    """Refuse to define a sub-app's models unless the sub-app is installed.

    Without this, Django files the models under the root app's label when only
    "dbpatterns" is installed: no table, no migration and no error.

    Raises: ConfigurationError: naming the line to add.
    """
    if not apps.is_installed(app):
        raise ConfigurationError(
            f'The models of {app} need its app: add "{app}" to INSTALLED_APPS.'
        )


def _user_settings() -> Mapping[str, Any]:
    user = getattr(settings, "DBPATTERNS", {})
    if not isinstance(user, Mapping):
        raise ConfigurationError(
            f"DBPATTERNS must be a dict of sections, not {type(user).__name__}."
        )
    return user


def _section_problems(section: type[Any], values: Any, where: str) -> Iterator[str]:
    if not isinstance(values, Mapping):
        yield f"{where} must be a dict, not {type(values).__name__}."
        return
    hints = typing.get_type_hints(section)
    known = {field.name.upper(): hints[field.name] for field in dataclasses.fields(section)}
    for key, value in values.items():
        if key not in known:
            yield f"{where} has no key {key!r}.{_suggestion(key, known)}"
        elif (part := _part(known[key])) and isinstance(value, Mapping):
            for name, values_of in value.items():
                yield from _section_problems(part, values_of, f"{where}[{key!r}][{name!r}]")
        elif not _matches(value, known[key]):
            is_dict = _is_mapping(known[key])
            expected = "dict" if is_dict else getattr(known[key], "__name__", str(known[key]))
            if _is_tuple(known[key]):
                expected = f"list of {typing.get_args(known[key])[0].__name__}"
            yield f"{where}[{key!r}] must be {expected}, not {value!r}."


def _matches(value: Any, hint: Any) -> bool:
    if _part(hint):
        return isinstance(value, Mapping)
    if _is_mapping(hint):
        item = typing.get_args(hint)[1]
        return isinstance(value, Mapping) and all(_matches(each, item) for each in value.values())
    if _is_tuple(hint):
        item = typing.get_args(hint)[0]
        return isinstance(value, list | tuple) and all(_matches(each, item) for each in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _part(hint: Any) -> type[Any] | None:
    """Return the dataclass of which a setting is a dict, by name."""
    value = typing.get_args(hint)[1] if _is_mapping(hint) else None
    return value if dataclasses.is_dataclass(value) else None  # type: ignore[return-value]


def _is_mapping(hint: Any) -> bool:
    return typing.get_origin(hint) is Mapping


def _is_tuple(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _suggestion(key: object, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(str(key).upper(), names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Known: {', '.join(names)}."


def _forget(*, setting: str, **_: object) -> None:
    if setting == "DBPATTERNS":
        _load.cache_clear()


setting_changed.connect(_forget, dispatch_uid="dbpatterns.conf")
