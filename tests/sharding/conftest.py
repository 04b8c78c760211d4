"""A small shop on the shards and the same on one database, and a project with its own shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.db import connections
from django.test import Client

from dbpatterns.commands import Exit
from tests.servers import Standby
from tests.sharding.fleet import Fleet


@pytest.fixture
def filled(db: None) -> Iterator[None]:
    """The shop with its rows, on the shards and on one database; at the end all are in place."""
    from tests.plainshop import models as plain  # models, which are there when Django is set up
    from tests.sharding.support import fill, misplaced
    from tests.shop import models as shop

    fill(shop)
    fill(plain)
    yield
    assert misplaced() == []


@pytest.fixture(params=[False, True], ids=["", "ATOMIC_REQUESTS"])
def staff(
    request: pytest.FixtureRequest, client: Client, monkeypatch: pytest.MonkeyPatch
) -> Client:
    """One who may do everything, with and without a transaction around each request."""
    settings = connections["default"].settings_dict
    monkeypatch.setitem(settings, "ATOMIC_REQUESTS", request.param)
    client.force_login(get_user_model().objects.create_superuser("staff", password="secret"))
    return client


@pytest.fixture(scope="session")
def fleet_template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet whose shards have the first migration."""
    fleet = Fleet(tmp_path_factory.mktemp("fleet"))
    _, err = fleet.run("migrate", "--shards", "all", exits=Exit.USAGE)
    assert "run `migrate --database default` first" in err
    fleet.run("migrate", "-v", "0")
    fleet.migrate("fleet", "0001")
    yield fleet
    fleet.close()


@pytest.fixture
def fleet(fleet_template: Fleet, tmp_path: Path) -> Iterator[Fleet]:
    """A copy of it for one test."""
    fleet = Fleet(tmp_path, fleet_template)
    yield fleet
    fleet.close()


@pytest.fixture(scope="module")
def standby(django_db_setup: None, django_db_blocker: Any) -> Iterator[Standby]:
    """The first shard's replica."""
    from tests.sharding.replica import replica_of_first_shard

    with django_db_blocker.unblock(), replica_of_first_shard() as server:
        yield server
