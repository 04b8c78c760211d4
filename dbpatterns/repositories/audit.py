"""Who made a row and who changed it last, and when: stamped by every way Django has to write.

    class Post(AuditedModel): ...

    with acting_as(user):
        post.save(update_fields=["title"])     # updated_at and updated_by are written as well
        Post.objects.filter(…).update(…)       # here too

Django's `auto_now` misses `save(update_fields=…)`, objects with deferred fields, `update()` and
`bulk_update()`. A web request acts as its user with the middleware
`dbpatterns.repositories.audit.acting_user_middleware`; a task says `acting_as`. Nobody acting is
NULL: who changed a row is never guessed. No write costs another query.

Not stamped: raw SQL, fixtures, what the database or an `on_delete` does by itself, `add()` and
`set()` of a related manager without `bulk=False`, and a manager whose query set is not an
AuditedQuerySet. A streaming response runs after the middleware, for nobody.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import models
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from django.utils.decorators import sync_and_async_middleware

from dbpatterns.errors import UsageError
from dbpatterns.repositories.errors import UnsavedObject

__all__ = [
    "AuditedManager",
    "AuditedModel",
    "AuditedQuerySet",
    "acting_as",
    "acting_user_middleware",
]

_M = TypeVar("_M", bound=models.Model, covariant=True)
_UPDATED = ("updated_at", "updated_by")


@dataclass(frozen=True, slots=True)
class _Acting:
    user: Callable[[], Any]
    """Asked when something is written: a request learns late who its user is."""
    at: datetime | None = None

    def stamp(self) -> tuple[datetime, Any]:
        """Return the instant and the user's key."""
        return self.at or timezone.now(), getattr(self.user(), "pk", None)


_NOBODY = _Acting(user=lambda: None)
_acting: ContextVar[_Acting] = ContextVar("dbpatterns_acting", default=_NOBODY)


@contextmanager
def acting_as(user: Any, *, at: datetime | None = None) -> Iterator[None]:
    """Stamp what is written in this block, thread or task with `user`; no query.

    Blocks nest, and follow `sync_to_async` and `asyncio.create_task`.

    Args:
        user: one of AUTH_USER_MODEL; None or an AnonymousUser for nobody.
        at: the instant to stamp, for imports; the moment of each write otherwise.
    Raises: UsageError: `user` is something else. UnsavedObject: the user has no row yet.
    """
    if user is not None and not isinstance(user, get_user_model()):
        if not getattr(user, "is_anonymous", False):
            raise UsageError(
                f"acting_as needs a {settings.AUTH_USER_MODEL} or None, not {type(user).__name__}."
            )
    elif user is not None and user.pk is None:
        raise UnsavedObject(f"This {user._meta.label} has no row to refer to: save it first.")
    with _set(_Acting(user=lambda: user, at=at)):
        yield


@contextmanager
def _set(acting: _Acting) -> Iterator[None]:
    token = _acting.set(acting)
    try:
        yield
    finally:
        _acting.reset(token)


@contextmanager
def _one_stamp() -> Iterator[tuple[datetime, Any]]:
    """Let all that one call writes have the same instant."""
    acting = _acting.get()
    at, by = acting.stamp()
    with _set(_Acting(user=acting.user, at=at)):
        yield at, by


@sync_and_async_middleware
def acting_user_middleware(get_response: Callable[[HttpRequest], Any]) -> Callable[..., Any]:
    """Let each request act as its `request.user`; put it anywhere in MIDDLEWARE.

    The user is read when something is first written, so a request that writes nothing loads no
    user, and who logs in during the request (a view, a REST framework) counts.
    """
    if iscoroutinefunction(get_response):

        async def handle_async(request: HttpRequest) -> HttpResponse:
            with _set(_Acting(user=lambda: getattr(request, "user", None))):
                response: HttpResponse = await get_response(request)
                return response

        return handle_async

    def handle(request: HttpRequest) -> HttpResponse:
        with _set(_Acting(user=lambda: getattr(request, "user", None))):
            response: HttpResponse = get_response(request)
            return response

    return handle


class AuditedQuerySet(QuerySet[_M]):
    """Writes that stamp; `get_or_create` and `update_or_create` do by `save()`."""

    stamped = _UPDATED
    """What `bulk_update` need not be told to write: a repository's `save_many` leaves it out."""

    def update(self, **kwargs: Any) -> int:
        """Update as Django does, and `updated_at` and `updated_by` unless they are given."""
        at, by = _acting.get().stamp()
        if not kwargs.keys() & {"updated_by", "updated_by_id"}:
            kwargs["updated_by"] = by
        return super().update(**{"updated_at": at, **kwargs})

    update.alters_data = True  # type: ignore[attr-defined]

    def bulk_create(
        self,
        objs: Iterable[_M],
        batch_size: int | None = None,
        ignore_conflicts: bool = False,
        update_conflicts: bool = False,
        update_fields: Collection[str] | None = None,
        unique_fields: Collection[str] | None = None,
    ) -> list[_M]:
        """Create as Django does, all rows stamped with one instant.

        With `update_conflicts` the rows updated get a new `updated_at` and `updated_by` and keep
        who created them.
        """
        objs = list(objs)
        with _one_stamp() as (at, by):
            for each in objs:
                _stamp_insert(each, at, by)
        if update_fields:
            update_fields = list(dict.fromkeys([*update_fields, *_UPDATED]))
        return super().bulk_create(
            objs, batch_size, ignore_conflicts, update_conflicts, update_fields, unique_fields
        )

    def bulk_update(
        self, objs: Iterable[_M], fields: Iterable[str], batch_size: int | None = None
    ) -> int:
        """Update as Django does, all rows, and the objects, stamped with one instant.

        Who names every column, as `save_many` does, does not mean the stamps.
        """
        objs, named = tuple(objs), tuple(fields)
        fields = tuple(each for each in named if each not in _UPDATED) or named
        with _one_stamp() as (at, by):  # Django's own calls update() for each batch
            count = super().bulk_update(objs, fields, batch_size)
        for each in objs:
            _stamp_update(each, at, by, given=fields)
        return count


AuditedManager = models.Manager.from_queryset(AuditedQuerySet)


class AuditedModel(models.Model):
    """Four columns that say who and when. They are stamped, never taken from the object.

    The two references are to AUTH_USER_MODEL, without a way back, and NULL once the user is gone.
    """

    created_at = models.DateTimeField(editable=False, blank=True)
    updated_at = models.DateTimeField(editable=False, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )
    updated_by = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        editable=False,
        related_name="+",
    )

    objects = AuditedManager()

    class Meta:
        abstract = True

    def save(
        self,
        *,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        """Save as Django does, stamped; `update_fields` need not name the stamps.

        An empty `update_fields` still saves nothing.
        """
        if update_fields is not None:
            update_fields = set(update_fields)
            update_fields |= set(_UPDATED) if update_fields else set()
        if update_fields is None or update_fields:
            stamp = _stamp_insert if self._state.adding else _stamp_update
            stamp(self, *_acting.get().stamp())
        super().save(
            force_insert=force_insert,
            force_update=force_update,
            using=using,
            update_fields=update_fields,
        )

    save.alters_data = True  # type: ignore[attr-defined]


def _stamp_insert(instance: Any, at: datetime, by: Any) -> None:
    instance.created_at = at
    instance.created_by_id = by
    _stamp_update(instance, at, by)


def _stamp_update(instance: Any, at: datetime, by: Any, *, given: Iterable[str] = ()) -> None:
    # Assigned, a deferred field counts as loaded, and Django saves it.
    if "updated_at" not in given:
        instance.updated_at = at
    if "updated_by" not in given:
        instance.updated_by_id = by
