"""Stacks that have been read before are found by the ids of their code, which may be used again."""

import sys
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from django.db.models import base
from django.db.models.fields import related_descriptors
from django.forms import boundfield
from django.template import Context, Engine

from dbpatterns.queries import stacks
from dbpatterns.queries.stacks import Stack


def _key(code: str, name: str) -> tuple[object, ...]:
    """Run code that calls `read()`, and forget it; return the key of its stack."""
    keys: list[tuple[object, ...]] = []

    def read() -> None:
        found = Stack.read(sys._getframe(1), sys._getframe(1), is_write=False)
        assert found is not None
        keys.append(found[0].key)

    exec(compile(code, name, "exec"), {"read": read})  # text of our own
    return keys[0]


def test_code_in_the_place_of_code_that_is_gone_is_another_place() -> None:
    # Not the user's, whose code is kept for the message.
    keys = [_key("read()", f"<frozen page_{number}>") for number in range(50)]
    assert len(set(keys)) == 50


def test_lines_of_one_code_are_other_places_and_the_same_next_time() -> None:
    def lines() -> list[Stack]:
        frame, found = sys._getframe(), []
        found.append(Stack.read(frame, frame, is_write=False))
        found.append(Stack.read(frame, frame, is_write=False))
        return [each[0] for each in found if each is not None]

    (one, other), again = lines(), lines()
    assert one.key != other.key
    assert [one, other] == again


def test_what_is_remembered_of_stacks_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "MAX_OUTLINES", 3)
    for number in range(10):
        _key("read()", f"/project/bounded_{number}.py")
        assert len(stacks._outlines) <= 3


def test_a_read_before_a_write_is_told_from_a_read() -> None:
    """The same instructions of a library that reads for its write are silent only for a read."""
    code = compile("def save_base(read): read(_getframe())", base.__file__, "exec")
    names: dict[str, Any] = {"_getframe": sys._getframe}
    exec(code, names)  # text of our own
    found: list[bool] = []

    def read(frame: FrameType) -> None:
        for is_write in (False, True, False):
            found.append(Stack.read(frame, frame, is_write=is_write) is None)

    names["save_base"](read)
    assert found == [True, False, True]


def test_the_innermost_one_that_asks_is_the_asker() -> None:
    """A form's field asks for a widget, and each row of it for its relation."""
    names: dict[str, Any] = {"_getframe": sys._getframe}
    for code, module in (
        ("def __get__(self, instance, read): return read(_getframe())", related_descriptors),
        ("def as_widget(self, ask): return ask()", boundfield),
    ):
        exec(compile(code, module.__file__, "exec"), names)  # text of our own
    field = SimpleNamespace(name="author", html_name="form-0-author")
    row = SimpleNamespace(pk=7)

    def ask() -> object:
        def read(frame: FrameType) -> object:
            return Stack.read(frame, None, is_write=False)

        return names["__get__"](field, row, read)

    _, asker = names["as_widget"](field, ask)
    assert asker == 7


def test_code_that_a_template_calls_is_no_template() -> None:
    class Page:
        def stack(self) -> str:
            read = Stack.read(sys._getframe(), None, is_write=False)
            assert read is not None
            assert any(kind == "template" for kind, *_ in read[0].details)
            return str(read[0].is_in_template)

    template = Engine().from_string("{{ page.stack }}")
    assert template.render(Context({"page": Page()})) == "False"
