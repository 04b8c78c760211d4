"""Whose money a user may see and move, and on which shards it is."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from dbpatterns.sharding import shard_for, shards
from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.repositories import Shard
from demo.users.models import User

__all__ = ["Reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """The rows of one customer, or of everybody when `customer_id` is None.

    Each read is one query on one shard, of what also meets the condition.
    """

    customer_id: int | None
    aliases: tuple[str, ...]

    @classmethod
    def of(cls, user: User | AnonymousUser) -> "Reach":
        """Return the reach of a customer or of staff, staff first. No query."""
        if user.is_staff:
            return cls(None, shards())
        assert isinstance(user, User), "see HasReach"
        assert user.customer_id is not None, "see HasReach"
        return cls(user.customer_id, (shard_for(user.customer_id),))

    def accounts(self, alias: str, condition: Q | None = None, /, **how: Any) -> list[Account]:
        """Return the accounts on one shard, with their money; staff see the bank's own too.

        `how` is what `find_by` takes: an order and a limit.
        """
        own = Q() if self.customer_id is None else Q(customer_id=self.customer_id)
        return Shard(alias).accounts.find_by(own & (condition or Q()), load=["ledger"], **how)

    def transfers(self, alias: str, condition: Q | None = None, /, **how: Any) -> list[Transfer]:
        """Return the transfers on one shard, out of and into the accounts in reach."""
        own = Q()
        if self.customer_id is not None:
            own = Q(payer__customer_id=self.customer_id) | Q(payee__customer_id=self.customer_id)
        return Shard(alias).transfers.find_by(
            own & (condition or Q()), load=["payer", "payee"], **how
        )

    def standing_orders(
        self, alias: str, condition: Q | None = None, /, **how: Any
    ) -> list[StandingOrder]:
        """Return the standing orders on one shard."""
        own = Q() if self.customer_id is None else Q(customer_id=self.customer_id)
        return Shard(alias).orders.find_by(own & (condition or Q()), load=["account"], **how)
