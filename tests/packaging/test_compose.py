"""docker-compose.yml and the settings agree: what the demo is told to reach is there."""

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import dj_database_url
import pytest
import yaml

from tests.servers import SETTINGS

pytestmark = pytest.mark.once
ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "docker-compose.yml"
PASSWORD = "s3cret"


def interpolated(text: str) -> str:
    """Replace `${NAME:?…}` and `${NAME:-default}` as Compose does."""
    text = re.sub(r"\$\{POSTGRES_PASSWORD:\?[^}]+\}", PASSWORD, text)
    text = re.sub(r"(?<!\$)\$\{[A-Z0-9_]+:-([^}]*)\}", r"\1", text)
    assert not re.search(r"(?<!\$)\$\{", text), "a variable without a default or a reason"
    return text


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(FILE.read_text()))["services"]
    return loaded


def databases(services: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    environment = services["demo"]["environment"]
    urls = [environment["DATABASE_URL"], *environment["DBPATTERNS_SHARD_URLS"].split(",")]
    return [dict(dj_database_url.parse(url)) for url in urls]


def test_the_services_are_the_promised_ones(services: dict[str, dict[str, Any]]) -> None:
    assert set(services) == {"default", "shard-0", "shard-1", "redis", "pgbouncer", "demo"}


def test_the_demo_is_told_databases_that_exist(services: dict[str, dict[str, Any]]) -> None:
    found = databases(services)
    assert [each["HOST"] for each in found] == ["default", "shard-0", "shard-1"]
    for each in found:
        server = services[each["HOST"]]
        assert each["ENGINE"] == "django.db.backends.postgresql"
        assert each["PORT"] == 5432 == int(server["ports"][0].rpartition(":")[2])
        assert server["environment"] == {
            "POSTGRES_USER": each["USER"],
            "POSTGRES_DB": each["NAME"],
            "POSTGRES_PASSWORD": each["PASSWORD"],
        }


def test_the_demo_is_told_a_redis_that_exists(services: dict[str, dict[str, Any]]) -> None:
    found = re.fullmatch(
        r"redis://([a-z]+):(\d+)/\d+", services["demo"]["environment"]["REDIS_URL"]
    )
    assert found
    assert found[2] == services[found[1]]["ports"][0].rpartition(":")[2]


def test_the_demo_is_told_nothing_that_its_settings_do_not_read(
    services: dict[str, dict[str, Any]],
) -> None:
    settings = (ROOT / "demo" / "settings.py").read_text()
    for name in services["demo"]["environment"]:
        assert f'os.environ.get("{name}"' in settings, name


def test_the_postgresql_servers_have_what_the_patterns_need(
    services: dict[str, dict[str, Any]],
) -> None:
    for name in ("default", "shard-0", "shard-1"):
        server, *options = services[name]["command"]
        assert server == "postgres"
        assert options[::2] == ["-c"] * len(options[::2])
        given = dict(option.split("=") for option in options[1::2])
        assert given == {
            key: SETTINGS[key] for key in ("max_prepared_transactions", "wal_level")
        }, "the same as the suite's own servers"


def test_every_service_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL"), name
        assert {"interval", "timeout", "retries"} <= set(check), name


def test_who_depends_on_a_service_waits_until_it_is_healthy(
    services: dict[str, dict[str, Any]],
) -> None:
    waits = {name: service.get("depends_on", {}) for name, service in services.items()}
    assert set(waits["demo"]) == {"default", "shard-0", "shard-1", "redis"}
    assert set(waits["pgbouncer"]) == {"default"}
    for on in waits.values():
        assert all(each == {"condition": "service_healthy"} for each in on.values())


def test_ports_are_bound_to_this_machine_and_differ(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service["ports"]]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports), ports
    assert len({port.split(":")[1] for port in ports}) == len(ports)


def test_volumes_are_declared_and_nobody_shares_one(services: dict[str, dict[str, Any]]) -> None:
    used = [
        each.split(":")[0] for service in services.values() for each in service.get("volumes", [])
    ]
    assert sorted(used) == sorted(yaml.safe_load(FILE.read_text())["volumes"])
    assert len(set(used)) == len(used)


def test_no_password_is_written_down() -> None:
    text = FILE.read_text()
    assert "${POSTGRES_PASSWORD:-" not in text
    assert not re.findall(r"://\w+:(?!\$\{)[^@\s]*@", text)
    assert all("${" in line for line in text.splitlines() if "PASSWORD: " in line)


def test_pgbouncer_pools_transactions_in_front_of_default(
    services: dict[str, dict[str, Any]],
) -> None:
    ini = ConfigParser(delimiters="=", comment_prefixes=";")
    ini.read(ROOT / "docker" / "pgbouncer" / "pgbouncer.ini")
    default, *_ = databases(services)
    target = dict(part.split("=") for part in ini["databases"][default["NAME"]].split())
    assert target == {
        "host": default["HOST"],
        "port": str(default["PORT"]),
        "dbname": default["NAME"],
    }
    assert ini["pgbouncer"]["pool_mode"] == "transaction"
    service = services["pgbouncer"]
    assert service["ports"][0].endswith(f":{ini['pgbouncer']['listen_port']}")
    assert service["environment"] == services["default"]["environment"]
    start = (ROOT / "docker" / "pgbouncer" / "start.sh").read_text()
    assert ini["pgbouncer"]["auth_file"] in start


def test_dockerfiles_copy_what_is_there_and_drop_root(services: dict[str, dict[str, Any]]) -> None:
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    for name in ("demo", "pgbouncer"):
        folder = ROOT / services[name]["build"]
        text = (folder / "Dockerfile").read_text()
        for sources in re.findall(r"^COPY (.+) \S+$", text, re.MULTILINE):
            for each in sources.split():
                assert (folder / each).exists(), each
                assert name != "demo" or f"!{each}" in allowed, f".dockerignore hides {each}"
        users = re.findall(r"^USER (\S+)$", text, re.MULTILINE)
        assert users, name
        assert users[-1] not in ("root", "0"), name


def test_compose_itself_accepts_the_file() -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not here; the other tests parse the file")
    config = [docker, "compose", "-f", str(FILE), "config", "--quiet"]
    environment = {**os.environ, "POSTGRES_PASSWORD": PASSWORD}
    done = subprocess.run(config, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    environment["POSTGRES_PASSWORD"] = ""
    assert subprocess.run(config, env=environment, capture_output=True).returncode != 0
