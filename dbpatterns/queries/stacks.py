"""Where a query comes from: the whole stack of Python, as a key and as frames.

The innermost line is not enough: a helper called from two lines has one, and is no loop. The
whole stack is, with three corrections. Recursion is collapsed, so that a walk over a tree is one
place. Frames of libraries that loop over fields count the field. And in a thread that works for
a coroutine it goes on in who awaits that.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import CodeType, FrameType
from typing import Any

from dbpatterns.queries.frames import frames_from, is_worker
from dbpatterns.queries.libraries import (
    FOLLOWS,
    OWN,
    PINNED,
    READS,
    SILENT,
    Asked,
    Role,
    roles_of,
)
from dbpatterns.queries.spots import Spot

__all__ = ["Stack"]

MAX_OUTLINES = 1_024
"""Of stacks read before; about 2 KB each."""

_roles: dict[str, Mapping[str, Role] | None] = {}
_UNKNOWN: Mapping[str, Role] = {}
_numbers: dict[tuple[str, int, int], int] = {}
_positions: dict[tuple[Hashable, ...], int] = {}
_outlines: dict[tuple[int, ...], "_Outline"] = {}
_code, _instruction = attrgetter("f_code"), attrgetter("f_lasti")


@dataclass(slots=True)
class Stack:
    """What is kept of a stack."""

    key: tuple[Hashable, ...]
    user: Spot | None
    """The innermost instruction in a file of the user's."""
    details: tuple[tuple[str, ...], ...]
    """What frames of libraries said, from the inside out: `("field", "author")`."""
    is_pinned: bool
    """Whether an exception here would spoil a transaction."""
    is_in_template: bool
    """Whether a template, and no code of the user's, is what evaluated the query."""
    follows: bool
    """Whether it is the prefetch of a queryset, which has a query of its own."""

    @classmethod
    def read(
        cls, frame: FrameType | None, until: FrameType | None, *, is_write: bool
    ) -> "tuple[Stack, Hashable] | None":
        """Read the stack from this frame outward; None for a library that may ask so.

        Returns also which of many alike asks: a row's key, `form-0-author` of a formset; None if
        not known. `until` is the outermost frame of interest; all frames when it is not there.
        3 to 7 µs where the same instructions have been read before, else 10 to 30.
        """
        frames: list[FrameType] = []
        while frame is not None:
            frames.append(frame)
            if frame is until:
                break
            frame = frame.f_back
        outline = _outline_of(frames, is_write)
        if outline.has_worker:
            frames = list(frames_from(frames[0], until))
            outline = _outline_of(frames, is_write)
        if outline.is_silent:
            return None
        asker: Hashable = None
        said: list[Any] = []
        for index, role in outline.sayers:
            detail: Any = role(frames[index])
            if type(detail) is Asked:
                detail, who = detail
                asker = who if asker is None else asker
            said.append(detail)
        details = tuple(said)
        stack = outline.stacks.get(details)
        if stack is None:
            stack = outline.stacks[details] = outline.with_details(details)
        return stack, asker


@dataclass(slots=True)
class _Outline:
    """What the instructions of a stack tell by themselves, the same whenever they are met."""

    codes: list[CodeType]
    """Kept, since it is by their ids that an outline is found."""
    numbers: list[int]
    """Of each frame's expression; 0 for a function that counts already."""
    has_worker: bool
    is_silent: bool = False
    user: Spot | None = None
    sayers: list[tuple[int, Callable[[FrameType], Hashable]]] = field(default_factory=list)
    """Frames of libraries that say more, from the inside out."""
    inner: int = 0
    """How many of them are inside the user's line."""
    is_pinned: bool = False
    follows: bool = False
    stacks: dict[tuple[Any, ...], Stack] = field(default_factory=dict)
    """By what the frames say: fields, lines of templates, so there are few."""

    @classmethod
    def of(cls, frames: Sequence[FrameType], is_write: bool) -> "_Outline":
        """Look at each frame."""
        outline = cls([each.f_code for each in frames], [], any(map(is_worker, frames)))
        functions: set[tuple[str, int]] = set()
        for index, each in enumerate(frames):
            code, instruction = each.f_code, each.f_lasti
            filename = code.co_filename
            number = _numbers.get((filename, code.co_firstlineno, instruction))
            if number is None:
                number = _number_of(code, instruction)
            roles = _roles.get(filename, _UNKNOWN)
            if roles is _UNKNOWN:
                roles = _roles[filename] = roles_of(filename, each.f_globals)
            if roles is None:  # a function of the user's counts once, however deep it recurs
                if outline.user is None:
                    outline.user = Spot(code, instruction)
                    outline.inner = len(outline.sayers)
                function = (filename, code.co_firstlineno)
                outline.numbers.append(0 if function in functions else number)
                functions.add(function)
                continue
            outline.numbers.append(number)
            role = roles and (roles.get(code.co_name) or roles.get("*"))
            is_inside = outline.user is None
            if role is SILENT or (is_inside and (role is OWN or (role is READS and not is_write))):
                outline.is_silent = True
            elif role is PINNED:
                outline.is_pinned = True
            elif role is FOLLOWS:
                outline.follows = outline.follows or is_inside
            elif callable(role):
                outline.sayers.append((index, role))
        return outline

    def with_details(self, said: tuple[Any, ...]) -> Stack:
        """Return the stack where the frames that say more say this."""
        more = {index: each for (index, _), each in zip(self.sayers, said, strict=True)}
        key = dict.fromkeys(  # in order, each once: so recursion collapses
            number if more.get(index) is None else (number, more[index])
            for index, number in enumerate(self.numbers)
            if number
        )
        return Stack(
            tuple(key),
            self.user,
            tuple(each for each in said if each is not None),
            self.is_pinned,
            self.user is None or any(each and each[0] == "template" for each in said[: self.inner]),
            self.follows,
        )


def _outline_of(frames: Sequence[FrameType], is_write: bool) -> _Outline:
    instructions = (is_write, *map(id, map(_code, frames)), *map(_instruction, frames))
    outline = _outlines.get(instructions)
    if outline is None:
        outline = _Outline.of(frames, is_write)
        if len(_outlines) >= MAX_OUTLINES:
            _outlines.clear()
        _outlines[instructions] = outline
    return outline


def _number_of(code: CodeType, instruction: int) -> int:
    """Return a small number for an expression in the source.

    Not for an instruction: the interpreter replaces a slow one by others once it is warm, and a
    loop's first run would be another place than the next.
    """
    position = (code.co_filename, code.co_firstlineno, *Spot(code, instruction).position)
    number = _positions.setdefault(position, len(_positions) + 1)
    _numbers[code.co_filename, code.co_firstlineno, instruction] = number
    return number
