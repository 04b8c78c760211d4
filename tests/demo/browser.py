"""A real headless Chromium, and a demo of its own process and data for it to look at."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.servers import free_port

__all__ = ["DESKTOP", "PASSWORD", "PHONE", "SMALL_PHONE", "Open", "assert_fits"]
__all__ += ["pages_of", "running_chromium", "running_demo"]

SERVERS = ("DATABASE_URL", "DBPATTERNS_SHARD_URLS", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
DEADLINE_SECONDS = 60
PHONE, SMALL_PHONE, DESKTOP = (390, 844), (360, 640), (1280, 900)
PASSWORD = "correct horse battery staple"
MIGRATE = """
from django.core.management import call_command
from django.db import connections

for alias in connections:
    call_command("migrate", database=alias, verbosity=0)
"""


@contextmanager
def running_chromium() -> Iterator[Browser]:
    """Start a browser, or skip and say what is missing."""
    found = os.environ.get("DBPATTERNS_TEST_CHROMIUM") or next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if found is None:
        pytest.skip(
            "Chromium is not installed: the browser tests did not run; install Debian's `chromium`"
        )
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found,
            args=["--disable-dev-shm-usage", *root],
            timeout=DEADLINE_SECONDS * 1000,
        )
        expect.set_options(timeout=DEADLINE_SECONDS * 1000)  # 5 seconds may be too few for a page
        yield browser
        browser.close()


@contextmanager
def running_demo(folder: Path, seed: str) -> Iterator[str]:
    """Start a demo that has its data in a folder, and yield its address."""
    (folder / "static").mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in SERVERS}
    environment = {**clean, "DEMO_DATA_DIR": str(folder), "DJANGO_DEBUG": "1"}
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "--verbosity=0", "--command", MIGRATE + seed],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    port = free_port()
    log = folder / "server.log"
    command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{port}"]
    with log.open("w") as output:
        server = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
    try:
        _wait_for(f"http://127.0.0.1:{port}/login/", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urlopen(url, timeout=5):
                return
        except (URLError, TimeoutError):
            time.sleep(0.05)  # polling, with a deadline
    pytest.fail(f"The demo does not answer at {url}:\n{log.read_text()[-2000:]}")


Open = Callable[..., Page]


@contextmanager
def pages_of(chromium: Browser, site: str) -> Iterator[Open]:
    """Yield what opens an address at a size; fails at the end if any console showed an error."""
    errors: list[str] = []
    contexts = []

    def told(line: ConsoleMessage) -> None:
        if line.type == "error" and "409 (Conflict)" not in line.text:  # those are pages too
            errors.append(f"{line.text}: {line.location['url']}")

    def open_(
        path: str, size: tuple[int, int] = DESKTOP, *, as_: str = "", scheme: Any = "light"
    ) -> Page:
        context = chromium.new_context(
            base_url=site, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(DEADLINE_SECONDS * 1000)
        page.on("console", told)
        page.on("pageerror", lambda error: errors.append(str(error)))
        if as_:
            page.goto(f"/login/?next={path}")
            page.get_by_label("Username").fill(as_)
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("main").get_by_role("button", name="Log in").click()
            page.wait_for_url(f"{site}{path}")  # the whole: /login/ names the path as the next
        else:
            page.goto(path)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not errors, errors


def assert_fits(page: Page) -> None:
    """See that a page is no wider than its window, once its styles are there."""
    page.wait_for_load_state()
    width, room = page.evaluate(
        "[document.scrollingElement.scrollWidth, document.scrollingElement.clientWidth]"
    )
    assert width <= room, f"{page.url} is {width} wide in a window of {room}"
