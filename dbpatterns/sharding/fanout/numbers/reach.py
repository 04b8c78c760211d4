"""How far a question about numbers reaches: which shards are asked, and how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connections

from dbpatterns.sharding.fanout.statements import Statement
from dbpatterns.sharding.shard_map import shards

__all__ = ["Asked", "Reach", "Rows"]

Rows = list[Any]


class Asked(Statement):
    """A query of ours as one shard's statement; no query yet."""

    def __init__(self, query: Any, alias: str) -> None:
        self.alias, self.connection = alias, connections[alias]
        self.compiler = query.get_compiler(connection=self.connection)
        self.compile()


@dataclass(frozen=True, slots=True)
class Reach:
    """Which shards are asked, how they are read, and how much of them is held."""

    aliases: Sequence[str]
    read: Callable[[Sequence[Statement]], list[Rows]]
    max_rows: int
    missing: Mapping[str, str]
    """The shards that did not answer, and why."""

    @property
    def home(self) -> str:
        """The shard that compiles and computes: the first that answers."""
        answering = (each for each in self.aliases if each not in self.missing)
        return next(answering, None) or shards()[0]

    def answers(self, query: Any) -> dict[str, Rows]:
        """Return the rows of each shard that is not missing; one round trip."""
        made = [Asked(query, alias) for alias in self.aliases if alias not in self.missing]
        asked = [each for each in made if not each.is_empty]
        return dict(zip([each.alias for each in asked], self.read(asked), strict=True))
