"""The app: its command, its admin, its migration, and what happens when it is not installed."""

import json
import subprocess
import sys
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.contrib.admin import site
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import RequestFactory, override_settings

from dbpatterns.commands import Exit
from dbpatterns.idempotency.keys import run_once
from dbpatterns.idempotency.management.commands.purge_idempotency_keys import Command
from dbpatterns.idempotency.models import IdempotencyKey

APPS = ("dbpatterns.idempotency", "dbpatterns.eventstore")


def purge(*args: str) -> dict[str, Any]:
    output = StringIO()
    call_command(Command(), *args, "--format", "json", stdout=output, stderr=StringIO())
    facts: dict[str, Any] = json.loads(output.getvalue())
    return facts


@pytest.fixture
def expired(db: None) -> None:
    for number in range(5):
        run_once("s", str(number), 1, lambda: 1, expires_in=timedelta(seconds=-1))
    run_once("s", "alive", 1, lambda: 1)


def test_a_dry_run_only_counts(expired: None) -> None:
    assert purge("--dry-run") == {"expired": 5, "deleted": 0}
    assert IdempotencyKey.objects.count() == 6


def test_purging_goes_in_batches_to_the_end(expired: None) -> None:
    assert purge("--batch-size", "2") == {"expired": 5, "deleted": 5}
    assert IdempotencyKey.objects.get().key == "alive"
    assert purge() == {"expired": 0, "deleted": 0}


@pytest.mark.django_db(databases="__all__")
def test_purging_goes_to_every_database_that_holds_keys() -> None:
    late = timedelta(seconds=-1)
    with override_settings(DATABASE_ROUTERS=["dbpatterns.sharding.ShardRouter"]):
        shard = {
            "SHARDS": ["shard_0", "shard_1"],
            "GROUPS": {"bank": {"APPS": ["dbpatterns_idempotency"]}},
        }
        with override_settings(DBPATTERNS={"SHARDING": shard}):
            for alias in shard["SHARDS"]:
                run_once("s", "k", 1, lambda: 1, expires_in=late, using=alias)
            assert purge("--dry-run") == {"expired": 2, "deleted": 0}
            assert purge("--database", "shard_1") == {"expired": 1, "deleted": 1}
            assert purge() == {"expired": 1, "deleted": 1}


def test_purging_stopped_early_says_so_and_goes_on_later(
    expired: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Command, "must_stop", lambda self: True)
    with pytest.raises(CommandError, match="after 2 of 5 keys") as caught:
        purge("--batch-size", "2")
    assert caught.value.returncode == Exit.STOPPED
    assert IdempotencyKey.objects.count() == 4
    monkeypatch.undo()
    assert purge()["deleted"] == 3


@pytest.mark.django_db
def test_the_admin_shows_and_changes_nothing(admin_user: Any) -> None:
    request = RequestFactory().get("/")
    request.user = admin_user
    admin = site.get_model_admin(IdempotencyKey)
    assert admin.has_view_permission(request)
    assert not admin.has_add_permission(request)
    assert not admin.has_change_permission(request)
    assert not admin.has_delete_permission(request)


@pytest.mark.django_db
def test_the_admin_s_list_comes_up(expired: None, admin_client: Any) -> None:
    answer = admin_client.get("/admin/dbpatterns_idempotency/idempotencykey/")
    assert answer.status_code == 200
    assert b"alive" in answer.content


@pytest.mark.once
@pytest.mark.parametrize("app", APPS)
def test_models_of_an_app_that_is_not_installed_name_the_line_to_add(app: str) -> None:
    code = (
        "from django.conf import settings; import django\n"
        "settings.configure(INSTALLED_APPS=['dbpatterns']); django.setup()\n"
        f"import {app}.models\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert f'add "{app}" to INSTALLED_APPS' in done.stderr


@pytest.mark.once
@pytest.mark.django_db(databases="__all__", transaction=True)
@pytest.mark.parametrize("app", APPS)
def test_the_app_is_without_a_missing_migration_and_can_be_taken_out(app: str) -> None:
    label = app.replace(".", "_")
    call_command("makemigrations", label, "--check", "--dry-run", stdout=StringIO())
    try:
        call_command("migrate", label, "zero", verbosity=0)
        assert not [t for t in connection.introspection.table_names() if t.startswith(label)]
    finally:
        call_command("migrate", label, verbosity=0)
