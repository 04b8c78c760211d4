"""A projection that is as simple as one can be: balances by account."""

from django.db.models import F

from dbpatterns.eventstore.projections import Projection
from dbpatterns.eventstore.reading import RecordedEvent
from tests.testapp.models import Balance

__all__ = ["Balances"]


class Balances(Projection):
    """Adds each event's amount to its stream's balance."""

    name = "balances"
    model = Balance

    def apply(self, event: RecordedEvent, *, generation: int, using: str) -> None:
        """Add it up."""
        rows = Balance.objects.using(using)
        rows.get_or_create(generation=generation, account=event.stream)
        rows.filter(generation=generation, account=event.stream).update(
            amount=F("amount") + event.data.get("amount", 0), events=F("events") + 1
        )
