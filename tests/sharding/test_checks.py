"""The sharding app's checks refuse what would put rows into the wrong place."""

import pytest
from django.core import checks
from django.test import override_settings

# Django 6.1 asks each SQLite database whether it knows JSON.
pytestmark = pytest.mark.django_db(databases="__all__")
ROUTER = "dbpatterns.sharding.ShardRouter"


def found() -> list[str | None]:
    """The ids of what is wrong with the settings; a model without its group is wrong as well."""
    reported = [each for each in checks.run_checks() if "dbpatterns" in (each.id or "")]
    return [each.id for each in reported if each.id != "dbpatterns_sharding.E009"]


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
            {"SHARDS": ["shard_0"], "GROUPS": {"shop": {"APPS": ["banking"]}}},
            [],
            ["dbpatterns_sharding.E004"],
        ),
        ({"SHARDS": 5}, [ROUTER], ["dbpatterns.E001"]),
        ({"SHARDS": ["shard_0"], "GROUPS": {"shop": {"APPS": ["banking"]}}}, [ROUTER], []),
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
    assert len({each.id for each in messages}) == 5  # E009: the tests' models have no group here
    assert all(each.hint for each in messages)
