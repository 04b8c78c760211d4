"""A small bank on the shards, and the people who use its API."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any

from django.db import connections
from rest_framework.authtoken.models import Token
from rest_framework.test import APIClient

from dbpatterns.sharding import shard_for, shards
from demo.banking.models import Account, Customer, StandingOrder, Transfer
from demo.users.models import User

PASSWORD = "correct horse battery staple"


def customer_number_on(alias: str, *, nth: int = 0) -> int:
    """Return the nth customer number that the hash puts on this shard."""
    on_shard = (number for number in count(1) if shard_for(number) == alias)
    for _ in range(nth):
        next(on_shard)
    return next(on_shard)


class Bank:
    """Alice and Bob on the first shard, Carol on the last; staff, and a login that is neither.

    On each shard also a clearing and an opening account, and one of a resident without a login.
    """

    def __init__(self) -> None:
        self.home, self.away = shards()[0], shards()[-1]
        self.users = {
            "staff": User.objects.create_user("staff", password=PASSWORD, is_staff=True),
            "nobody": User.objects.create_user("nobody", password=PASSWORD),
        }
        self.customers: dict[str, Customer] = {}
        for name, alias, nth in (
            ("alice", self.home, 0),
            ("bob", self.home, 1),
            ("carol", self.away, 0),
        ):
            number = customer_number_on(alias, nth=nth)
            self.customers[name] = Customer.objects.using(alias).create(id=number, name=name)
            self.users[name] = User.objects.create_user(name, password=PASSWORD, customer_id=number)
        self.residents = [self._settle(alias) for alias in shards()]
        self.alice_account = self.account("alice", "alice-1", 100_000)
        self.alice_savings = self.account("alice", "alice-2", 0)
        self.bob_account = self.account("bob", "bob-1", 100_000)
        self.carol_account = self.account("carol", "carol-1", 100_000)
        self.alice_transfer = self.transfers(self.alice_account, self.alice_savings, 1)[0]
        self.alice_order = self.order(self.alice_account)

    def _settle(self, alias: str) -> Account:
        of_bank = Account.objects.using(alias)
        of_bank.create(number=f"clearing-AB-{alias}", kind=Account.Kind.CLEARING, bank_code="AB")
        of_bank.create(number=f"opening-{alias}", kind=Account.Kind.OPENING)
        number = customer_number_on(alias, nth=2)
        self.customers[alias] = Customer.objects.using(alias).create(id=number, name=alias)
        return self.account(alias, f"resident-{alias}", 0)

    def account(self, owner: str, number: str, balance: int, **values: Any) -> Account:
        """Open an account on its owner's shard."""
        customer = self.customers[owner]
        return Account.objects.using(customer._state.db).create(
            number=number, customer=customer, balance=balance, **values
        )

    def transfers(self, payer: Account, payee: Account, rows: int) -> list[Transfer]:
        """Write transfers to look at; no money moves."""
        made = Transfer.objects.using(payer._state.db).count()
        return [
            Transfer.objects.using(payer._state.db).create(
                customer_id=payer.customer_id or payee.customer_id,
                idempotency_key=f"made {made + position}",
                payer=payer,
                payee=payee,
                amount=100 + position,
                currency="CZK",
            )
            for position in range(rows)
        ]

    def order(self, account: Account, **values: Any) -> StandingOrder:
        """Write a standing order of an account's owner."""
        return StandingOrder.objects.using(account._state.db).create(
            customer_id=account.customer_id,
            account=account,
            **{"bank_code": "AB", "payee_account": "123", "amount": 5_000, **values},
        )

    def client(self, name: str) -> APIClient:
        """Return a client with the person's token; without one for "anonymous"."""
        client = APIClient()
        if name != "anonymous":
            token, _ = Token.objects.get_or_create(user=self.users[name])
            client.credentials(HTTP_AUTHORIZATION=f"Token {token.key}")
        return client


@contextmanager
def queries_by_database() -> Iterator[dict[str, int]]:
    """Count the queries of each database that is asked at all; filled at the end.

    It opens no connection: a database that a test may not use is counted, and not touched.
    """
    counted: dict[str, int] = {}
    asked: Counter[str] = Counter()

    def tally(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        asked[context["connection"].alias] += 1
        return execute(sql, params, many, context)

    with ExitStack() as stack:
        for alias in connections:
            stack.enter_context(connections[alias].execute_wrapper(tally))
        yield counted
    counted.update(asked)


def pages(client: APIClient, url: str, link: str = "next") -> Iterator[list[dict[str, Any]]]:
    """Walk a list by its links, one page at a time."""
    following: str | None = url
    while following:
        answer = client.get(following)
        assert answer.status_code == 200, answer.content
        yield answer.json()["results"]
        following = answer.json()[link]
