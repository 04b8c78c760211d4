"""Installing the ledger: its guard, checks, migrations, admin, and a ledger on a shard."""

import subprocess
import sys
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client, override_settings
from django.urls import reverse

from dbpatterns.ledger import sql
from dbpatterns.ledger.apps import LedgerConfig, check_guards
from dbpatterns.ledger.models import Account, Entry, Transfer
from dbpatterns.ledger.transfers import transfer
from dbpatterns.ledger.verification import verify_ledger
from dbpatterns.testing.ledger import empty_ledger
from tests.ledger.support import funded

NAMES = ("account", "transfer", "entry")


def test_models_without_their_app_name_the_line_to_add() -> None:
    script = (
        "from django.conf import settings; import django\n"
        "settings.configure(INSTALLED_APPS=['dbpatterns'])\n"
        "django.setup(); import dbpatterns.ledger.models\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'ConfigurationError: The models of dbpatterns.ledger need its app: add "dbpatterns.' in (
        done.stderr
    )


def test_the_app_has_its_own_label_keys_and_tables() -> None:
    assert LedgerConfig.label == "dbpatterns_ledger"
    assert [each._meta.db_table for each in (Account, Transfer, Entry)] == [
        f"dbpatterns_ledger_{name}" for name in NAMES
    ]


@pytest.mark.django_db(databases="__all__")
def test_migrations_are_complete() -> None:
    call_command("makemigrations", "dbpatterns_ledger", check=True, dry_run=True, verbosity=0)


def ids() -> list[str | None]:
    return [each.id for each in checks.run_checks() if "ledger" in (each.id or "")]


def test_sqlite_without_immediate_transactions_is_warned_of(settings: Any) -> None:
    assert ids() == []
    if connection.vendor == "sqlite":
        options = connection.settings_dict["OPTIONS"]
        mode = options.pop("transaction_mode")
        try:
            assert ids() == ["dbpatterns_ledger.W001"]
        finally:
            options["transaction_mode"] = mode


@pytest.mark.django_db(transaction=True)
def test_tables_without_guards_are_warned_of() -> None:
    assert check_guards(None, databases=["default"]) == []
    assert check_guards(None) == []
    sql.run(connection, 0)
    try:
        (warning,) = check_guards(None, databases=["default"])
        assert warning.id == "dbpatterns_ledger.W002"
        assert "dbpatterns_ledger_entries_stay" in warning.msg
    finally:
        sql.run(connection, sql.CURRENT)


@pytest.mark.django_db(transaction=True)
def test_migrations_go_back_and_forth_and_leave_nothing() -> None:
    call_command("migrate", "dbpatterns_ledger", "0001", verbosity=0)
    assert len(sql.missing("default")) >= 6
    call_command("migrate", "dbpatterns_ledger", "zero", verbosity=0)
    tables = connection.introspection.table_names()
    assert not any(each.startswith("dbpatterns_ledger") for each in tables)
    assert sql.missing("default") == []  # nothing to guard
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM pg_proc WHERE proname LIKE 'dbpatterns_ledger%'")
            assert cursor.fetchone() == (0,)
    call_command("migrate", verbosity=0)  # all of it: the demo's bank builds on the ledger
    assert sql.missing("default") == []
    transfer(*funded(10, 0), 5)
    assert verify_ledger().is_sound


def test_another_vendor_is_left_alone() -> None:
    class Oracle:
        vendor = "oracle"

    sql.run(Oracle(), 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(connections["default"]), "vendor", "oracle")
        assert sql.missing("default") == []


@pytest.mark.django_db(transaction=True, databases=["default", "shard_0"])
def test_a_ledger_lives_beside_the_money_of_each_shard() -> None:
    sharding = {"SHARDS": ["shard_0"], "GROUPS": {"bank": {"APPS": ["dbpatterns_ledger"]}}}
    with override_settings(DBPATTERNS={"SHARDING": sharding}):
        try:
            accounts = Account.objects.using("shard_0")
            payer = accounts.create(currency="EUR", min_balance=None)
            payee = accounts.create(currency="EUR")
            made = transfer(payer, payee, 5)  # on the accounts' own database
            assert made._state.db == "shard_0"
            assert transfer(payer.pk, payee.pk, 5, using="shard_0").pk == made.pk + 1
            assert verify_ledger(using="shard_0").transfers == 2
            assert verify_ledger(using="default").transfers == 0
        finally:
            empty_ledger("shard_0")


@pytest.mark.django_db
def test_the_admin_shows_everything_and_changes_nothing() -> None:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", password="x"))
    made = transfer(*funded(10, 0), 5)
    rows = {"account": made.source_id, "transfer": made.pk, "entry": made.entries.latest("pk").pk}
    for name, pk in rows.items():
        listing = reverse(f"admin:dbpatterns_ledger_{name}_changelist")
        assert client.get(listing, {"q": str(pk)}).status_code == 200
        one = reverse(f"admin:dbpatterns_ledger_{name}_change", args=[pk])
        assert client.get(one).status_code == 200
        assert client.post(one, {}).status_code == 403
        assert client.get(reverse(f"admin:dbpatterns_ledger_{name}_add")).status_code == 403
        delete = reverse(f"admin:dbpatterns_ledger_{name}_delete", args=[pk])
        assert client.post(delete, {"post": "yes"}).status_code == 403
