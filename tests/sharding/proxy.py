"""A server that is reached through us, so that a test can let it stop anywhere in an answer."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import Any

from django.db import connections

__all__ = ["Proxy", "proxied"]


class Proxy:
    """Passes on what two sides say, until the server has said so many bytes more."""

    def __init__(self, server: tuple[str, int]) -> None:
        self._server = server
        self._left: int | None = None
        self._then = ""
        self._ended = Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self._start(self._accept)

    def hold_after(self, sent: int) -> None:
        """Pass on so many bytes of the server's, and no more."""
        self._left, self._then = sent, "hold"

    def cut_after(self, sent: int) -> None:
        """Pass on so many bytes of the server's, then close both sides."""
        self._left, self._then = sent, "cut"

    def close(self) -> None:
        """Close all there is."""
        self._ended.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _start(self, target: Any, *args: Any) -> None:
        Thread(target=target, args=args, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                self._start(self._pass, client, server, False)
                self._start(self._pass, server, client, True)

    def _pass(self, one: socket.socket, other: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := one.recv(512):
                if is_answer and self._left is not None:
                    passed, self._left = data[: self._left], max(0, self._left - len(data))
                    other.sendall(passed)
                    if len(passed) < len(data):
                        if self._then == "hold":
                            self._ended.wait()
                        break
                else:
                    other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(alias: str) -> Iterator[Proxy]:
    """Let this thread reach a database through a proxy; yields it, with a connection open."""
    connection = connections[alias]
    settings = connection.settings_dict
    before = {name: settings[name] for name in ("HOST", "PORT")}
    proxy = Proxy((settings["HOST"], int(settings["PORT"])))
    connection.close()
    settings.update(HOST="127.0.0.1", PORT=proxy.port)
    try:
        connection.ensure_connection()
        yield proxy
    finally:
        settings.update(before)
        connections[alias].close()
        proxy.close()
