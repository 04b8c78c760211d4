"""The ledger in the admin: one shard at a time, chosen beside the list, and nobody's to change."""

import re

import pytest
from django.test import Client

from dbpatterns.ledger.models import Account as LedgerAccount
from tests.demo.api_support import Bank

pytestmark = pytest.mark.django_db(databases="__all__")
LIST = "/admin/dbpatterns_ledger/account/"


def test_the_ledger_of_each_shard_is_shown_and_its_rows_are_found(
    api_bank: Bank, admin_client: Client
) -> None:
    def page(url: str) -> str:
        return admin_client.get(url).content.decode()

    first, last = page(LIST), page(f"{LIST}?database={api_bank.away}")
    assert "bob-1" in first
    assert "carol-1" not in first
    assert "carol-1" in last
    assert "bob-1" not in last
    assert f'<a href="?database={api_bank.away}">{api_bank.away}</a>' in first
    assert page(f"{LIST}?database=nowhere").count("bob-1") == first.count("bob-1")
    carol = LedgerAccount.objects.using(api_bank.away).get(name="carol-1")
    link = re.search(rf'href="({LIST}{carol.pk}/change/[^"]*)"', last)
    assert link is not None
    assert "carol-1" in page(link[1].replace("&amp;", "&"))
    for action in ("change", "delete"):
        url = link[1].replace("change", action, 1).replace("&amp;", "&")
        assert admin_client.post(url, {"post": "yes"}).status_code == 403
