"""An index that was thought of, as Django declares it: an object, a line of code, a migration."""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.db import migrations, models
from django.db.migrations.loader import MigrationLoader
from django.db.migrations.writer import MigrationWriter
from django.db.models.expressions import OrderBy
from django.db.models.functions import Lower, Upper

from dbpatterns.indexes.predicates import Condition, Key

__all__ = ["Candidate", "field_of", "migration"]

TRIGRAM = "gin_trgm_ops"
PREFIX = "text_pattern_ops"

_FUNCTIONS: dict[str, Any] = {"UPPER": Upper, "LOWER": Lower}


@dataclass(frozen=True, slots=True)
class Candidate:
    """An index worth trying."""

    model: type[models.Model]
    keys: tuple[Key, ...]
    conditions: tuple[Condition, ...] = ()
    include: tuple[str, ...] = ()
    opclass: str = ""
    """Of the last key: `TRIGRAM` for `LIKE '%x%'`, which makes it a GIN index, or `PREFIX`."""

    @property
    def is_trigram(self) -> bool:
        """Whether it is a GIN index of trigrams."""
        return self.opclass == TRIGRAM

    @property
    def is_expression(self) -> bool:
        """Whether Django needs expressions for it, and not names of fields."""
        return any(key.function or key.nulls_first is not None for key in self.keys)

    @property
    def needs_postgres_app(self) -> bool:
        """Whether Django renders it only with "django.contrib.postgres" installed."""
        return bool(self.is_expression and self.opclass)

    @property
    def name(self) -> str:
        """A name of at most 30 characters, the same each time."""
        table = self.model._meta.db_table.rpartition("_")[2]
        text = re.sub(r"\W+", "_", "_".join([table, *(key.column for key in self.keys)]))
        parts = (self.model._meta.db_table, self.keys, self.conditions, self.include, self.opclass)
        digest = hashlib.sha256(repr(parts).encode()).hexdigest()[:6]
        return f"{text[:19].strip('_0123456789') or 'advised'}_{digest}_idx"

    def as_index(self) -> models.Index:
        """Return the declaration as an object."""
        kind: Any = models.Index
        if self.is_trigram:
            from django.contrib.postgres.indexes import GinIndex as kind
        options: dict[str, Any] = {"name": self.name}
        if self.conditions:
            options["condition"] = models.Q(*self._lookups())
        if self.include:
            options["include"] = self._include()
        if self.is_expression:
            index: models.Index = kind(*map(self._expression, self.keys), **options)
            return index
        if self.opclass:
            options["opclasses"] = self._opclasses()
        index = kind(fields=self._fields(), **options)
        return index

    def as_code(self) -> str:
        """Return the declaration as a line for `Meta.indexes`."""
        arguments: list[str] = []
        if self.is_expression:
            arguments += map(self._expression_code, self.keys)
        else:
            arguments.append(f"fields={_code(self._fields())}")
            if self.opclass:
                arguments.append(f"opclasses={_code(self._opclasses())}")
        if self.conditions:
            lookups = ", ".join(f"{name}={_code(value)}" for name, value in self._lookups())
            arguments.append(f"condition=Q({lookups})")
        if self.include:
            arguments.append(f"include={_code(self._include())}")
        arguments.append(f"name={_code(self.name)}")
        return f"{'GinIndex' if self.is_trigram else 'models.Index'}({', '.join(arguments)})"

    def _fields(self) -> list[str]:
        return [
            f"{'-' if key.is_descending else ''}{field_of(self.model, key.column).name}"
            for key in self.keys
        ]

    def _opclasses(self) -> list[str]:
        return [*[""] * (len(self.keys) - 1), self.opclass]

    def _include(self) -> list[str]:
        return [field_of(self.model, each).name for each in self.include]

    def _lookups(self) -> list[tuple[str, str | int | bool]]:
        return [
            (f"{name}__isnull", not each.is_negated) if each.value is None else (name, each.value)
            for each in self.conditions
            for name in [field_of(self.model, each.column).name]
        ]

    def _expression(self, key: Key) -> Any:
        name = field_of(self.model, key.column).name
        expression: Any = _FUNCTIONS.get(key.function, models.F)(name)
        if self.opclass and key == self.keys[-1]:
            from django.contrib.postgres.indexes import OpClass

            return OpClass(expression, self.opclass)
        if key.is_descending or key.nulls_first is not None:
            return OrderBy(
                expression,
                descending=key.is_descending,
                nulls_first=key.nulls_first or None,
                nulls_last=key.nulls_first is False or None,
            )
        return expression

    def _expression_code(self, key: Key) -> str:
        name = _code(field_of(self.model, key.column).name)
        code = f"{_FUNCTIONS.get(key.function, models.F).__name__}({name})"
        if self.opclass and key == self.keys[-1]:
            return f"OpClass({code}, name={_code(self.opclass)})"
        nulls = {None: "", True: "nulls_first=True", False: "nulls_last=True"}[key.nulls_first]
        if key.is_descending or nulls:
            return f"{code}.{'desc' if key.is_descending else 'asc'}({nulls})"
        return code


def field_of(model: type[models.Model], column: str) -> "models.Field[Any, Any]":
    """Return the model's own field that has this column."""
    return next(each for each in model._meta.local_concrete_fields if each.column == column)


def migration(found: Iterable[Candidate], *, vendor: str) -> dict[str, str]:
    """Return for each app the text of one migration that adds its indexes.

    On PostgreSQL concurrently, so that writers go on, and outside a transaction, as that needs.
    """
    by_app: dict[str, list[Candidate]] = {}
    for each in found:
        by_app.setdefault(each.model._meta.app_label, []).append(each)
    leaves = MigrationLoader(None).graph.leaf_nodes() if by_app else []
    return {app: _text(app, own, leaves, vendor) for app, own in sorted(by_app.items())}


def _text(app: str, own: list[Candidate], leaves: list[tuple[str, str]], vendor: str) -> str:
    operation: Any = migrations.AddIndex
    if vendor == "postgresql":
        from django.contrib.postgres.operations import AddIndexConcurrently as operation
    options = {
        "dependencies": [leaf for leaf in leaves if leaf[0] == app],
        "operations": [operation(each.model._meta.model_name, each.as_index()) for each in own],
    }
    made = type("Migration", (migrations.Migration,), options)("advised_indexes", app)
    text = MigrationWriter(made, include_header=False).as_string().lstrip()
    if vendor == "postgresql":
        head = "class Migration(migrations.Migration):\n"
        text = text.replace(head, f"{head}\n    atomic = False\n", 1)
    return text


def _code(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_code, value))}]"
    if isinstance(value, str) and "'" not in repr(value)[1:-1] and '"' not in value:
        return f'"{repr(value)[1:-1]}"'
    return repr(value)
