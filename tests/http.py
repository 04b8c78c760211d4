"""Requests over real HTTP, each on a connection of its own, and processes that serve them."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from tests.processes import start_process

__all__ = ["Answer", "post", "serving"]

PATIENCE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    content: bytes


@contextmanager
def serving(urls: str, setup: str = "") -> Iterator[str]:
    """Serve a module's addresses from a process on this test's database; yields its address.

    One request at a time, as a worker of a server does. `setup` is code that it runs before.
    """
    process = start_process(
        f"{setup}\n"
        "from wsgiref.simple_server import make_server\n"
        "from django.conf import settings\n"
        "from django.core.wsgi import get_wsgi_application\n"
        f"settings.ROOT_URLCONF = {urls!r}\n"
        "server = make_server('127.0.0.1', 0, get_wsgi_application())\n"
        "print(server.server_port, flush=True)\n"
        "server.serve_forever()\n"
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.kill()
        process.communicate()


def post(url: str, body: object, headers: Mapping[str, str]) -> Answer:
    """Send JSON; an error is an answer too."""
    request = Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    try:
        with urlopen(request, timeout=PATIENCE_SECONDS) as response:
            return Answer(response.status, response.headers, response.read())
    except HTTPError as error:
        with error:
            return Answer(error.code, error.headers, error.read())
