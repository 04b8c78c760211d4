"""Settings: a typo is never silently the default."""

import subprocess
import sys
from dataclasses import dataclass

import pytest
from django.core import checks
from django.test import override_settings

from dbpatterns import conf
from dbpatterns.apps import check_settings
from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import GroupSettings, ShardingSettings


def test_a_section_is_read_as_typed_values() -> None:
    groups = {"bank": {"APPS": ["ledger", "books"]}}
    with override_settings(DBPATTERNS={"SHARDING": {"SHARDS": ["a", "b"], "GROUPS": groups}}):
        assert ShardingSettings.load() == ShardingSettings(
            shards=("a", "b"), groups={"bank": GroupSettings(apps=("ledger", "books"))}
        )


def test_a_changed_setting_is_read_again() -> None:
    before = ShardingSettings.load()
    with override_settings(DBPATTERNS={}):
        assert ShardingSettings.load() == ShardingSettings()
    assert ShardingSettings.load() == before


@pytest.mark.django_db(databases="__all__")  # Django 6.1 asks SQLite about JSON
@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            {"SHARDNG": {}},
            "no section 'SHARDNG'. Did you mean 'SHARDING'?"
            " Known: IDEMPOTENCY, QUERIES, REPOSITORIES, SHARDING, TRANSACTIONS.",
        ),
        ({"SHARDING": {"SHARD": []}}, "no key 'SHARD'. Did you mean 'SHARDS'? Known: CONTROL"),
        (
            {"SHARDING": {"GROUPS": {"bank": {"APS": []}}}},
            "DBPATTERNS['SHARDING']['GROUPS']['bank'] has no key 'APS'. Did you mean 'APPS'?"
            " Known: APPS, STRATEGY.",
        ),
        (
            {"SHARDING": {"GROUPS": {"bank": ["books"]}}},
            "DBPATTERNS['SHARDING']['GROUPS']['bank'] must be a dict, not list.",
        ),
        ({"SHARDING": {"GROUPS": ["bank"]}}, "['GROUPS'] must be dict, not ['bank']."),
        ({"SHARDING": {"SHARDS": "shard_0"}}, "must be list of str, not 'shard_0'."),
        ({"SHARDING": {"SHARDS": [0]}}, "must be list of str, not [0]."),
        ({"SHARDING": ["shard_0"]}, "DBPATTERNS['SHARDING'] must be a dict, not list."),
        ({"SHARDING": {1: []}}, "no key 1."),
        (["SHARDING"], "DBPATTERNS must be a dict of sections, not list."),
    ],
)
def test_check_reports_what_is_wrong_in_one_sentence(setting: object, sentence: str) -> None:
    with override_settings(DBPATTERNS=setting):
        messages = [m for m in checks.run_checks() if m.id == "dbpatterns.E001"]
    assert [m for m in messages if sentence in m.msg], messages
    assert all(m.level == checks.ERROR for m in messages)


def test_right_settings_give_no_message() -> None:
    assert check_settings(None) == []
    with override_settings(DBPATTERNS={}):
        assert check_settings(None) == []


@override_settings(DBPATTERNS={"SHARDING": {"SHARD": ["a"], "APS": []}})
def test_a_wrong_section_is_refused_when_it_is_used() -> None:
    with pytest.raises(ConfigurationError, match=r"no key 'SHARD'.*no key 'APS'"):
        ShardingSettings.load()


@override_settings(DBPATTERNS={"SAMPLE": {"ROWS": "many"}})
def test_a_value_of_another_type_is_refused_with_the_type_it_needs() -> None:
    @dataclass(frozen=True, slots=True, kw_only=True)
    class SampleSettings(conf.Section):
        key = "SAMPLE"
        rows: int = 100

    with pytest.raises(ConfigurationError, match=r"\['ROWS'\] must be int, not 'many'\."):
        SampleSettings.load()


@override_settings(DBPATTERNS=[])
def test_settings_of_another_type_are_refused_when_used() -> None:
    with pytest.raises(ConfigurationError, match="dict of sections"):
        ShardingSettings.load()


def test_a_section_without_its_app_names_the_line_to_add() -> None:
    """In a process of its own: `INSTALLED_APPS` cannot be emptied under a running project."""
    script = """
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["dbpatterns"], DBPATTERNS={"SHARDING": {"SHARDS": []}})
django.setup()
from django.core import checks
print(*(message.msg for message in checks.run_checks()), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'add "dbpatterns.sharding" to INSTALLED_APPS' in done.stdout, done.stderr


def test_models_of_an_app_not_installed_are_refused() -> None:
    conf.require_installed("dbpatterns.sharding")
    with pytest.raises(ConfigurationError, match=r'add "dbpatterns\.outbox" to INSTALLED_APPS'):
        conf.require_installed("dbpatterns.outbox")


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, int, True),
        (True, int, False),
        (1, float, True),
        (True, float, False),
        ("1", float, False),
        (True, bool, True),
        (("a",), tuple[str, ...], True),
        ("a", tuple[str, ...], False),
    ],
)
def test_values_are_matched_strictly(value: object, hint: object, fits: bool) -> None:
    assert conf._matches(value, hint) is fits
