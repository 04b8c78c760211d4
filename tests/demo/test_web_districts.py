"""Money by district: staff only, added up over the shards at one query each."""

import pytest
from django.test import Client

from dbpatterns.services import resolve
from dbpatterns.sharding import shards
from demo.banking.overview import OverviewService
from demo.banking.reports import DistrictMoney
from tests.demo.api_support import Bank, queries_by_database

pytestmark = pytest.mark.django_db(databases="__all__")


def settle(bank: Bank, **districts: str) -> None:
    for name, district in districts.items():
        customer = bank.customers[name]
        customer.district = district
        customer.save(update_fields=["district"])


def logged_in(bank: Bank, name: str) -> Client:
    client = Client()
    client.force_login(bank.users[name])
    return client


def test_money_is_added_up_over_shards_by_district_and_currency(api_bank: Bank) -> None:
    settle(api_bank, alice="Brno", bob="Zlin", carol="Brno")
    api_bank.account("carol", "carol-eur", 5_000, currency="EUR")
    assert resolve(OverviewService).districts() == [
        DistrictMoney("Brno", "CZK", customers=2, money=200_000),
        DistrictMoney("Zlin", "CZK", customers=1, money=100_000),
        DistrictMoney("", "CZK", customers=len(shards()), money=0),
        DistrictMoney("Brno", "EUR", customers=1, money=5_000),
    ]


def test_staff_see_what_each_district_holds_and_the_banks_own_money_is_left_out(
    api_bank: Bank,
) -> None:
    settle(api_bank, alice="Brno")
    page = logged_in(api_bank, "staff").get("/bank/districts/").content.decode()
    assert '<th scope="row">Brno</th><td>1</td><td>1,000.00\xa0CZK</td>' in page
    assert "Not known" in page


def test_the_page_stands_without_customers(admin_client: Client) -> None:
    assert "No customer has an account" in admin_client.get("/bank/districts/").content.decode()


@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_nobody_else_sees_them(api_bank: Bank, name: str) -> None:
    assert logged_in(api_bank, name).get("/bank/districts/").status_code == 403


def test_anonymous_is_sent_to_log_in(client: Client) -> None:
    answer = client.get("/bank/districts/")
    assert answer["Location"] == "/login/?next=/bank/districts/"


def test_the_page_costs_one_query_a_shard_however_many_customers(api_bank: Bank) -> None:
    client = logged_in(api_bank, "staff")
    for rounds in range(2):
        api_bank.account("alice", f"alice-more-{rounds}", 0)
        with queries_by_database() as queries:
            client.get("/bank/districts/")
        assert queries == {"default": 2, **dict.fromkeys(shards(), 1)}
