"""What the ledger promises, in plain Python: slow, obvious, and without a database."""

from dataclasses import dataclass, field

__all__ = ["Model", "ModelAccount", "ModelTransfer"]


@dataclass
class ModelAccount:
    currency: str
    least: int | None = 0
    most: int | None = None
    is_closed: bool = False
    entries: list[int] = field(default_factory=list)
    held: int = 0
    announced: int = 0

    @property
    def balance(self) -> int:
        return sum(self.entries)


@dataclass
class ModelTransfer:
    source: int
    destination: int
    amount: int
    status: str
    reference: str
    was_pending: bool
    moved: int = 0
    reverses: int | None = None


@dataclass
class Model:
    """Accounts and transfers by number, from 0; a refusal is its code, and changes nothing."""

    accounts: list[ModelAccount] = field(default_factory=list)
    transfers: list[ModelTransfer] = field(default_factory=list)
    keys: dict[str, int] = field(default_factory=dict)

    def transfer(
        self,
        source: int,
        destination: int,
        amount: int,
        *,
        key: str = "",
        reference: str = "",
        pending: bool = False,
        reverses: int | None = None,
    ) -> int | str:
        if amount < 1:
            return "invalid-amount"
        if source == destination:
            return "same-account"
        if key in self.keys:
            known = self.transfers[self.keys[key]]
            asked = (source, destination, amount, reference, pending, reverses)
            made = (known.source, known.destination, known.amount, known.reference)
            if asked == (*made, known.was_pending, known.reverses):
                return self.keys[key]
            return "idempotency-conflict"
        if reverses is not None and any(each.reverses == reverses for each in self.transfers):
            return "already-reversed"
        if max(source, destination) >= len(self.accounts):
            return "account-not-found"
        payer, payee = self.accounts[source], self.accounts[destination]
        if payer.is_closed or payee.is_closed:
            return "account-closed"
        if payer.currency != payee.currency:
            return "currency-mismatch"
        if payer.least is not None and payer.balance - payer.held - amount < payer.least:
            return "insufficient-funds"
        if payee.most is not None and payee.balance + payee.announced + amount > payee.most:
            return "limit-exceeded"
        if pending:
            payer.held += amount
            payee.announced += amount
        else:
            payer.entries.append(-amount)
            payee.entries.append(amount)
        self.transfers.append(
            ModelTransfer(
                *(source, destination, amount, "pending" if pending else "posted", reference),
                was_pending=pending,
                moved=0 if pending else amount,
                reverses=reverses,
            )
        )
        if key:
            self.keys[key] = len(self.transfers) - 1
        return len(self.transfers) - 1

    def end(self, number: int, status: str, amount: int | None = None) -> int | str:
        if amount is not None and amount < 1:
            return "invalid-amount"
        if number >= len(self.transfers):
            return "transfer-not-found"
        made = self.transfers[number]
        payer, payee = self.accounts[made.source], self.accounts[made.destination]
        if made.status != "pending":
            return "not-pending"
        moved = 0
        if status == "posted":
            moved = made.amount if amount is None else amount
            if moved > made.amount:
                return "invalid-amount"
            if payer.is_closed or payee.is_closed:
                return "account-closed"
        payer.held -= made.amount
        payee.announced -= made.amount
        if moved:
            payer.entries.append(-moved)
            payee.entries.append(moved)
        made.status, made.moved = status, moved
        return number

    def reverse(self, number: int, *, key: str = "") -> int | str:
        if number >= len(self.transfers):
            return "transfer-not-found"
        made = self.transfers[number]
        if made.status != "posted":
            return "not-posted"
        return self.transfer(made.destination, made.source, made.moved, key=key, reverses=number)
