"""What the documentation shows works: Python runs, commands parse, the tutorial comes up."""

import io
import os
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import get_commands, load_command_class
from django.test import override_settings

from dbpatterns import conf, telemetry
from tests.docs.pages import PAGES, ROOT, Block, Page, joined_commands

NOT_RUN = 2
"""Blocks marked as not run, in all pages together: each is a promise nobody checks."""

PYTHON_PAGES = [
    page
    for page in PAGES
    if not page.is_project and any(block.language == "python" for block in page.blocks)
]
PROJECT_PAGES = [page for page in PAGES if page.is_project]
SHELL_BLOCKS = [
    pytest.param(block, id=f"{page.name}:{block.line}")
    for page in PAGES
    for block in page.blocks
    if block.language in ("console", "bash", "sh")
]


def by_name(page: Page) -> str:
    return page.name


@pytest.fixture
def models_of_the_page() -> Iterator[None]:
    """Forget the models that a page defines: they have no tables, and others look at all models."""
    before = {label: dict(models) for label, models in apps.all_models.items()}
    yield
    for label, models in apps.all_models.items():
        for name in set(models) - set(before.get(label, ())):
            del models[name]
    apps.clear_cache()


@pytest.mark.django_db(databases="__all__")
@pytest.mark.usefixtures("models_of_the_page")
@pytest.mark.parametrize("page", PYTHON_PAGES, ids=by_name)
def test_the_python_of_a_page_runs(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("documentation")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(telemetry, "_listeners", ())  # what a page subscribes ends with it
    for block in page.blocks:
        if block.language == "python" and block.is_run:
            padding = "\n" * block.line  # so that a traceback shows the page's own line
            code = compile(padding + block.code, str(page.path), "exec")
            with redirect_stdout(io.StringIO()):
                exec(code, module.__dict__)
    if shown := getattr(module, "DBPATTERNS", None):
        with override_settings(DBPATTERNS=shown):
            assert list(conf.problems()) == []


@pytest.mark.once
@pytest.mark.parametrize("page", PROJECT_PAGES, ids=by_name)
def test_a_page_s_project_comes_up_and_says_what_the_page_says(page: Page, tmp_path: Path) -> None:
    here = Path(sys.executable).parent
    environment = {
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
    }

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0 or "SystemCheckError" in done.stdout, done.stdout
        return done.stdout

    for block in page.blocks:
        if not block.is_run:
            continue
        if block.file:
            verb, name = block.file
            path = tmp_path / name
            assert path.exists(), f"{page.name}:{block.line} writes {name}, which nothing made"
            path.write_text((path.read_text() if verb == "append" else "") + block.code)
        elif block.language == "python":
            run(sys.executable, "manage.py", "shell", "--verbosity=0", "-c", block.code)
        elif block.language == "console":
            for command, shown in commands_with_output(block):
                assert run("sh", "-c", command).strip() == shown.strip(), f"{page.name}: {command}"


def commands_with_output(block: Block) -> Iterator[tuple[str, str]]:
    for command in re.split(r"^\$ ", block.code, flags=re.MULTILINE)[1:]:
        yield tuple(command.split("\n", 1))  # type: ignore[misc]


@pytest.mark.parametrize("block", SHELL_BLOCKS)
def test_commands_exist_and_take_these_options(block: Block) -> None:
    for line in shell_lines(block):
        for command, arguments in management_commands(line):
            apps = get_commands()
            assert command in apps, f"there is no command {command}"
            known = load_command_class(apps[command], command)
            known.create_parser("manage.py", command).parse_args(arguments)  # raises if unknown


@pytest.mark.once
@pytest.mark.parametrize("block", SHELL_BLOCKS)
def test_make_has_these_targets_and_variables(block: Block) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \?=", makefile, re.MULTILINE))
    for line in shell_lines(block):
        if found := re.fullmatch(r"(?:[A-Z_]+=\S+ )*make (.+?)(?:\s+#.*)?", line):
            for word in shlex.split(found[1]):
                name, is_variable, _ = word.partition("=")
                assert name in (variables if is_variable else targets), f"make has no {name}"


def test_the_commands_of_the_pages_are_found() -> None:
    found = {
        command
        for parameters in SHELL_BLOCKS
        for line in shell_lines(parameters.values[0])
        for command, _ in management_commands(line)
    }
    assert {"run_standing_orders", "import_bank", "import_wxr"} <= found


def test_few_blocks_are_not_run() -> None:
    marked = [
        f"{page.name}:{block.line}" for page in PAGES for block in page.blocks if not block.is_run
    ]
    assert len(marked) == NOT_RUN, marked


def test_every_mark_is_one_that_the_tests_know() -> None:
    marks = [
        mark for page in PAGES for mark in re.findall(r"<!--\s*(.*?)\s*-->", page.text, re.DOTALL)
    ]
    used = [block.mark for page in PAGES for block in page.blocks if block.mark]
    assert marks == used, "a mark stands directly above its block, or it marks nothing"
    assert all(re.match(r"not run: \S|file: \S|append: \S", mark) for mark in marks)


def shell_lines(block: Block) -> list[str]:
    if block.language == "console":
        return list(joined_commands(block.code))
    return re.sub(r"\\\n\s*", "", block.code).splitlines()


def management_commands(line: str) -> Iterator[tuple[str, list[str]]]:
    for found in re.finditer(r"\bmanage\.py ([^|;&>]+)", line):
        command, *arguments = shlex.split(found[1], comments=True)
        yield command, arguments
