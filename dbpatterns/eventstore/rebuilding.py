"""Making a projection's rows again: a new generation beside the one in use, and its end.

`prepare` begins a generation or finds the one begun before, `catch_up` feeds it, `go_live` shows it
to the readers, `sweep` deletes what it replaces. Each may be killed and called again.
"""

from typing import Any

from django.db import transaction
from django.db.models import QuerySet

from dbpatterns.eventstore.epochs import epoch_of
from dbpatterns.eventstore.models import ProjectionState
from dbpatterns.eventstore.projections import Projection, catch_up, find, live_state

__all__ = ["go_live", "prepare", "sweep", "unfinished"]


def prepare(name: str, *, using: str, restart: bool = False) -> ProjectionState:
    """Return the state of the generation being rebuilt: the one begun before, or a new one.

    A new one too if the events were restored since it was begun, by `new_epoch`.

    Args:
        restart: a new one in any case; what was begun goes with the old generation.
    Raises: UsageError: no projection has the name. EpochChanged: a restore is not declared.
    """
    find(name)
    live, begun = live_state(name, using), unfinished(name, using=using)
    if begun and not restart and begun.epoch in (None, epoch_of(using)):
        return begun
    new = ProjectionState(name=name, generation=(begun or live).generation + 1, is_live=False)
    states = ProjectionState.objects.using(using)
    states.bulk_create([new], ignore_conflicts=True)  # of two who begin, one makes it
    return states.get(name=name, generation=new.generation)


def unfinished(name: str, *, using: str) -> ProjectionState | None:
    """Return the state of a rebuild that was begun and has not ended; two queries at most.

    It is not live yet; or it is, and rows of generations before it are not swept away.
    """
    states = ProjectionState.objects.using(using).filter(name=name)
    live = states.filter(is_live=True).first()
    if live is None:
        return None
    begun = states.filter(generation__gt=live.generation).order_by("-generation").first()
    return begun or (live if _before(live, using).exists() else None)


def go_live(
    projection: Projection, state: ProjectionState, *, using: str, batch_size: int = 500
) -> None:
    """Let readers see a rebuilt generation instead of the one before; one transaction.

    Never less than they have seen: what is fed to the generation in use waits, and what it has
    been fed and the new one has not is applied to that first. Does nothing if it is seen already,
    or a later one is: another run was faster.
    """
    states = ProjectionState.objects.using(using).filter(name=state.name)

    def is_level(events: int = 0) -> bool:
        new, old = states.get(pk=state.pk), states.get(pk=live.pk)
        is_of_another_life = new.epoch not in (None, old.epoch)
        return is_of_another_life or (new.xid, new.position) >= (old.xid, old.position)

    while (live := live_state(state.name, using)).generation < state.generation:
        with transaction.atomic(using=using):
            if not states.filter(pk=live.pk, is_live=True).update(is_live=False):
                continue  # another was faster; a later one may be live, or an earlier one
            if not is_level():
                catch_up(
                    projection, batch_size=batch_size, using=using, must_stop=is_level, state=state
                )
            states.filter(pk=state.pk).update(is_live=True)


def sweep(name: str, *, using: str, batch_size: int = 500) -> int:
    """Delete up to `batch_size` rows of generations before the live one; return how many.

    Those generations are forgotten first, so that nobody feeds them any more; call it until it
    returns 0. Four statements at most.
    """
    live = live_state(name, using)
    states = ProjectionState.objects.using(using).filter(name=name)
    states.filter(generation__lt=live.generation).delete()
    old = _before(live, using)
    found = list(old.values_list("pk", flat=True)[:batch_size])
    old.filter(pk__in=found).delete()
    return len(found)


def _before(live: ProjectionState, alias: str) -> QuerySet[Any]:
    """Return the rows of all earlier generations, also those that nobody feeds any more."""
    rows = find(live.name).model._base_manager.using(alias)
    return rows.filter(generation__lt=live.generation)
