"""The Makefile: folders of any name, an environment that failed to install, another Django."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).resolve().parents[2]


SET_BY_USERS = {"ARGS", "DATA", "DJANGO", "ONLY", "PORT", "PYTHON", "SERVE", "VENV"}


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as if nobody had: `make test DJANGO=…` hands its own variables down."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if "MAKE" not in name and name not in SET_BY_USERS and name != "MFLAGS"
    }
    return subprocess.run(["make", *arguments], cwd=ROOT, env=clean, capture_output=True, text=True)


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment that counts as made and installed."""
    for name in ("bin/python", ".demo", ".dev"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_the_data_may_lie_in_a_folder_with_spaces(venv: Path) -> None:
    told = make("-n", "demo", "SERVE=0", f"VENV={venv}", "DATA=/my data").stdout
    assert shlex.split(told.splitlines()[0])[1:] == ["manage.py", "demo", "--data", "/my data"]


def test_an_environment_whose_pip_failed_is_made_again(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\n"
        '[ "$2" != venv ] || { mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; }\n'
        '[ "$2" != pip ]\n'
    )
    python.chmod(0o755)
    made = tmp_path / "venv" / "bin" / "python"
    done = make(f"{made}", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode == 2, done.stdout
    assert "pip install" in done.stdout
    assert not made.exists()


def test_another_django_is_installed_into_an_environment_that_is_there(venv: Path) -> None:
    assert "pip install" not in make("-n", "test", f"VENV={venv}").stdout
    told = make("-n", "test", f"VENV={venv}", "DJANGO=Django~=6.1.0").stdout
    assert '--group docs "Django~=6.1.0"' in told
