"""The wheel is what users get: complete, without the demo, and enough to run the demo on."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.once
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_its_types_and_licence_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == {
        str(path.relative_to(ROOT))
        for path in (ROOT / "dbpatterns").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert "dbpatterns/py.typed" in inside
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_demo_runs_on_the_wheel_instead_of_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    project = tmp_path / "project"
    shutil.copytree(ROOT / "demo", project / "demo")
    shutil.copy(ROOT / "manage.py", project)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "DBPATTERNS_SHARD_URLS", "DJANGO_SETTINGS_MODULE")
    } | {"PYTHONPATH": str(tmp_path / "installed"), "DEMO_DATA_DIR": str(tmp_path / "data")}
    script = (
        "import dbpatterns, sys; print(dbpatterns.__file__)\n"
        "from manage import main; sys.argv = ['manage.py', 'demo']; main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "installed"))
    assert "Standing orders" in done.stdout
