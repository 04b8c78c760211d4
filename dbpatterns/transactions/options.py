"""What a transaction may be asked for, refused at once where it makes no sense."""

from dataclasses import dataclass
from enum import StrEnum

from dbpatterns.errors import UsageError

__all__ = ["Isolation", "Options"]


class Isolation(StrEnum):
    """PostgreSQL's three levels, from the weakest; SQLite always gives the last."""

    READ_COMMITTED = "READ COMMITTED"
    """Each statement sees what was committed before it."""
    REPEATABLE_READ = "REPEATABLE READ"
    """All statements see one snapshot; two that write the same row cannot both commit."""
    SERIALIZABLE = "SERIALIZABLE"
    """As if transactions ran one after another; those that cannot are refused with 40001."""

    @property
    def strictness(self) -> int:
        """Its place among the levels, from 0."""
        return list(Isolation).index(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `atomic`, checked.

    Raises: UsageError: a timeout that is no positive number, an isolation level there is not, or
        `deferrable` where it has no effect.
    """

    savepoint: bool = True
    durable: bool = False
    isolation: Isolation | None = None
    read_only: bool = False
    deferrable: bool = False
    lock_timeout: float | None = None
    statement_timeout: float | None = None
    label: str = ""
    resolve_commit: bool = False

    def __post_init__(self) -> None:
        for name in ("lock_timeout", "statement_timeout"):
            check_seconds(name, getattr(self, name))
        if self.isolation is not None and not isinstance(self.isolation, Isolation):
            known = ", ".join(f"Isolation.{each.name}" for each in Isolation)
            raise UsageError(f"isolation={self.isolation!r} is no Isolation. Known: {known}.")
        if self.deferrable and not (self.read_only and self.isolation is Isolation.SERIALIZABLE):
            raise UsageError(
                "deferrable=True only means something with read_only=True and "
                "isolation=Isolation.SERIALIZABLE: add both, or leave it out."
            )


def check_seconds(name: str, value: object) -> None:
    """Refuse what is no timeout; None is, for none.

    Raises: UsageError.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise UsageError(f"{name}={value!r} must be a number of seconds above 0.")
