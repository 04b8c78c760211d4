"""The `a` twins of a fan-out: the same questions, on the connections that the request has."""

from collections.abc import AsyncIterator, Generator, Iterable
from itertools import islice
from typing import Any

from asgiref.sync import sync_to_async

__all__ = ["Awaited"]


class Awaited:
    """What a class has to ask, to be awaited; each call is one turn of the database's thread."""

    _list: Any
    iterator: Any
    first: Any
    last: Any
    get: Any
    exists: Any
    in_bulk: Any
    count: Any
    aggregate: Any

    def __aiter__(self) -> AsyncIterator[Any]:
        async def rows() -> AsyncIterator[Any]:
            for row in await sync_to_async(self._list)():
                yield row

        return rows()

    async def aiterator(self, chunk_size: int = 2000) -> AsyncIterator[Any]:
        """As `iterator`; left early, it ends with `aclose()` or the loop."""
        rows: Generator[Any, None, None] = self.iterator(chunk_size)
        try:
            while some := await sync_to_async(lambda: list(islice(rows, chunk_size)))():
                for row in some:
                    yield row
        finally:
            await sync_to_async(rows.close)()

    async def afirst(self) -> Any:
        """As `first`."""
        return await sync_to_async(self.first)()

    async def alast(self) -> Any:
        """As `last`."""
        return await sync_to_async(self.last)()

    async def aget(self, *args: Any, **values: Any) -> Any:
        """As `get`."""
        return await sync_to_async(self.get)(*args, **values)

    async def aexists(self) -> bool:
        """As `exists`."""
        found: bool = await sync_to_async(self.exists)()
        return found

    async def ain_bulk(
        self, id_list: Iterable[Any] | None = None, *, field_name: str = "pk"
    ) -> Any:
        """As `in_bulk`."""
        return await sync_to_async(self.in_bulk)(id_list, field_name=field_name)

    async def acount(self) -> int:
        """As `count`."""
        found: int = await sync_to_async(self.count)()
        return found

    async def aaggregate(self, *args: Any, **named: Any) -> dict[str, Any]:
        """As `aggregate`."""
        found: dict[str, Any] = await sync_to_async(self.aggregate)(*args, **named)
        return found
