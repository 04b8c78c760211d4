"""Field paths such as `author__name__icontains`: resolved once, refused with "did you mean"."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.models import Field, ForeignObjectRel, Model
from django.db.models.constants import LOOKUP_SEP

from dbpatterns.repositories.errors import UnknownField

__all__ = ["FieldPath", "field_path", "lookup_path", "names", "suggestion"]


@dataclass(frozen=True, slots=True)
class FieldPath:
    """A way from a model to one of its fields or of a related model's."""

    model: type[Model]
    name: str
    fields: tuple[Any, ...]
    """The fields passed, the last one is the target; relations may be reverse or generic."""

    @property
    def target(self) -> Any:
        """Return the last field."""
        return self.fields[-1]

    @property
    def is_column(self) -> bool:
        """Tell whether the target has a column of its own."""
        is_field = isinstance(self.target, Field) and not self.target.many_to_many
        return is_field and self.target.concrete

    @property
    def is_many(self) -> bool:
        """Tell whether one row may lead to several: a reverse or many-to-many relation."""
        return any(each.one_to_many or each.many_to_many for each in self.fields)

    @property
    def is_nullable(self) -> bool:
        """Tell whether the way may end in NULL: a nullable column, or an outer join before it."""
        return any(isinstance(each, ForeignObjectRel) or each.null for each in self.fields)


@lru_cache(maxsize=4096)
def field_path(model: type[Model], name: str) -> FieldPath:
    """Resolve a path that must end at a field; no query, once per model and name.

    Raises: UnknownField: names the model, what it has and what was probably meant.
    """
    path, rest = _walk(model, name)
    if rest:
        reached = path.target.related_model if path and path.target.is_relation else None
        raise _unknown(reached or model, rest[0], whole=name, start=model)
    assert path is not None
    return path


@lru_cache(maxsize=4096)
def lookup_path(model: type[Model], name: str) -> tuple[FieldPath, tuple[str, ...]]:
    """Split a filter's name into its field path and its transforms and lookup.

    Without a lookup the second part is empty, which means `exact`.
    Raises: UnknownField: the field, the transform or the lookup does not exist.
    """
    path, rest = _walk(model, name)
    if path is None:
        raise _unknown(model, rest[0], whole=name, start=model)
    current: Any = path.target
    for position, part in enumerate(rest):
        if isinstance(current, ForeignObjectRel) or not hasattr(current, "get_lookup"):
            current = getattr(current, "field", current)
        if position == len(rest) - 1 and current.get_lookup(part):
            return path, rest
        transform = current.get_transform(part)
        if transform is None:
            raise _unknown_lookup(path, current, part, model)
        current = getattr(transform, "output_field", None) or current
    return path, rest


def names(model: type[Model]) -> list[str]:
    """Return what a path may start with on this model, sorted."""
    return sorted({"pk", *(each.name for each in model._meta.get_fields())})


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'title'?`, or nothing when no name is close."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _walk(model: type[Model], name: str) -> tuple[FieldPath | None, tuple[str, ...]]:
    parts = name.split(LOOKUP_SEP)
    fields: list[Any] = []
    current: type[Model] | None = model
    for position, part in enumerate(parts):
        field = None if current is None else _field(current, part)
        if field is None:
            rest = tuple(parts[position:])
            reached = LOOKUP_SEP.join(parts[:position])
            return (FieldPath(model, reached, tuple(fields)) if fields else None), rest
        fields.append(field)
        current = field.related_model if field.is_relation else None
    return FieldPath(model, name, tuple(fields)), ()


def _field(model: type[Model], name: str) -> Any:
    if name == "pk":
        return model._meta.pk
    try:
        return model._meta.get_field(name)
    except FieldDoesNotExist:
        return None


def _unknown(model: type[Model], part: str, *, whole: str, start: type[Model]) -> UnknownField:
    known = names(model)
    through = f" (in {whole!r} from {start._meta.label})" if whole != part else ""
    return UnknownField(
        f"Unknown field {part!r} on {model._meta.label}{through}."
        f"{suggestion(part, known)} Known: {', '.join(known)}.",
        model=start._meta.label,
        field=whole,
    )


def _unknown_lookup(path: FieldPath, current: Any, part: str, model: type[Model]) -> UnknownField:
    target = path.target.related_model if path.target.is_relation else None
    if target is not None:  # `author__nam`: a field of the related model was meant
        return _unknown(target, part, whole=f"{path.name}__{part}", start=model)
    known: Sequence[str] = sorted(current.get_lookups())
    return UnknownField(
        f"Unknown lookup {part!r} for {path.name!r} on {model._meta.label}, "
        f"a {type(path.target).__name__}.{suggestion(part, known)} Known: {', '.join(known)}.",
        model=model._meta.label,
        field=path.name,
    )
