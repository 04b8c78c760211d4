"""The demo's settings: servers by environment alone, and a production site that is refused bare."""

import json
import os
import subprocess
import sys
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
from asgiref.sync import async_to_sync
from asgiref.testing import ApplicationCommunicator

pytestmark = pytest.mark.once

SHOW = """
import json
from demo import settings
print(json.dumps({
    "databases": {alias: [each["ENGINE"].rpartition(".")[2], str(each["NAME"]), each["HOST"]]
                  for alias, each in settings.DATABASES.items()},
    "shards": settings.DBPATTERNS["SHARDING"]["SHARDS"],
    "cache": settings.CACHES["default"],
    "debug": settings.DEBUG,
    "middleware": settings.MIDDLEWARE,
}))
"""


def run(script: list[str], tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in os.environ if name.startswith(("PATH", "COVERAGE_"))}
    bare = {**kept, "DEMO_DATA_DIR": str(tmp_path)}
    return subprocess.run(
        [sys.executable, *script], env=bare | environment, capture_output=True, text=True
    )


def test_nothing_to_configure_gives_sqlite_files_and_four_shards(tmp_path: Path) -> None:
    shown = json.loads(run(["-c", SHOW], tmp_path).stdout)
    assert shown["databases"] == {
        alias: ["sqlite3", str(tmp_path / f"{alias}.sqlite3"), ""]
        for alias in ("default", "shard_0", "shard_1", "shard_2", "shard_3")
    }
    assert shown["shards"] == ["shard_0", "shard_1", "shard_2", "shard_3"]
    assert shown["cache"]["BACKEND"].endswith("LocMemCache")


def test_the_checkout_may_lie_in_a_folder_of_any_name(tmp_path: Path) -> None:
    folder = tmp_path / "C# 100%25 sure?"
    shown = json.loads(run(["-c", SHOW], folder).stdout)
    assert shown["databases"]["shard_3"][1] == str(folder / "shard_3.sqlite3")


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("DATABASE_URL", "s3cret", "DATABASE_URL holds no database URL: write postgres://"),
        ("DBPATTERNS_SHARD_URLS", "postgres://u:s3cret@h:x/d", "DBPATTERNS_SHARD_URLS holds no"),
        ("REDIS_URL", "s3cret:6379", "REDIS_URL holds no Redis URL: write redis://"),
        ("DEMO_DATA_DIR", "/dev/null/x", "cannot be made: Not a directory."),
        ("DJANGO_DEBUG", "0", "Set DJANGO_SECRET_KEY"),
    ],
)
def test_wrong_settings_are_one_line_and_exit_2(
    tmp_path: Path, variable: str, value: str, told: str
) -> None:
    done = run(["manage.py", "demo"], tmp_path, **{variable: value})
    assert done.returncode == 2
    assert done.stderr.startswith("The settings are wrong: ")
    assert told in done.stderr
    assert "s3cret" not in done.stderr
    assert done.stderr.count("\n") == 1


def test_three_variables_name_the_real_servers(tmp_path: Path) -> None:
    shown = json.loads(
        run(
            ["-c", SHOW],
            tmp_path,
            DATABASE_URL="postgres://u:p@db/main",
            DBPATTERNS_SHARD_URLS="postgres://u:p@one/bank, postgres://u:p@two/bank",
            REDIS_URL="redis://cache/1",
        ).stdout
    )
    assert shown["databases"] == {
        "default": ["postgresql", "main", "db"],
        "shard_0": ["postgresql", "bank", "one"],
        "shard_1": ["postgresql", "bank", "two"],
    }
    assert shown["cache"]["LOCATION"] == "redis://cache/1"
    assert "pickle" not in json.dumps(shown["cache"]).lower()


def test_a_production_site_without_a_secret_key_does_not_start(tmp_path: Path) -> None:
    done = run(["-c", SHOW], tmp_path, DJANGO_DEBUG="0")
    assert done.returncode
    assert "Set DJANGO_SECRET_KEY" in done.stderr


@pytest.mark.parametrize("is_debug", [True, False])
def test_the_guard_comes_first_while_debugging_and_costs_a_production_site_nothing(
    tmp_path: Path, is_debug: bool
) -> None:
    environment = {"DJANGO_DEBUG": str(int(is_debug)), "DJANGO_SECRET_KEY": "k" * 50}
    middleware = json.loads(run(["-c", SHOW], tmp_path, **environment).stdout)["middleware"]
    guard = "dbpatterns.queries.middleware.NPlusOneMiddleware"
    assert (middleware[0] == guard) is is_debug
    assert (guard in middleware) is is_debug


@pytest.mark.parametrize("is_behind", ["0", "1"])
def test_a_proxy_s_header_is_believed_only_when_told_to(tmp_path: Path, is_behind: str) -> None:
    script = "from demo import settings; print(hasattr(settings, 'SECURE_PROXY_SSL_HEADER'))"
    shown = run(
        ["-c", script],
        tmp_path,
        DJANGO_DEBUG="0",
        DJANGO_SECRET_KEY="k" * 50,
        DJANGO_BEHIND_TLS_PROXY=is_behind,
    )
    assert shown.stdout == f"{is_behind == '1'}\n", shown.stderr


def test_check_deploy_is_clean(tmp_path: Path) -> None:
    done = run(
        ["manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        tmp_path,
        DJANGO_DEBUG="0",
        DJANGO_SECRET_KEY="k9" * 10 + "abcdefghijklmnopqrstuvwxyz01234",
        DJANGO_ALLOWED_HOSTS="example.org",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.django_db(databases="__all__")  # a request looks at connections that tests left open
def test_the_site_answers_over_wsgi_and_asgi() -> None:
    from demo.asgi import application as asgi
    from demo.wsgi import application as wsgi

    async def ask() -> object:
        headers = [(b"host", b"testserver")]
        scope = {"type": "http", "method": "GET", "path": "/login/", "query_string": b""}
        communicator = ApplicationCommunicator(asgi, {**scope, "headers": headers})
        await communicator.send_input({"type": "http.request"})
        started = await communicator.receive_output(10)
        await communicator.wait()
        return started["status"]

    statuses: list[str] = []
    environ = {"HTTP_HOST": "testserver", "PATH_INFO": "/login/"}
    setup_testing_defaults(environ)
    wsgi(environ, lambda status, headers: statuses.append(status)).close()
    assert statuses == ["200 OK"]
    assert async_to_sync(ask)() == 200


def test_the_cache_works_on_a_real_redis_and_stores_no_pickles(
    tmp_path: Path, redis_url: str
) -> None:
    script = """
import django; django.setup()
from django.core.cache import cache
cache.set("key", {"hits": [1, 2]}, 60)
print(cache.get("key"), cache.client.get_client().get(cache.make_key("key"))[:2])
"""
    done = run(
        ["-c", script], tmp_path, REDIS_URL=redis_url, DJANGO_SETTINGS_MODULE="demo.settings"
    )
    assert done.stdout == "{'hits': [1, 2]} b'{\"'\n", done.stderr
