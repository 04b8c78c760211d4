"""The sharding app's checks refuse what would put rows into the wrong place."""

import uuid
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import get_user_model
from django.core import checks
from django.db import models
from django.test import override_settings
from django.test.utils import isolate_apps

from dbpatterns.sharding import ShardedModel, shards
from dbpatterns.sharding.admin_checks import check_admins
from dbpatterns.sharding.checks import check_models, check_sharding, problems_of
from dbpatterns.sharding.keys import home_of
from dbpatterns.sharding.reference_admin import ReferenceAdmin
from dbpatterns.sharding.sharded_admin import ShardedAdmin
from tests.shop.models import Buyer, Country, Mark, Order

# Django 6.1 asks each SQLite database whether it knows JSON.
pytestmark = pytest.mark.django_db(databases="__all__")
ROUTER = "dbpatterns.sharding.ShardRouter"
TESTS_OWN = {"dbpatterns_sharding.E009", "dbpatterns_sharding.W024"}


def found() -> list[str | None]:
    """Return what is found, but for E009 and W024: models and admins of the tests themselves."""
    ids = [each.id for each in checks.run_checks() if "dbpatterns" in (each.id or "")]
    return [each for each in ids if each not in TESTS_OWN]


@pytest.mark.parametrize(
    ("setting", "routers", "expected"),
    [
        ({"SHARDS": ["shard_0", "nowhere"]}, [ROUTER], ["dbpatterns_sharding.E001"]),
        ({"SHARDS": ["shard_0", "shard_0"]}, [ROUTER], ["dbpatterns_sharding.E002"]),
        (
            {"SHARDS": ["shard_0"], "GROUPS": {"shop": {"APPS": ["bank"]}}},
            [ROUTER],
            ["dbpatterns_sharding.E003"],
        ),
        (
            {"SHARDS": ["shard_0"], "GROUPS": {"shop": {"APPS": ["shop"]}}},
            [],
            ["dbpatterns_sharding.E004"],
        ),
        ({"SHARDS": 5}, [ROUTER], ["dbpatterns.E001"]),
        ({"SHARDS": ["shard_0"], "GROUPS": {"shop": {"APPS": ["shop"]}}}, [ROUTER], []),
        (
            {
                "SHARDS": ["shard_0"],
                "GROUPS": {"a": {"APPS": ["shop"]}, "b": {"APPS": ["shop"]}},
            },
            [ROUTER],
            ["dbpatterns_sharding.E005"],
        ),
        (
            {"SHARDS": ["shard_0"], "GROUPS": {"a": {"APPS": ["shop"], "STRATEGY": "ordered"}}},
            [ROUTER],
            ["dbpatterns_sharding.E006"],
        ),
        (
            {
                "SHARDS": ["shard_0"],
                "GROUPS": {"a": {"APPS": ["shop"]}},
                "CONTROL": "nowhere",
            },
            [ROUTER],
            ["dbpatterns_sharding.E007"],
        ),
        ({}, [], []),
    ],
)
def test_each_mistake_has_its_id(
    setting: dict[str, object], routers: list[str], expected: list[str]
) -> None:
    with override_settings(DBPATTERNS={"SHARDING": setting}, DATABASE_ROUTERS=routers):
        assert found() == expected


def test_every_message_says_what_to_do() -> None:
    setting = {"SHARDS": ["nowhere", "nowhere"], "GROUPS": {"shop": {"APPS": ["bank"]}}}
    with override_settings(DBPATTERNS={"SHARDING": setting}, DATABASE_ROUTERS=[]):
        messages = [each for each in checks.run_checks() if "sharding" in (each.id or "")]
    assert len({each.id for each in messages} - TESTS_OWN) == 4
    assert all(each.hint for each in messages)


def test_a_request_s_transaction_on_every_shard_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(settings.DATABASES[shards()[0]], "ATOMIC_REQUESTS", True)
    assert [each.id for each in check_sharding(None)] == ["dbpatterns_sharding.E008"]


def test_two_shards_in_one_database_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = shards()[:2]
    first = settings.DATABASES[one]
    for part in ("HOST", "PORT", "NAME"):
        monkeypatch.setitem(settings.DATABASES[other], part, first[part])
    (found,) = check_sharding(None)
    assert found.id == "dbpatterns_sharding.E020"
    assert f"Shards {one!r} and {other!r} are one database, {str(first['NAME'])!r}" in found.msg
    for memory in ("", ":memory:", "file:shard?mode=memory"):  # each its own, or told elsewhere
        for alias in (one, other):
            monkeypatch.setitem(settings.DATABASES[alias], "NAME", memory)
        assert check_sharding(None) == []
    for part, values in {"HOST": ("a", "b"), "PORT": (1, 2), "NAME": ("a", "b")}.items():
        monkeypatch.undo()
        for name in ("HOST", "PORT", "NAME"):
            for alias, value in zip((one, other), values, strict=True):
                monkeypatch.setitem(
                    settings.DATABASES[alias], name, value if name == part else "same"
                )
        assert check_sharding(None) == []


@isolate_apps("tests.shop", "tests.testapp")
def test_a_sharded_model_whose_rows_would_go_astray_is_told() -> None:
    from tests.shop.models import Order

    class Elsewhere(models.Model):  # noqa: DJ008 - nobody reads it
        class Meta:
            app_label = "testapp"

    class Astray(ShardedModel):
        shard_key = "id"

        class Meta:
            app_label = "testapp"

    class Keyless(ShardedModel):
        shard_key = "nobody"

        class Meta:
            app_label = "shop"

    class Wrong(ShardedModel):
        shard_key = "at"
        id = models.UUIDField(primary_key=True)
        at = models.DateField()

        class Meta:
            app_label = "shop"

    class Counted(ShardedModel):
        shard_key = "owner"
        owner = models.IntegerField()
        friends: Any = models.ManyToManyField("self")

        class Meta:
            app_label = "shop"

    class Plainly(ShardedModel):
        shard_key = "id"
        id = models.UUIDField(primary_key=True)
        plain = models.Manager()

        class Meta:
            app_label = "shop"

    class Far(ShardedModel):
        shard_key = "id"
        id = models.UUIDField(primary_key=True)
        far = models.ForeignKey(Elsewhere, models.CASCADE)
        held_by_nobody = models.ForeignKey(
            Elsewhere, models.CASCADE, related_name="+", db_constraint=False
        )

        class Meta:
            app_label = "shop"

    class Below(ShardedModel):
        shard_key = "order"
        id = models.UUIDField(primary_key=True)
        order = models.ForeignKey(Order, models.CASCADE)

        class Meta:
            app_label = "shop"

    class Owned(ShardedModel):
        shard_key = "owner"
        id = models.UUIDField(primary_key=True)
        owner = models.IntegerField()

        class Meta:
            app_label = "testapp"

    class OfAnotherGroup(ShardedModel):
        shard_key = "owned"
        id = models.UUIDField(primary_key=True)
        owned = models.ForeignKey(Owned, models.CASCADE, db_constraint=False)

        class Meta:
            app_label = "shop"

    orders = [Order(id=uuid.UUID(int=number), buyer_id=7) for number in range(9)]
    astray = [each for each in orders if home_of(Below(order=each)) != home_of(each)]
    assert astray, "the harm: a row would not lie with the order that it is part of"

    expected = {
        Astray: ["E009"],
        Below: ["E010"],
        OfAnotherGroup: [],
        Keyless: ["E010"],
        Wrong: ["E010"],
        Counted: ["E011", "E011"],
        Plainly: ["E012"],
        Far: ["E013"],
    }
    for model, ids in expected.items():
        found = list(problems_of(model))
        assert [each.id for each in found] == [f"dbpatterns_sharding.{number}" for number in ids]
        assert all(model.__name__ in each.msg and each.hint for each in found)


def test_the_shop_s_models_are_all_right() -> None:
    assert check_models([apps.get_app_config("shop")]) == []


def test_plain_admins_are_named() -> None:
    class Plain(admin.ModelAdmin):  # type: ignore[type-arg]
        """Of one database."""

    site = admin.AdminSite("checked")
    site.register([Buyer, Country], Plain)
    site.register(Order, ShardedAdmin)
    site.register(Mark, ReferenceAdmin)
    site.register(get_user_model(), Plain)
    try:
        found = [each for each in check_admins(None) if each.obj is Plain]
        elsewhere = check_admins([apps.get_app_config("auth")])
    finally:  # a site is known as long as it lives
        site.unregister([Buyer, Country, Order, Mark, get_user_model()])
    assert {each.id for each in found} == {"dbpatterns_sharding.W024"}
    assert sorted(each.msg.split(":")[0] for each in found) == [
        "Plain of shop.Buyer is no ShardedAdmin",
        "Plain of shop.Country is no ReferenceAdmin",
    ]
    assert elsewhere == []
