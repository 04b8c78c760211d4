"""The `IDEMPOTENCY` section of `DBPATTERNS`."""

from dataclasses import dataclass
from typing import ClassVar

from dbpatterns.conf import Section

__all__ = ["IdempotencySettings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencySettings(Section):
    """How long answers are kept."""

    key: ClassVar[str] = "IDEMPOTENCY"
    app: ClassVar[str] = "dbpatterns.idempotency"

    expires_seconds: int = 86_400
    """How long a key is remembered when `run_once` is not told; a day."""
