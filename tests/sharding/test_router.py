"""Placement by slots, and a router that refuses to guess."""

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding import ShardRouter, shard_for, shards
from dbpatterns.sharding.hashing import SLOTS
from demo.banking.models import Account, Customer, StatementLine
from demo.blog.models import Author
from tests.demo.api_support import customer_number_on


def test_keys_spread_evenly_over_the_shards() -> None:
    counts = dict.fromkeys(shards(), 0)
    for key in range(1, 100_001):
        counts[shard_for(key)] += 1
    fair = 100_000 / len(counts)
    assert all(abs(count - fair) < 0.02 * fair for count in counts.values())


def test_every_slot_has_a_shard() -> None:
    aliases = shards()
    placed = [slot * len(aliases) // SLOTS for slot in range(SLOTS)]
    assert set(placed) == set(range(len(aliases)))


@override_settings(DBPATTERNS={})
def test_without_shards_placement_names_the_setting() -> None:
    with pytest.raises(ConfigurationError, match='DBPATTERNS\\["SHARDING"\\]\\["GROUPS"\\]'):
        shard_for(1)


def test_a_query_that_names_no_shard_is_refused() -> None:
    with pytest.raises(UsageError, match=r"banking\.Account is sharded"):
        Account.objects.first()
    with pytest.raises(UsageError, match=r"banking\.StatementLine is sharded and this query does"):
        StatementLine.objects.first()  # a model of a sharded app that names no key
    with pytest.raises(UsageError, match=r"banking\.StatementLine is sharded and this query does"):
        StatementLine(account="1").save()


@pytest.mark.django_db(databases="__all__")
def test_a_related_manager_stays_on_its_instance_s_shard() -> None:
    alias = shards()[-1]
    customer = Customer.objects.create(id=customer_number_on(alias), name="Eva")
    account = customer.accounts.create(number="1")
    assert account._state.db == alias
    assert list(customer.accounts.all()) == [account]
    assert Account.objects.using(shards()[0]).count() == 0


@pytest.mark.django_db(databases="__all__")
def test_rows_of_two_shards_may_not_be_related() -> None:
    customer = Customer.objects.create(id=customer_number_on(shards()[0]), name="Eva")
    account = Account.objects.using(shards()[1]).create(
        number="1", kind=Account.Kind.CLEARING, bank_code="YZ"
    )
    with pytest.raises(ValueError, match="router prevents this relation"):
        account.customer = customer


def test_tables_live_where_their_app_says() -> None:
    router = ShardRouter()
    assert router.allow_migrate("shard_0", "banking") is True
    assert router.allow_migrate("default", "banking") is False
    assert router.allow_migrate("shard_0", "blog") is False
    assert router.allow_migrate("default", "blog") is None


@pytest.mark.django_db(databases="__all__")
def test_tables_are_where_the_router_put_them() -> None:
    assert "banking_account" not in connections["default"].introspection.table_names()
    for alias in shards():
        tables = connections[alias].introspection.table_names()
        assert "banking_account" in tables
        assert "blog_post" not in tables


def test_other_models_are_left_to_the_next_router() -> None:
    assert ShardRouter().db_for_read(Author) is None
    assert ShardRouter().db_for_write(Author) is None
    assert ShardRouter().allow_relation(Author(), Author()) is None


def test_broken_settings_put_no_table_anywhere() -> None:
    with override_settings(DBPATTERNS={"SHARDING": {"SHARDS": 5}}):
        assert ShardRouter().allow_migrate("default", "blog") is False


@pytest.mark.django_db(databases="__all__")
def test_migrating_without_checks_is_refused_while_settings_are_broken() -> None:
    with (
        override_settings(DBPATTERNS={"SHARDING": {"SHARDS": 5}}),
        pytest.raises(ConfigurationError, match="must be list of str"),
    ):
        call_command("migrate", skip_checks=True, verbosity=0)
