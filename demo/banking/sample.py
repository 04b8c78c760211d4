"""Sample bank data of the same shape as the real files, made up and always the same."""

import datetime

import factory
from factory.fuzzy import FuzzyChoice, FuzzyDate, FuzzyInteger
from factory.random import randgen, reseed_random

from demo.banking.berka import BankData, NewAccount, NewCustomer, NewOrder

__all__ = ["sample_bank"]

FIRST_NUMBER = 9_000_001
"""Above every number of the real files, so that both can live in one database."""
BANKS = ("AB", "CD", "EF", "GH", "IJ", "KL", "MN", "OP", "QR", "ST", "UV", "WX", "YZ")


class CustomerFactory(factory.Factory):
    """A customer with a readable name."""

    class Meta:
        model = NewCustomer

    name = factory.Faker("name")
    birth_date = FuzzyDate(datetime.date(1940, 1, 1), datetime.date(2005, 12, 31))
    district = factory.Faker("city")


class AccountFactory(factory.Factory):
    """An account of a customer."""

    class Meta:
        model = NewAccount

    opened_on = FuzzyDate(datetime.date(2013, 1, 1), datetime.date(2017, 12, 31))


class OrderFactory(factory.Factory):
    """A standing order from an account to another bank; 10.00 to 1,200.00."""

    class Meta:
        model = NewOrder

    bank_code = FuzzyChoice(BANKS)
    payee_account = factory.Faker("numerify", text="########")
    amount = FuzzyInteger(1_000, 120_000)
    category = FuzzyChoice(("", "HH", "HH", "HH", "IN", "LE", "LO"))


def sample_bank(customers: int = 240, *, seed: int = 1) -> BankData:
    """Return customers with one or two accounts and nought to three orders each; no query."""
    reseed_random(seed)
    data = BankData([], [], [])
    for number in range(FIRST_NUMBER, FIRST_NUMBER + customers):
        data.customers.append(CustomerFactory(number=number))
        for _ in range(randgen.choice((1, 1, 1, 2))):
            account = str(FIRST_NUMBER + len(data.accounts))
            data.accounts.append(AccountFactory(number=account, customer=number))
            for _ in range(randgen.randint(0, 3)):
                order = FIRST_NUMBER + len(data.orders)
                data.orders.append(OrderFactory(number=order, account=account, customer=number))
    return data
