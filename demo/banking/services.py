"""What a customer may order: money moved now, and again and again."""

from functools import partial
from typing import Any

from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.reach import Reach
from demo.banking.repositories import Shard, StandingOrderRepository
from demo.banking.transfers import (
    Refusal,
    TransferRefused,
    find_account,
    transfer,
    transfer_by_staff,
)

__all__ = ["PaymentService", "UnknownBank"]


class UnknownBank(LookupError):
    """A bank whom we pay nothing."""


class PaymentService:
    """Takes orders to pay; whose accounts may pay is the reach's business."""

    def __init__(self, orders: StandingOrderRepository) -> None:
        self._orders = orders

    def payer(self, number: str, *, reach: Reach) -> Account:
        """Return the customer account to take money from; the queries of `Reach.account`.

        Raises: TransferRefused: UNKNOWN_ACCOUNT, in the same words for an account that is
        somebody else's and for one that does not exist.
        """
        found = reach.account(number)
        if found is None or found.kind != Account.Kind.CUSTOMER:
            raise TransferRefused(Refusal.UNKNOWN_ACCOUNT, f"You have no account {number}.")
        return found

    def pay(
        self,
        payer: Account,
        payee: str,
        *,
        reach: Reach,
        amount: int,
        idempotency_key: str,
        memo: str = "",
        staff: int | None = None,
    ) -> tuple[Transfer, bool]:
        """Move `amount` minor units once per key; return the transfer and whether it is new.

        The key is the payer's customer's, or that of the user whose number is `staff`. The
        transfer has its accounts loaded, as they were before. Cost: one query for the payee,
        or one a shard, and those of `transfer`.
        Raises: TransferRefused.
        """
        to = self._payee(payee, near=payer._state.db, reach=reach)
        move = transfer if staff is None else partial(transfer_by_staff, staff)
        booked, is_new = move(payer, to, amount=amount, idempotency_key=idempotency_key, memo=memo)
        booked.payer, booked.payee = payer, to  # the same rows, already read
        return booked, is_new

    def order(self, account: str, *, reach: Reach, bank_code: str, **values: Any) -> StandingOrder:
        """Order a payment to an account at another bank. Three queries on the customer's shard.

        Raises: TransferRefused: the account is closed, or not in reach. UnknownBank.
        """
        payer = self.payer(account, reach=reach)
        if payer.status != Account.Status.OPEN:
            raise TransferRefused(Refusal.CLOSED_ACCOUNT, f"Account {payer.number} is closed.")
        assert payer.customer_id is not None, "a payer is a customer's account"
        here = Shard(str(payer._state.db))
        if here.accounts.clearing(bank_code, payer.currency) is None:
            raise UnknownBank(f"We pay no bank {bank_code}.")
        return self._orders.save(
            StandingOrder(
                customer_id=payer.customer_id, account=payer, bank_code=bank_code, **values
            )
        )

    def change(self, order: StandingOrder, **values: Any) -> StandingOrder:
        """Change a standing order; one statement.

        Writes only the columns given, so that two changes at once do not undo each other.
        """
        for name, value in values.items():
            setattr(order, name, value)
        return self._orders.save(order, update_fields=list(values))

    def _payee(self, number: str, *, near: str | None, reach: Reach) -> Account:
        """Return the account to give money to, anybody's; staff may name a clearing account.

        The payer's shard `near` is asked first.
        Raises: TransferRefused: UNKNOWN_ACCOUNT, or NOT_A_CUSTOMER_ACCOUNT.
        """
        allowed = {Account.Kind.CUSTOMER}
        if reach.customer_id is None:
            allowed.add(Account.Kind.CLEARING)
        found = find_account(number, near=near)
        if found.kind not in allowed:
            raise TransferRefused(
                Refusal.NOT_A_CUSTOMER_ACCOUNT, f"Account {number} takes no transfers."
            )
        return found
