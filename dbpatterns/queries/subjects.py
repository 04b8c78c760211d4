"""What a query was for: the model, the field or relation, and the method, read from its frames.

Only frames between the query and the user's innermost line are looked at. A descriptor's `__get__`
says the field, a queryset of a related manager says its owner, and the owner's relations say which
of them the statement is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import Any

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.core.exceptions import FieldDoesNotExist
from django.db import connections
from django.db.models import ForeignObjectRel, ManyToManyField, ManyToManyRel, Model, QuerySet
from django.db.models.query import RawQuerySet

from dbpatterns._compat import hinted_instance
from dbpatterns.queries.libraries import tail_of

__all__ = ["Kind", "Subject", "attributes_of", "field_named", "owned_by", "subject_of"]

_FIELDS = "django/db/models/fields/related_descriptors.py"
_DEFERRED = "django/db/models/query_utils.py"
_GENERIC = "django/contrib/contenttypes/fields.py"
_MANAGER = "django/db/models/manager.py"
_QUERY = "django/db/models/query.py"
_MODEL = "django/db/models/base.py"


class Kind(StrEnum):
    """What has one fix."""

    ONE = "one"
    GENERIC = "generic"
    DEFERRED = "deferred"
    MANY = "many"
    QUERYSET = "queryset"
    PREFETCH = "prefetch"
    RAW = "raw"
    MODEL = "model"
    CURSOR = "cursor"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a query was for."""

    kind: Kind
    model: type[Model] | None = None
    name: str = ""
    """The field or relation; empty for a queryset of its own."""
    method: str = ""
    """What was called, without the `a` of async; empty when the rows were just read."""
    instance: Model | None = None
    """The object of the loop, when there is one."""
    related: type[Model] | None = None
    """The model of the rows read."""
    is_plain: bool = True
    """Whether a relation was read whole, without a filter or limit of its own."""
    is_filtered: bool = False
    """Whether only some of its rows were asked for, or counted."""

    @property
    def full_name(self) -> str:
        """What `allow` takes: "blog.Post.comments.count"."""
        label = self.model._meta.label if self.model else "sql"
        return ".".join(filter(None, (label, self.name, self.method)))

    @property
    def label(self) -> str:
        """What a person reads: "Post.comments.count()"."""
        if self.model is None:
            return "raw SQL"
        owner = self.model.__name__
        if self.kind in (Kind.QUERYSET, Kind.RAW):
            owner += ".objects"
        call = f"{self.method}()" if self.method else ""
        return ".".join(filter(None, (owner, self.name, call)))


def subject_of(frames: Iterable[FrameType], sql: str, database: str) -> Subject:
    """Return what the query sent from these frames, from the inside out, was for; no query.

    The outermost frame that says something wins: a descriptor calls a queryset's method.
    """
    subject = Subject(Kind.CURSOR)
    for frame in frames:
        tail, name = tail_of(frame.f_code.co_filename), frame.f_code.co_name
        if not tail.startswith("django/"):
            continue
        names = frame.f_locals
        owner, instance = names.get("self"), names.get("instance")
        if name == "__get__" and isinstance(instance, Model):
            subject = _of_descriptor(tail, owner, instance) or subject
        elif tail in (_FIELDS, _GENERIC, _MANAGER) and isinstance(
            getattr(owner, "instance", None), Model
        ):
            if not name.startswith("_") and name not in ("get_queryset", "all"):
                method = subject.method if name == "manager_method" else _sync_name(name)
                subject = _of_manager(owner, method)
        elif tail == _QUERY and name == "prefetch_related_objects" and "prefetch_to" in names:
            model = type(names["model_instances"][0])
            subject = Subject(Kind.PREFETCH, model, names["prefetch_to"], "prefetch")
        elif tail == _QUERY and isinstance(owner, RawQuerySet):
            subject = Subject(Kind.RAW, owner.model, "", "raw", related=owner.model)
        elif tail == _QUERY and isinstance(owner, QuerySet):
            method = "first" if _is_index(name, names) else _sync_name(name)
            subject = _of_queryset(owner, method, sql, database)
        elif (
            tail == _MODEL
            and isinstance(owner, Model)
            and not name.startswith("_")
            and name != "save_base"
        ):
            subject = Subject(Kind.MODEL, type(owner), "", _sync_name(name), owner, type(owner))
    return subject


def _of_descriptor(tail: str, descriptor: Any, instance: Model) -> Subject | None:
    model = type(instance)
    if tail == _FIELDS:
        field = getattr(descriptor, "field", None)
        if field is None:
            field = descriptor.related
        is_reverse = isinstance(field, ForeignObjectRel)
        name = _accessor(field) if is_reverse else field.name
        return Subject(Kind.ONE, model, name, instance=instance, related=field.related_model)
    if tail == _DEFERRED:
        return Subject(Kind.DEFERRED, model, descriptor.field.name, instance=instance)
    field = getattr(descriptor, "field", descriptor)  # the key itself before Django 6.1
    is_generic = isinstance(field, GenericForeignKey)
    return Subject(Kind.GENERIC, model, field.name, instance=instance) if is_generic else None


def _of_queryset(queryset: Any, method: str, sql: str, database: str) -> Subject:
    model, owner = queryset.model, hinted_instance(queryset)
    plain = Subject(Kind.QUERYSET, model, "", method, related=model)
    return plain if owner is None else owned_by(owner, plain, sql, database)


def owned_by(owner: Model, subject: Subject, sql: str, database: str) -> Subject:
    """Return a queryset's subject as a relation of its owner, as it is when it is none."""
    model = subject.related
    relation = _relation(owner, model, sql, database) if model else ""
    if not relation:
        return subject
    is_filtered = _condition(_whole(owner, relation)) != _condition(sql)
    return Subject(
        Kind.MANY,
        type(owner),
        relation,
        subject.method,
        owner,
        model,
        is_plain=not is_filtered and " LIMIT " not in sql,
        is_filtered=is_filtered,
    )


def _of_manager(manager: Any, method: str) -> Subject:
    owner, field = manager.instance, getattr(manager, "field", None)
    relation = manager.prefetch_cache_name if field is None else _accessor(field.remote_field)
    return Subject(Kind.MANY, type(owner), relation, method, owner, manager.model)


def _accessor(relation: Any) -> str:
    return relation.get_accessor_name() or ""


def _relation(owner: Model, model: type[Model], sql: str, database: str) -> str:
    """Return the accessor of the owner whose column the statement asks for."""
    quote = connections[database].ops.quote_name
    for field in type(owner)._meta.get_fields():
        if not (field.one_to_many or field.many_to_many):
            continue
        related = field.related_model
        if not isinstance(related, type) or not issubclass(model, related):
            continue
        table, column, name = _column(field)
        if f"{quote(table)}.{quote(column)} = " in sql:  # not among the columns read
            return name
    return ""


def _column(relation: Any) -> tuple[str, str, str]:
    """Return the table and column that hold a relation's key, and the relation's accessor."""
    field: Any = relation
    if isinstance(relation, GenericRelation):
        target: Any = field.related_model._meta.get_field(field.object_id_field_name)
        return target.model._meta.db_table, target.column, field.name
    if isinstance(relation, ManyToManyField):
        return field.m2m_db_table(), field.m2m_column_name(), field.name
    if isinstance(relation, ManyToManyRel):
        through = field.field
        return through.m2m_db_table(), through.m2m_reverse_name(), _accessor(field)
    table = field.field.model._meta.db_table
    return table, field.field.column or "", _accessor(field)


def _whole(owner: Model, relation: str) -> str:
    """Return the statement that `.all()` sends; builds a queryset and no query."""
    try:
        return str(getattr(owner, relation).all().query.sql_with_params()[0])
    except Exception:  # a manager of the user's own may do as it likes
        return ""


def _condition(sql: str) -> str:
    return sql.partition(" WHERE ")[2].partition(" ORDER BY ")[0].partition(" LIMIT ")[0]


def attributes_of(
    model: type[Model], columns: Iterable[str], sql: str, database: str
) -> frozenset[str]:
    """Return the model's attributes for columns it compares; an empty name for any other's."""
    quote, compared = connections[database].ops.quote_name, sql.partition(" WHERE ")[2]
    own = {
        field.column: field.attname
        for field in model._meta.concrete_fields
        if f"{quote(field.model._meta.db_table)}.{quote(field.column or '')}" in compared
    }
    return frozenset(own.get(column, "") for column in columns)


def _is_index(name: str, names: Mapping[str, Any]) -> bool:
    return name == "__getitem__" and isinstance(names.get("k"), int)


def _sync_name(name: str) -> str:
    if name.startswith(("_", "<")) or name in ("generator", "iterator", "aiterator"):
        return ""
    if name[0] == "a" and hasattr(QuerySet, name) and hasattr(QuerySet, name[1:]):
        return name[1:]
    return name.removeprefix("a") if name in _ASYNC_OF_MODELS else name


_ASYNC_OF_MODELS = ("asave", "adelete", "arefresh_from_db", "aadd", "aset", "aremove", "aclear")


def field_named(model: type[Model], name: str) -> Any:
    """Return a model's field or relation, None when it has none of that name."""
    try:
        return model._meta.get_field(name)
    except FieldDoesNotExist:
        return None
