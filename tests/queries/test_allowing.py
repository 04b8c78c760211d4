"""Allow-lists and baselines: what they let pass, what they refuse, what they report."""

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from dbpatterns.errors import ConfigurationError
from dbpatterns.queries import NPlusOneError, NPlusOneWarning, allow, freeze, guard
from dbpatterns.queries.baseline import known_findings
from tests.testapp.models import Novel


def loop() -> None:
    for novel in Novel.objects.all():
        _ = novel.novelist.name


def count() -> None:
    for novel in Novel.objects.all():
        novel.critiques.count()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "entry",
    [
        {"what": "testapp.Novel.novelist"},
        {"what": "testapp.Novel.*"},
        {"at": "tests/queries/test_allowing.py"},
        {"at": "test_allowing.py"},
        {"at": "tests/*"},
        {"sql": r"FROM .testapp_novelist. WHERE"},
        {"what": "testapp.Novel.novelist", "at": "test_allowing.py", "until": "2999-12-31"},
    ],
)
def test_an_entry_that_matches_lets_pass(novels: list[Novel], entry: dict[str, str]) -> None:
    with guard("raise", allow=[{**entry, "reason": "few"}]) as report:
        loop()
    assert len(report.allowed) == 1
    assert report.stale == []


@pytest.mark.parametrize(
    "entry",
    [
        {"what": "testapp.Novel.editor"},
        {"what": "testapp.Novel"},
        {"what": "testapp.Novel.novelist", "at": "views.py"},
        {"sql": "FROM other"},
    ],
)
def test_an_entry_that_does_not_match_lets_nothing_pass(
    novels: list[Novel], entry: dict[str, str]
) -> None:
    with (
        pytest.warns(NPlusOneWarning, match="matches nothing any more"),
        pytest.raises(NPlusOneError),
        guard("raise", allow=[allow(**entry, reason="few")]),
    ):
        loop()


def test_a_method_is_allowed_with_or_without_its_name(novels: list[Novel]) -> None:
    for what in ("testapp.Novel.critiques", "testapp.Novel.critiques.count"):
        with guard("raise", allow=[allow(what, reason="few")]):
            count()


def test_an_expired_entry_lets_nothing_pass_and_is_told(novels: list[Novel]) -> None:
    yesterday = datetime.date.today() - datetime.timedelta(days=1)
    entry = allow("testapp.Novel.novelist", reason="few", until=yesterday.isoformat())
    with (
        pytest.warns(NPlusOneWarning, match="has expired: remove it"),
        pytest.raises(NPlusOneError),
        guard("raise", allow=[entry]) as report,
    ):
        loop()
    assert report.expired == [entry]


def test_an_entry_allows_on_its_last_day(novels: list[Novel]) -> None:
    last = datetime.date.today() + datetime.timedelta(days=1)  # midnight may pass meanwhile
    entry = allow("testapp.Novel.novelist", reason="few", until=last.isoformat())
    with guard("raise", allow=[entry]):
        loop()
    assert not entry.is_expired(last)
    assert entry.is_expired(last + datetime.timedelta(days=1))


def test_a_stale_entry_is_told_by_the_guard_it_was_given_to(
    novels: list[Novel], caplog: pytest.LogCaptureFixture
) -> None:
    entry = allow("testapp.Novel.novelist", reason="few")
    with guard("log", allow=[entry]) as report:
        list(Novel.objects.all())
    assert report.stale == [entry]
    assert "allow('testapp.Novel.novelist', reason='few') matches nothing any more" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reason": "few"}, "say what it allows"),
        ({"what": "testapp.Novel"}, "give a reason"),
        ({"what": "testapp.Novel", "reason": " "}, "give a reason"),
        ({"what": "testapp.Novel", "reason": "few", "until": "soon"}, "until is no date like"),
        ({"sql": "(", "reason": "few"}, "sql is no regular expression"),
        ({"what": 1, "reason": "few"}, "what must be text"),
    ],
)
def test_a_broken_entry_is_an_error_where_it_is_made(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        allow(**arguments)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("nowhere.Novel.novelist", "there is no model nowhere.Novel"),
        ("testapp.Nowel.novelist", "there is no model testapp.Nowel"),
        ("testapp.Novel.author", "testapp.Novel has no 'author'"),
    ],
)
def test_an_entry_for_what_there_is_not_is_an_error_at_start(what: str, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        guard(allow=[allow(what, reason="few")])


@pytest.mark.parametrize(
    "what",
    ["sql", "testapp.Novel", "testapp.Novel.critiques.count", "testapp.Novel.get", "test*.N?vel.x"],
)
def test_an_entry_for_what_there_may_be_is_taken(what: str) -> None:
    assert guard(allow=[allow(what, reason="few")]).own


def test_an_unknown_argument_in_the_settings_names_the_known_ones() -> None:
    with pytest.raises(
        ConfigurationError, match=r"has no 'because'\. Known: what, at, sql, reason"
    ):
        guard(allow=[{"what": "testapp.Novel", "because": "few"}])


# Baselines


def test_a_baseline_lets_pass_what_is_in_it_and_nothing_else(
    novels: list[Novel], tmp_path: Path
) -> None:
    path = tmp_path / "nplusone.json"
    with guard("log") as report:
        loop()
    assert freeze(path, [*report, *report]) == 1
    with guard("raise", baseline=path) as again:
        loop()
    assert len(again.allowed) == 1
    with pytest.raises(NPlusOneError), guard("raise", baseline=path):
        count()


def test_a_baseline_holds_no_lines_and_is_stable(novels: list[Novel], tmp_path: Path) -> None:
    path = tmp_path / "nplusone.json"
    with guard("log") as report:
        count()
        loop()
    freeze(path, report)
    content = json.loads(path.read_text())
    assert [each["finding"] for each in content["findings"]] == [
        "read|testapp.Novel.critiques.count|tests/queries/test_allowing.py|count|",
        "read|testapp.Novel.novelist|tests/queries/test_allowing.py|loop|",
    ]
    assert known_findings(path) == {each.fingerprint for each in report}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read"),
        ("[]", "is none of ours"),
        ('{"version": 2, "findings": []}', "its version is 2, not 1"),
        ('{"version": 1}', "is none of ours: 'findings'"),
        ('{"version": 1, "findings": [{"finding": 3}]}', "a finding is no text"),
        ('{"version": 1, "findings": [{"finding": []}]}', "is none of ours"),
    ],
)
def test_a_broken_baseline_is_an_error_at_start(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=words):
        guard(baseline=path)


def test_an_empty_baseline_is_one(tmp_path: Path) -> None:
    path = tmp_path / "empty.json"
    assert freeze(path, []) == 0
    assert known_findings(path) == frozenset()
