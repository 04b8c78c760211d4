"""The record of one transaction, told to telemetry when it is over, all attempts together."""

import time
from dataclasses import dataclass, field

from dbpatterns import telemetry

__all__ = ["Record"]


@dataclass(slots=True)
class Record:
    """What the event `transactions.finished` says."""

    database: str
    label: str
    attempts: int = 1
    sqlstates: list[str] = field(default_factory=list)
    """Of the attempts that failed, in order."""
    savepoints: int = 0
    """Of the last attempt; those rolled back count too."""
    outcome: str = "rolled_back"
    """Or `committed`, or `unknown`."""
    started: float = field(default_factory=time.monotonic)

    @property
    def elapsed_seconds(self) -> float:
        """Since the first attempt began, sleeps included."""
        return time.monotonic() - self.started

    def tell(self) -> None:
        """Emit the event; one truth test when nobody listens."""
        if telemetry.is_heard():
            telemetry.emit(
                telemetry.Event(
                    "transactions.finished",
                    database=self.database,
                    seconds=self.elapsed_seconds,
                    facts={
                        "label": self.label,
                        "outcome": self.outcome,
                        "attempts": self.attempts,
                        "sqlstates": tuple(self.sqlstates),
                        "savepoints": self.savepoints,
                    },
                )
            )
