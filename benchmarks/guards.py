"""`python -m benchmarks.guards TOOL`: one tool that finds or mends N+1s, in a process of its own.

Most tools patch Django for good, so none of them can be measured beside another, nor beside plain
Django, in one process. Each gets one that stays: it reads a request from every line of its input,
works and answers with a line, so that the tools can take turns.
"""

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TextIO

import django
from django.conf import settings

from benchmarks.measuring import sample

__all__ = ["TOOLS", "Tool"]

Active = Callable[[list[str]], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Tool:
    """How to install a tool and to set it to work; `active` fills a list with what it reports."""

    active: Active
    app: str = ""
    """What goes into INSTALLED_APPS."""
    settings: Mapping[str, object] | None = None
    finds: bool = True
    """Whether it reports; else it mends."""
    is_installed: bool = True
    """Whether it does anything to the code that does not name it."""
    since: tuple[int, int] = (5, 2)
    """Version of Django."""
    has_models: bool = False
    """Whether models must be written for it."""


@contextmanager
def _ours(found: list[str]) -> Iterator[None]:
    from dbpatterns.queries import guard

    logging.getLogger("dbpatterns.queries").setLevel(logging.ERROR)
    with ExitStack() as stack:
        report = stack.enter_context(guard("log", writes="log"))
        stack.callback(lambda: found.extend(each.label for each in report))
        yield


def _autofix(found: list[str]) -> AbstractContextManager[object]:
    from dbpatterns.queries import autofixing

    return autofixing()


@contextmanager
def _nplusone(found: list[str]) -> Iterator[None]:
    """Listen as its middleware does."""
    kinds = import_module("nplusone.core.listeners").listeners.values()
    listeners = [kind(_Told(found)) for kind in kinds]
    for each in listeners:
        each.setup()
    try:
        yield
    finally:
        for each in listeners:
            each.teardown()


@contextmanager
def _zeal(found: list[str]) -> Iterator[None]:
    def note(sender: object, exception: Exception, **_: object) -> None:
        found.append(str(exception))

    signal = import_module("zeal.signals").nplusone_detected
    signal.connect(note)
    try:
        with import_module("zeal").zeal_context():
            yield
    finally:
        signal.disconnect(note)


def _nplus1(found: list[str]) -> AbstractContextManager[object]:
    scope: Any = import_module("django_nplus1").DetectionContext(notifiers=[_Told(found)])
    return scope  # type: ignore[no-any-return]  # not typed for us: it need not be installed


def _fetch_mode(name: str) -> Active:
    """Make a fetch mode of Django 6.1 that of every queryset."""

    @contextmanager
    def active(found: list[str]) -> Iterator[None]:
        query: Any = import_module("django.db.models.query")
        modes: Any = import_module("django.db.models.fetch_modes")
        blocked: Any = import_module("django.core.exceptions").FieldFetchBlocked
        before, query.DEFAULT_FETCH_MODE = query.DEFAULT_FETCH_MODE, getattr(modes, name)
        try:
            yield
        except blocked as error:
            found.append(str(error))
        finally:
            query.DEFAULT_FETCH_MODE = before

    return active


class _Told:
    """What peers tell of what they find."""

    def __init__(self, found: list[str]) -> None:
        self._found = found

    def notify(self, message: Any) -> None:
        self._found.append(str(message.message))


def _nothing(found: list[str]) -> AbstractContextManager[object]:
    return nullcontext()


TOOLS: Mapping[str, Tool] = {
    "plain": Tool(_nothing),
    "plain again": Tool(_nothing),
    "ours": Tool(_ours),
    "our autofix": Tool(_autofix, finds=False, is_installed=False),
    "nplusone": Tool(_nplusone, "nplusone.ext.django"),
    "zeal": Tool(_zeal, "zeal", {"ZEAL_RAISE": False}),
    "django-nplus1": Tool(_nplus1, "django_nplus1"),
    "auto-prefetch": Tool(_nothing, finds=False, is_installed=False, has_models=True),
    "FETCH_PEERS": Tool(_fetch_mode("FETCH_PEERS"), finds=False, is_installed=False, since=(6, 1)),
    "FETCH_RAISE": Tool(_fetch_mode("FETCH_RAISE"), is_installed=False, since=(6, 1)),
    "django-nplus1, same SQL": Tool(
        _nplus1, "django_nplus1", {"NPLUS1_DETECT_DUPLICATE_QUERIES": True}
    ),
}


def _set_up(name: str) -> None:
    tool = TOOLS[name]
    if tool.since > django.VERSION:
        raise ImportError(f"needs Django {tool.since[0]}.{tool.since[1]}")
    if tool.app:
        settings.INSTALLED_APPS = [*settings.INSTALLED_APPS, tool.app]
        import_module(tool.app)
    for key, value in (tool.settings or {}).items():
        setattr(settings, key, value)
    django.setup()
    if name == "ours":
        import_module("dbpatterns.queries.middleware")
    elif "dbpatterns.queries.capture" in sys.modules:
        raise ImportError("measured with our hook, which something has imported")
    if tool.has_models:
        import_module("auto_prefetch")


def _serve(name: str, requests: TextIO, answers: TextIO) -> None:
    from benchmarks import guarded  # imports models, so only now

    tool = TOOLS[name]
    models = guarded.auto_prefetch_models() if tool.has_models else guarded.MODELS
    for line in requests:
        request = json.loads(line)
        if "work" in request:
            work = guarded.WORKS[request["work"]]
            active = tool.active if request["is_active"] else _nothing

            def run(work: Any = work, active: Active = active) -> None:
                with active([]):
                    work(models)

            try:
                taken = sample(run, request["calls"])
                answer: object = [taken.wall, taken.cpu]
            except Exception as error:  # a peer may break in any way
                answer = f"{type(error).__name__}: {error}"
        else:
            answer = guarded.alarms(tool.active)
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Say whether the tool works here, then answer."""
    warnings.simplefilter("ignore")
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a shape prints is no answer
    try:
        _set_up(sys.argv[1])
    except Exception as error:  # a peer may break at once
        print(json.dumps(f"{type(error).__name__}: {error}"), file=answers, flush=True)
        return
    print(json.dumps(""), file=answers, flush=True)
    logging.disable(logging.ERROR)
    _serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
