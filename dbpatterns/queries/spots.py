"""An instruction of a frame: cheap to keep, and a line only when somebody asks."""

from dataclasses import dataclass
from itertools import islice
from types import CodeType, FrameType

__all__ = ["Spot"]


@dataclass(slots=True)  # frozen would take a microsecond more, and this is for each query
class Spot:
    """What a frame was doing, whatever it does since."""

    code: CodeType
    instruction: int

    @classmethod
    def of(cls, frame: FrameType) -> "Spot":
        """Return what a frame is doing."""
        return cls(frame.f_code, frame.f_lasti)

    @property
    def position(self) -> tuple[int, int, int, int]:
        """First line, last line, first and last column (in bytes) of the expression."""
        start = max(self.instruction, 0) // 2
        line, last, left, right = next(islice(self.code.co_positions(), start, None))
        line = line or self.code.co_firstlineno
        return line, last or line, left or 0, right or 0

    @property
    def line(self) -> int:
        """The line of the expression's start."""
        return self.position[0]
