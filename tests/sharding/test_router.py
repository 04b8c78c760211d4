"""Placement by PostgreSQL's own hash, and a router that refuses to guess."""

import pytest
from django.core.management import call_command
from django.db import connections
from django.test import override_settings

from dbpatterns.errors import ConfigurationError, UsageError
from dbpatterns.sharding.router import SLOTS, ShardRouter, shard_for, shards, slot_of
from demo.banking.models import Account, Customer
from demo.blog.models import Author

KEYS = [0, 1, 2, -1, 5369, 2**31, -(2**31), 2**40 + 7, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize(
    ("key", "slot"),
    [(0, 6576), (1, 4024), (2, 8570), (-1, 12197), (5369, 9800), (2**31, 14966), (-(2**63), 8575)],
)
def test_slot_of_a_key_never_changes(key: int, slot: int) -> None:
    assert slot_of(key) == slot


@pytest.mark.postgresql
@pytest.mark.django_db
def test_the_server_agrees_on_every_slot() -> None:
    keys = [*KEYS, *range(1, 5370)]
    with connections["default"].cursor() as cursor:
        cursor.execute("CREATE TABLE hashed (key bigint) PARTITION BY HASH (key)")
        cursor.execute(
            "SELECT count(*) FROM unnest(%s::bigint[], %s::int[]) AS t(key, slot)"
            " WHERE satisfies_hash_partition('hashed'::regclass, %s, slot, key)",
            [keys, [slot_of(key) for key in keys], SLOTS],
        )
        assert cursor.fetchone() == (len(keys),)
        cursor.execute(
            "SELECT satisfies_hash_partition('hashed'::regclass, %s, %s, %s::bigint)",
            [SLOTS, (slot_of(7) + 1) % SLOTS, 7],
        )
        assert cursor.fetchone() == (False,)  # the server does refuse a wrong slot


@pytest.mark.parametrize("key", [True, 1.0, "1", None, 2**63, -(2**63) - 1])
def test_a_key_of_another_type_is_a_usage_error(key: object) -> None:
    with pytest.raises(UsageError, match="integer of 64 bits"):
        slot_of(key)  # type: ignore[arg-type]


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
    with pytest.raises(ConfigurationError, match='DBPATTERNS\\["SHARDING"\\]\\["SHARDS"\\]'):
        shard_for(1)


def test_a_query_that_names_no_shard_is_refused() -> None:
    with pytest.raises(UsageError, match=r"banking\.Account is sharded"):
        Account.objects.first()
    with pytest.raises(UsageError, match=r"banking\.Customer is sharded"):
        Customer(id=1, name="Nobody").save()


@pytest.mark.django_db(databases="__all__")
def test_a_related_manager_stays_on_its_instance_s_shard() -> None:
    alias = shards()[-1]
    customer = Customer.objects.using(alias).create(id=1, name="Eva")
    account = customer.accounts.create(number="1")
    assert account._state.db == alias
    assert list(customer.accounts.all()) == [account]
    assert Account.objects.using(shards()[0]).count() == 0


@pytest.mark.django_db(databases="__all__")
def test_rows_of_two_shards_may_not_be_related() -> None:
    customer = Customer.objects.using(shards()[0]).create(id=1, name="Eva")
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
