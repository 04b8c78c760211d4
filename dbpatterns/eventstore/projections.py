"""Projections: rows made from events, that can be thrown away and made again.

    class Statement(Projection):
        name = "statement"
        model = StatementLine

        def apply(self, event, *, generation, using):
            if event.type == "MoneyMoved":
                StatementLine.objects.using(using).create(generation=generation, **event.data)

Where it has read to is kept beside the rows and moves in their transaction, so that each event
has its effect once whatever is killed and however many run. A module `projections` of an
installed app is imported at start.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

from django.db import router, transaction
from django.db.models import Model, QuerySet

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.eventstore.models import ProjectionState
from dbpatterns.eventstore.reading import Checkpoint, RecordedEvent, read_all

__all__ = ["Projection", "catch_up", "find", "live_state", "registered"]

_registered: dict[str, type["Projection"]] = {}


class Projection:
    """What to do with each event; subclass it, with a name and a model."""

    name: ClassVar[str]
    """Its own, for good: the checkpoint is kept under it."""
    model: ClassVar[type[Model]]
    """A `ProjectedModel`, on the database of the events."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in cls.__dict__:
            return  # a base of others, or the same projection with a difference
        known = _registered.setdefault(cls.name, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise UsageError(
                f"Two projections have the name {cls.name!r}, {known.__qualname__} and "
                f"{cls.__qualname__}, and would share a checkpoint: rename one."
            )
        _registered[cls.name] = cls

    def apply(self, event: RecordedEvent, *, generation: int, using: str) -> None:
        """Write what the event means, into rows of this generation only, on this database.

        Nothing else: no mail, no other database. It runs in a transaction that readers of all
        streams wait for, so be quick. An exception undoes the page, and the next run meets it
        again.
        """
        raise NotImplementedError

    def apply_page(self, events: Sequence[RecordedEvent], *, generation: int, using: str) -> None:
        """Write what a page of events means; one after the other, unless you do it in bulk.

        The same rules as for `apply`, which is not called if you override this.
        """
        for event in events:
            self.apply(event, generation=generation, using=using)

    @classmethod
    def rows(cls, using: str | None = None) -> QuerySet[Any]:
        """Return the rows to read, those of the live generation; one query with theirs in it."""
        alias = using or router.db_for_read(cls.model)
        live = ProjectionState.objects.using(alias).filter(name=cls.name, is_live=True)
        return cls.model._default_manager.using(alias).filter(
            generation__in=live.values("generation")
        )


def registered() -> Mapping[str, type[Projection]]:
    """Return the projections by name."""
    return MappingProxyType(_registered)


def find(name: str) -> type[Projection]:
    """Return a projection by its name; UsageError if none has it."""
    if name not in _registered:
        known = ", ".join(sorted(_registered)) or "none"
        raise UsageError(f"There is no projection {name!r}. Known: {known}.")
    return _registered[name]


def catch_up(
    projection: Projection,
    *,
    batch_size: int = 500,
    using: str | None = None,
    must_stop: Callable[[int], bool] = lambda events: False,
    state: ProjectionState | None = None,
) -> int:
    """Apply events until there is none to see, and return how many this call applied.

    For each page: three queries to read, one UPDATE that takes the page, and what `apply_page`
    does, in one transaction. Two at once share the work: one waits, finds the page taken and goes
    on after it. Call it from a loop, from cron, or after an append.

    Args:
        must_stop: asked after each page, with the number of its events.
        state: of the generation to feed; the live one if not given, whichever that is then.
            Feeds nothing if it is forgotten, because a later generation went live.
    """
    alias = using or router.db_for_write(ProjectionState)
    states = ProjectionState.objects.using(alias)
    applied, given = 0, state
    while True:
        started = time.monotonic()
        state = states.filter(pk=given.pk).first() if given else live_state(projection.name, alias)
        if state is None:
            return applied
        after = Checkpoint(state.epoch, state.xid, state.position) if state.epoch else None
        events = read_all(after=after, limit=batch_size, using=alias)
        if not events:
            return applied
        last = events[-1].checkpoint
        assert last is not None, "read_all gives every event one"
        here = states.filter(
            pk=state.pk,
            is_live=state.is_live,
            epoch=state.epoch,
            xid=state.xid,
            position=state.position,
        )
        with transaction.atomic(using=alias):
            # The page is taken before it is applied: who comes second waits here, then has it not.
            if not here.update(
                epoch=last.epoch,
                xid=last.xid,
                position=last.position,
                events=state.events + len(events),
            ):
                continue
            projection.apply_page(events, generation=state.generation, using=alias)
        applied += len(events)
        if telemetry.is_heard():
            telemetry.emit(
                telemetry.Event(
                    "eventstore.projected",
                    database=alias,
                    seconds=time.monotonic() - started,
                    facts={"projection": projection.name, "events": len(events)},
                )
            )
        if must_stop(len(events)):
            return applied


def live_state(name: str, alias: str) -> ProjectionState:
    """Return the state of the generation in use, made when first asked for; one query."""
    states = ProjectionState.objects.using(alias)
    live = states.filter(name=name, is_live=True).first()
    if live is None:
        first = ProjectionState(name=name, generation=1, is_live=True)
        states.bulk_create([first], ignore_conflicts=True)  # of two who begin, one makes it
        live = states.get(name=name, is_live=True)
    return live
