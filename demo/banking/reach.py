"""Whose money a user may see and move, and on which shards it is."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from dbpatterns.sharding import shard_for, shards
from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.repositories import (
    AccountRepository,
    Shard,
    StandingOrderRepository,
    TransferRepository,
)
from demo.users.models import User

__all__ = ["Reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """The rows of one customer, or of everybody when `customer_id` is None.

    Lists are one query on one shard, of what also meets the condition. A row is one query on its
    own shard, which its id says, or the customer; only staff look for an account shard by shard.
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
        return Shard(alias).accounts.find_by(self._own & (condition or Q()), load=["ledger"], **how)

    def account(self, number: str) -> Account | None:
        """Return the account with this number, with its money."""
        if self.customer_id is None:
            return AccountRepository().by_number(number)
        return AccountRepository().find_one_by(self._own, number=number, load=["ledger"])

    def transfers(self, alias: str, condition: Q | None = None, /, **how: Any) -> list[Transfer]:
        """Return the transfers on one shard, out of and into the accounts in reach."""
        return Shard(alias).transfers.find_by(
            self._own_transfers & (condition or Q()), load=["payer", "payee"], **how
        )

    def transfer(self, pk: str | UUID) -> Transfer | None:
        """Return the transfer with this id."""
        return TransferRepository().find_one_by(self._own_transfers, pk=pk, load=["payer", "payee"])

    def standing_orders(
        self, alias: str, condition: Q | None = None, /, **how: Any
    ) -> list[StandingOrder]:
        """Return the standing orders on one shard."""
        return Shard(alias).orders.find_by(self._own & (condition or Q()), load=["account"], **how)

    def standing_order(self, pk: str | UUID) -> StandingOrder | None:
        """Return the standing order with this id."""
        return StandingOrderRepository().find_one_by(self._own, pk=pk, load=["account"])

    @property
    def _own(self) -> Q:
        return Q() if self.customer_id is None else Q(customer_id=self.customer_id)

    @property
    def _own_transfers(self) -> Q:
        if self.customer_id is None:
            return Q()
        return Q(payer__customer_id=self.customer_id) | Q(payee__customer_id=self.customer_id)
