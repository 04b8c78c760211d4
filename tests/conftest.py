"""One run of the suite on one vendor: `pytest --vendor postgresql` or `--vendor sqlite`.

The servers start before Django does, so that settings find their addresses in the environment,
and stop when the run ends, however it ends.
"""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.servers import ServerDidNotStart, running_redis, start_clusters

pytest_plugins = ["pytester"]

_STACK = pytest.StashKey[ExitStack]()
_HEADER = pytest.StashKey[str]()
CLUSTERS = ("default", "shard_0", "shard_1")
NO_ANALYZE = {"autovacuum_analyze_threshold": str(2**31 - 1)}
"""Nothing but a test analyzes: it would change plans, and be a transaction beside the test's."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--vendor`."""
    parser.addoption(
        "--vendor",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="Run on SQLite files and four shards, or on three PostgreSQL servers of our own.",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Start the servers, name them in the environment and set Django up."""
    stack = config.stash[_STACK] = ExitStack()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated run cleans up too
    for name in ("DATABASE_URL", "DBPATTERNS_SHARD_URLS", "REDIS_URL"):
        os.environ.pop(name, None)
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dbpatterns-data-"))
    os.environ["DEMO_DATA_DIR"] = folder
    config.stash[_HEADER] = "databases: SQLite files, default and four shards"
    if config.option.vendor == "postgresql" and not config.option.collectonly:
        try:
            clusters = stack.enter_context(start_clusters(*CLUSTERS, **NO_ANALYZE))
        except ServerDidNotStart as error:
            raise pytest.UsageError(str(error)) from error
        os.environ["DATABASE_URL"] = clusters[0].url
        os.environ["DBPATTERNS_SHARD_URLS"] = ",".join(each.url for each in clusters[1:])
        config.stash[_HEADER] = f"databases: {len(clusters)} servers, {clusters[0].version}"
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    import django

    django.setup()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop the servers."""
    config.stash[_STACK].close()


def pytest_report_header(config: pytest.Config) -> str:
    """Say what this run runs on."""
    return config.stash[_HEADER]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave PostgreSQL's own tests to its run, and what depends on no vendor to the other."""
    left_out = {"postgresql"} if config.option.vendor == "sqlite" else {"browser", "once"}
    dropped = [item for item in items if left_out & {mark.name for mark in item.iter_markers()}]
    items[:] = [item for item in items if item not in dropped]
    config.hook.pytest_deselected(items=dropped)


@pytest.fixture(scope="session", autouse=True)
def first_maps() -> Iterator[None]:
    """Place rows by the first maps, unread: else a map's age would add to counts of queries."""
    from dbpatterns.testing.sharding import pinned_maps

    with pinned_maps():
        yield


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis, started when first asked for."""
    with running_redis() as url:
        yield url
