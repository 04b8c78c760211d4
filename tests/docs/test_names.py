"""The documentation and the source name the same things: nothing invented, nothing left out."""

import argparse
import dataclasses
import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand
from django.utils.module_loading import import_string

from dbpatterns import conf
from dbpatterns.commands import Exit, OperationalCommand
from dbpatterns.sharding import errors
from tests.docs.pages import PAGES, ROOT, Page

pytestmark = pytest.mark.once

TEXT = "\n".join(page.text for page in PAGES)
CHECK_ID = re.compile(r"\bdbpatterns(?:_[a-z]+)?\.[CDEIW]\d{3}\b")
VARIABLE = re.compile(
    r"\b(?:DATABASE_URL|REDIS_URL|DBPATTERNS_SHARD_URLS"
    r"|(?:DJANGO|DEMO|DOCS|DBPATTERNS_TEST)_[A-Z][A-Z_]*[A-Z])\b"
)
PROBLEM = re.compile(r"/problems/([a-z-]+)")
COMMANDS = {
    "index_advise": "dbpatterns",
    "query_report": "dbpatterns",
    "transaction_report": "dbpatterns",
    "purge_idempotency_keys": "dbpatterns.idempotency",
    "rebuild_projection": "dbpatterns.eventstore",
    "migrate": "dbpatterns.sharding",
    "shard_status": "dbpatterns.sharding",
    "verify_ledger": "dbpatterns.ledger",
    "expire_transfers": "dbpatterns.ledger",
    "shard_map": "dbpatterns.sharding",
    "sweep_lookups": "dbpatterns.sharding",
    "demo": "demo.web",
    "import_wxr": "demo.blog",
    "import_bank": "demo.banking",
    "run_standing_orders": "demo.banking",
}


def docs(name: str) -> str:
    return Page(ROOT / "docs" / name).text


def source(*patterns: str) -> str:
    own = Path(__file__).parent
    files = {
        path
        for pattern in patterns
        for path in ROOT.glob(pattern)
        if path.is_file() and own not in path.parents
    }
    return "\n".join(path.read_text(encoding="utf-8") for path in sorted(files))


def first_column(text: str) -> set[str]:
    return set(re.findall(r"^\| `([^` ]+)[^`]*` \|", text, re.MULTILINE))


def section(text: str, title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no section {title}"
    return found[1]


def test_check_ids_are_those_of_the_source() -> None:
    in_source = set(re.findall(r'\bid="(\S+)"', source("dbpatterns/**/*.py")))
    assert in_source
    assert set(CHECK_ID.findall(TEXT)) == in_source
    headings = re.findall(r"^## (\S+)$", docs("reference/checks.md"), re.MULTILINE)
    assert headings == sorted(in_source)


def test_errors_of_sharding_are_those_of_the_source() -> None:
    assert first_column(section(docs("reference/errors.md"), "Of sharding")) == set(errors.__all__)


def test_settings_are_those_of_the_source() -> None:
    text = docs("reference/settings.md")
    assert set(re.findall(r"^## (\S+)$", text, re.MULTILINE)) == set(conf.SECTIONS)
    for name, path in conf.SECTIONS.items():
        fields = {each.name.upper() for each in dataclasses.fields(import_string(path))}
        assert first_column(section(text, name)) == fields


def test_settings_named_anywhere_exist() -> None:
    for name, key in re.findall(r"""DBPATTERNS\[["'](\w+)["']\](?:\[["'](\w+)["']\])?""", TEXT):
        fields = dataclasses.fields(import_string(conf.SECTIONS[name]))
        assert key.lower() in {"", *(each.name for each in fields)}


def test_environment_variables_are_those_of_the_source() -> None:
    read = set(
        VARIABLE.findall(
            source("demo/**/*.py", "manage.py", "docs/conf.py", "docker-compose.yml")
            + source("tests/conftest.py", "tests/servers.py", "tests/settings.py")
        )
    )
    read |= {
        name
        for name in VARIABLE.findall(source("tests/**/*.py"))
        if name.startswith("DBPATTERNS_TEST_")
    }
    assert set(VARIABLE.findall(TEXT)) == read
    listed = first_column(docs("reference/environment.md"))
    assert {name for name in listed if VARIABLE.fullmatch(name)} == read


def test_variables_of_compose_are_listed() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", source("docker-compose.yml")))
    text = section(docs("reference/environment.md"), "Docker Compose")
    assert set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text)) == used


def test_problem_types_are_those_of_the_source() -> None:
    code = source("demo/api/*.py", "demo/banking/transfers.py")
    refusals = re.search(r"class Refusal\(StrEnum\):(.*?)\n\n\n", code, re.DOTALL)
    assert refusals
    in_source = {
        *re.findall(r' = "([a-z-]+)"', refusals[1]),
        *re.findall(r'slug="([a-z-]+)"', code),
        *re.findall(r'"/problems/([a-z-]+)"', code),
    }
    assert {
        name.removeprefix("/problems/")
        for name in first_column(docs("reference/demo-api.md"))
        if PROBLEM.fullmatch(name)
    } == in_source
    assert set(PROBLEM.findall(TEXT)) == in_source


def test_commands_are_those_of_the_source() -> None:
    files = [*ROOT.glob("demo/*/management/commands/*.py")]
    files += ROOT.glob("dbpatterns/**/management/commands/*.py")
    assert {path.stem for path in files} - {"__init__"} == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_of_a_command_are_those_of_the_source(name: str) -> None:
    command = load_command_class(COMMANDS[name], name)
    text = section(docs("reference/commands.md"), name)
    assert set(re.findall(r"--[a-z][a-z-]*", text)) == options(command) - options(BaseCommand()) - {
        "--format"
    }


def test_common_options_are_those_of_the_source() -> None:
    text = section(docs("reference/commands.md"), "Common options")

    class Everything(OperationalCommand):
        common_options = tuple(first_column(text) - {"--format"})

    assert options(Everything()) - options(BaseCommand()) == first_column(text)
    known = re.search(r"known: dict.*?\n        \}", source("dbpatterns/commands.py"), re.DOTALL)
    assert known
    assert set(re.findall(r'"(--[a-z-]+)": \{', known[0])) == first_column(text) - {"--format"}


def test_exit_codes_are_those_of_the_source() -> None:
    text = section(docs("reference/commands.md"), "Exit codes")
    rows = re.findall(r"^\| (\d) \| `(\w+)` \|", text, re.MULTILINE)
    assert rows == [(str(int(each)), each.name) for each in Exit]
    cron = re.findall(r"^\| (\d) \|", docs("how-to/cron.md"), re.MULTILINE)
    assert cron == [str(int(each)) for each in Exit]


def options(command: BaseCommand) -> set[str]:
    parsers = [command.create_parser("manage.py", "command")]
    found: set[str] = set()
    for parser in parsers:
        for action in parser._actions:
            found.update(action.option_strings)
            if isinstance(action, argparse._SubParsersAction):
                parsers += action.choices.values()
    return found - {"-h", "--help"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Page) -> None:
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", page.text, flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = unquote(target).partition("#")
            file = page.path.parent / path if path else page.path
            assert file.exists(), f"{page.name} leads to {target}, which is not there"
            assert not anchor or anchor in anchors(file), f"{page.name}: no {target}"


def anchors(file: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_no_page_names_this_machine_or_a_registry() -> None:
    files = source("*.md", "docs/**/*.md", "docs/conf.py", "docker/**/*", "Dockerfile", "*.yml")
    for path in (ROOT, Path.home()):
        if len(path.parts) > 2:
            assert str(path) not in files
    assert not re.search(r"https?://[^\s)]*(pypi|pythonhosted|index-url)", files)
