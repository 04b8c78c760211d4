"""Whose money a user may see and move, and on which shards it is."""

from dataclasses import dataclass
from uuid import UUID

from django.contrib.auth.models import AnonymousUser
from django.db.models import Q

from dbpatterns.sharding import shard_for, shards
from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.repositories import (
    AccountRepository,
    Listing,
    StandingOrderRepository,
    TransferRepository,
)
from demo.users.models import User

__all__ = ["Reach"]


@dataclass(frozen=True, slots=True)
class Reach:
    """The rows of one customer, or of everybody when `customer_id` is None.

    Lists are of what also meets the condition, and ask when they are read: one query, or for staff
    one a shard, all at once. A row is one query on its own shard, which its id says, or the
    customer; only staff look for an account shard by shard.
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

    def accounts(self, condition: Q | None = None) -> "Listing[Account]":
        """Return the accounts, with their money; staff see the bank's own too."""
        return AccountRepository(using=self._only).listed(self._own & (condition or Q()))

    def account(self, number: str) -> Account | None:
        """Return the account with this number, with its money."""
        if self.customer_id is None:
            return AccountRepository().by_number(number)
        return AccountRepository().find_one_by(self._own, number=number, load=["ledger"])

    def transfers(self, condition: Q | None = None) -> "Listing[Transfer]":
        """Return the transfers out of and into the accounts in reach."""
        return TransferRepository(using=self._only).listed(self._own_transfers & (condition or Q()))

    def transfer(self, pk: str | UUID) -> Transfer | None:
        """Return the transfer with this id."""
        return TransferRepository().find_one_by(self._own_transfers, pk=pk, load=["payer", "payee"])

    def standing_orders(self, condition: Q | None = None) -> "Listing[StandingOrder]":
        """Return the standing orders."""
        return StandingOrderRepository(using=self._only).listed(self._own & (condition or Q()))

    def standing_order(self, pk: str | UUID) -> StandingOrder | None:
        """Return the standing order with this id."""
        return StandingOrderRepository().find_one_by(self._own, pk=pk, load=["account"])

    @property
    def _only(self) -> str | None:
        return self.aliases[0] if len(self.aliases) == 1 else None

    @property
    def _own(self) -> Q:
        return Q() if self.customer_id is None else Q(customer_id=self.customer_id)

    @property
    def _own_transfers(self) -> Q:
        if self.customer_id is None:
            return Q()
        return Q(payer__customer_id=self.customer_id) | Q(payee__customer_id=self.customer_id)
