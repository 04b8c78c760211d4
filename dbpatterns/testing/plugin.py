"""The pytest plugin: `pytest --nplusone=raise` guards each test, and nothing else changes.

A test's own call is guarded, and so are the requests of its test client; what fixtures do to
set up is not. `@pytest.mark.nplusone("off")` changes the mode of a test, and takes `allow=` and
the other arguments of `guard`. Without the option the plugin imports nothing and does nothing,
except for a marked test and for the fixtures, `nplusone` and `pinned_shard_maps`.
"""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dbpatterns.queries import Finding, Report, guard

__all__ = ["nplusone", "pinned_shard_maps"]

_MODES = ("raise", "warn", "log", "autofix", "off")
_KEPT = pytest.StashKey["_Kept"]()
_ERROR = pytest.StashKey[BaseException]()
"""What a test ended with, for its fixture `nplusone`, which does not see it."""


class _Kept:
    """What is gathered over the whole run."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.matched: list[object] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--nplusone` and the options of the baseline."""
    group = parser.getgroup("nplusone", "N+1 queries (django-dbpatterns)")
    group.addoption(
        "--nplusone",
        choices=_MODES,
        help="What happens to an N+1 query in a test; unguarded if not given.",
    )
    group.addoption(
        "--nplusone-writes",
        choices=("raise", "warn", "log", "off"),
        default="off",
        help="What happens to writes in a loop; off, since tests write rows one by one.",
    )
    group.addoption(
        "--nplusone-baseline", metavar="FILE", help="Let the findings of this file pass."
    )
    group.addoption(
        "--nplusone-freeze", metavar="FILE", help="Write the findings to this file; none fails."
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker, and refuse a broken allow-list or baseline before the first test."""
    config.addinivalue_line(
        "markers", "nplusone(mode, **options): guard the test against N+1 queries in this mode"
    )
    config.stash[_KEPT] = _Kept()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse a broken allow-list or baseline before the first test."""
    if _mode(session.config) is not None:
        from dbpatterns.errors import ConfigurationError

        try:
            _guard(session.config, {})
        except ConfigurationError as error:
            raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Guard the call of a test that asks for it."""
    options = _options(item)
    if options is None:
        try:
            return (yield)
        except BaseException as error:
            item.stash[_ERROR] = error
            raise
    guard = _guard(item.config, options)
    try:
        with guard as report:
            return (yield)
    finally:
        _keep(item.config, report)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(request: pytest.FixtureRequest) -> Generator[None, object, object]:
    """Leave fixtures that a running test asks for alone, as those before it are."""
    if _options(request.node) is None:
        return (yield)
    from dbpatterns.queries import guard

    with guard("off"):
        return (yield)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which entries of the settings' allow-list matched nothing in the whole run."""
    kept = config.stash[_KEPT]
    if _mode(config) in (None, "off"):
        return
    from dbpatterns.queries import freeze
    from dbpatterns.queries.allowing import checked
    from dbpatterns.queries.conf import QueriesSettings

    stale = [e for e in checked(QueriesSettings.load().allow) if e not in kept.matched]
    path = config.getoption("--nplusone-freeze")
    if path:
        count = freeze(path, kept.findings)
        terminalreporter.write_line(f"nplusone: {count} findings written to {path}")
    if stale:
        terminalreporter.section("nplusone: entries of the allow-list that match nothing")
        for entry in stale:
            terminalreporter.write_line(str(entry))


@pytest.fixture
def nplusone(request: pytest.FixtureRequest) -> "Iterator[Report]":
    """Guard the test that asks for it, in mode "raise", from here on; give its report."""
    from dbpatterns.queries import guard

    watching = guard("raise", writes="off")
    yield watching.__enter__()
    error = request.node.stash.get(_ERROR, None)
    watching.__exit__(None if error is None else type(error), error, None)


@pytest.fixture
def pinned_shard_maps() -> Iterator[None]:
    """Place rows of sharded models by the settings' first maps, and read no map."""
    from dbpatterns.testing.sharding import pinned_maps

    with pinned_maps():
        yield


def _mode(config: pytest.Config) -> str | None:
    mode: str | None = config.getoption("--nplusone")
    if mode is None and config.getoption("--nplusone-freeze"):
        return "log"
    return mode


def _options(node: Any) -> dict[str, Any] | None:
    """Return the arguments of a test's guard, None when it has none."""
    marker = node.get_closest_marker("nplusone")
    mode = _mode(node.config)
    if marker is None:
        return None if mode is None else {"mode": mode}
    given = {"mode": mode or "raise", **marker.kwargs}
    if marker.args:
        given["mode"] = marker.args[0]
    return given


def _guard(config: pytest.Config, options: dict[str, Any]) -> "guard":
    from dbpatterns.queries import guard

    given = {
        "mode": _mode(config),
        "writes": config.getoption("--nplusone-writes"),
        "baseline": config.getoption("--nplusone-baseline"),
        **options,
    }
    return guard(**given)


def _keep(config: pytest.Config, report: "Report") -> None:
    kept = config.stash[_KEPT]
    kept.findings += report
    kept.matched += report.matched
