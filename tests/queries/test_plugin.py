"""The pytest plugin in a run of its own, and what it leaves alone without its option."""

import subprocess
import sys
from pathlib import Path

import pytest
from django.test import override_settings

from tests.testapp.models import Genre, Novel

PLUGIN = ("-p", "dbpatterns.testing.plugin")
TESTS = """
import pytest
from tests.testapp.models import Genre, Novel
from dbpatterns.queries import NPlusOneError

def loop():
    return [novel.novelist.name for novel in Novel.objects.all()]

@pytest.fixture
def prepared():
    return loop()

def test_loop():
    loop()

def test_fixture(prepared):
    assert len(prepared) == 4

def test_fixture_on_demand(request):
    assert len(request.getfixturevalue("prepared")) == 4

def test_caught():
    with pytest.raises(NPlusOneError):
        loop()

@pytest.mark.nplusone("off")
def test_off():
    loop()

@pytest.mark.nplusone(allow=[{"what": "testapp.Novel.novelist", "reason": "few"}])
def test_allowed():
    loop()

def test_rows_written_one_by_one():
    for name in "abc":
        Genre.objects.create(name=name)
"""


@pytest.fixture
def run(
    novels: list[Novel], pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    """A run inside this one, on its database and in its transaction."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\naddopts = -W error\n")
    pytester.makepyfile(TESTS)
    return pytester


def test_without_the_option_only_marked_tests_are_guarded(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("-q", *PLUGIN)
    result.assert_outcomes(passed=6, failed=1)
    result.stdout.fnmatch_lines(["*DID NOT RAISE NPlusOneError*"])


def test_raise_fails_the_loop_and_not_the_fixture(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("-q", *PLUGIN, "--nplusone=raise")
    result.assert_outcomes(passed=5, failed=2)
    result.stdout.fnmatch_lines(
        ["*N+1: 2 queries so far for Novel.novelist*", '*fix*.select_related("novelist")*']
    )
    failed = [line for line in result.outlines if line.startswith("FAILED")]
    assert [line.split("::")[1].split(" ")[0] for line in failed] == ["test_loop", "test_caught"]


def test_warn_and_off_fail_nothing(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess(
        "-q", *PLUGIN, "--nplusone=warn", "-W", "default", "-k", "test_loop"
    )
    result.assert_outcomes(passed=1, warnings=1)
    result = run.runpytest_inprocess("-q", *PLUGIN, "--nplusone=off", "-k", "test_loop")
    result.assert_outcomes(passed=1)


def test_writes_are_looked_at_when_asked_for(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess(
        "-q", *PLUGIN, "--nplusone=raise", "--nplusone-writes=raise", "-k", "one_by_one"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*N+1: 3 writes for Genre.objects.create()*"])


def test_a_frozen_baseline_lets_old_findings_pass(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess("-q", *PLUGIN, "--nplusone-freeze=old.json", "-k", "test_loop")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["nplusone: 1 findings written to old.json"])
    result = run.runpytest_inprocess(
        "-q", *PLUGIN, "--nplusone=raise", "--nplusone-baseline=old.json", "-k", "test_loop"
    )
    result.assert_outcomes(passed=1)


def test_a_broken_baseline_ends_the_run_before_its_first_test(run: pytest.Pytester) -> None:
    result = run.runpytest_inprocess(
        "-q", *PLUGIN, "--nplusone=raise", "--nplusone-baseline=nowhere.json"
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*There is no baseline 'nowhere.json'*"])


def test_entries_of_the_settings_that_match_nothing_are_told_at_the_end(
    run: pytest.Pytester,
) -> None:
    entries = [
        {"what": "testapp.Novel.novelist", "reason": "few"},
        {"what": "testapp.Novel.editor", "reason": "gone"},
    ]
    with override_settings(DBPATTERNS={"QUERIES": {"ALLOW": entries}}):
        result = run.runpytest_inprocess("-q", *PLUGIN, "--nplusone=raise", "-k", "test_loop")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*entries of the allow-list that match nothing*",
            "allow('testapp.Novel.editor', reason='gone')",
        ]
    )
    result.stdout.no_fnmatch_line("allow('testapp.Novel.novelist'*")


def test_the_fixture_guards_a_test(run: pytest.Pytester) -> None:
    run.makepyfile(
        TESTS
        + """
def test_guarded(nplusone):
    assert nplusone.queries == 0
    loop()
"""
    )
    result = run.runpytest_inprocess("-q", *PLUGIN, "-k", "test_guarded")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*N+1: 2 queries so far for Novel.novelist*"])


def test_a_project_without_django_runs_as_before(tmp_path: Path) -> None:
    (tmp_path / "test_plain.py").write_text(
        "import sys\ndef test_plain():\n    assert 'django' not in sys.modules\n"
    )
    root = Path(__file__).parents[2]
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import pytest; sys.exit(pytest.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-p", "dbpatterns.testing.plugin", str(tmp_path)],
        cwd=tmp_path,
        env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_genres_are_rolled_back(db: None) -> None:
    assert Genre.objects.count() == 0
