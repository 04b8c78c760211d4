"""Sphinx builds every page without a warning, with no network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

pytestmark = pytest.mark.once


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DOCS_INTERSPHINX"}
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "-n", "-b", "html"]
    return subprocess.run(
        [*command, "-d", str(output / ".doctrees"), str(source), str(output)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    done = build(ROOT / "docs", tmp_path)
    assert done.returncode == 0, done.stderr
    for page in PAGES:
        if ROOT / "docs" in page.path.parents:
            relative = page.path.relative_to(ROOT / "docs").with_suffix(".html")
            assert (tmp_path / relative).is_file()
