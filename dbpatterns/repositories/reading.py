"""Reading by the contract of a repository: its checks and async twins, written once."""

import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from functools import update_wrapper
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ForwardRef,
    Generic,
    Literal,
    ParamSpec,
    TypeVar,
    get_args,
    get_origin,
)

from asgiref.sync import sync_to_async
from django.db.models import Model, Q

from dbpatterns.errors import UsageError
from dbpatterns.repositories.conf import RepositoriesSettings
from dbpatterns.repositories.errors import InvalidValue, TooManyRows
from dbpatterns.repositories.keyset import Keyset, OrderTerm, Page, Position
from dbpatterns.repositories.selection import (
    BAD_VALUE,
    Condition,
    Selection,
    condition,
    refuse_below_one,
    refuse_text,
    shown,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultingTypeVar

    PK = DefaultingTypeVar("PK", default=int)
else:  # the default is for type checkers only; see __class_getitem__
    PK = TypeVar("PK")

__all__ = ["PK", "ReadRepository", "twin"]

M = TypeVar("M", bound=Model)
P = ParamSpec("P")
R = TypeVar("R")


def twin(
    method: Callable[Concatenate[Any, P], R],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return the async twin of a method; a subclass's own method is what it runs."""
    name = method.__name__

    async def awaited(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = await sync_to_async(getattr(self, name))(*args, **kwargs)
        return result

    update_wrapper(awaited, method)
    awaited.__name__ = f"a{name}"
    awaited.__qualname__ = method.__qualname__.replace(name, f"a{name}")
    awaited.__doc__ = f"Do what `{name}` does, awaited: same arguments, result, cost and errors."
    return awaited


class ReadRepository(ABC, Generic[M, PK]):
    """Objects of one model, found.

    Criteria are a `Spec`, a `Q`, keywords as `filter` takes them, or one of the first two with
    keywords. A name that the model does not have raises UnknownField, a value that its field
    cannot hold InvalidValue, in every method. A field that is named like an argument, such as
    `limit`, is asked for by a `Q`: `find_by(limit=3)` means three rows.
    """

    model: type[M]

    if not TYPE_CHECKING:  # pragma: no branch

        def __class_getitem__(cls, arguments: Any) -> Any:
            """Let `Repository[Post]` mean `Repository[Post, int]` before Python 3.13."""
            if not isinstance(arguments, tuple):
                arguments = (arguments, int)
            return super().__class_getitem__(arguments)

    def __init_subclass__(cls, **options: Any) -> None:
        """Take the model from the type argument."""
        super().__init_subclass__(**options)
        for base in cls.__dict__.get("__orig_bases__", ()):
            origin, arguments = get_origin(base), get_args(base)
            if isinstance(origin, type) and issubclass(origin, ReadRepository):
                model = arguments[0]
                if isinstance(model, ForwardRef | type(Model)):
                    cls.model = model  # type: ignore[assignment]

    def __init__(self) -> None:
        model: Any = getattr(self, "model", None)
        if isinstance(model, ForwardRef):  # Repository["Post"], written above Post
            names = vars(sys.modules[type(self).__module__])
            model = names.get(model.__forward_arg__)
            type(self).model = model
        if model is None:
            raise UsageError(
                f"{type(self).__name__} does not say its model: write class "
                f"{type(self).__name__}(Repository[Post]), or use Repository.for_model(Post)."
            )

    # Reading

    def find_by_id(self, pk: PK) -> M | None:
        """Return the object with this primary key, or None. One query."""
        return self._find(self._key(pk))

    def get_by_id(self, pk: PK) -> M:
        """Return the object with this primary key. One query.

        Raises: the model's DoesNotExist.
        """
        found = self._find(self._key(pk))
        if found is None:
            raise self._missing(repr(pk))
        return found

    def find_by_ids(
        self, pks: Iterable[PK], *, missing: Literal["skip", "raise"] = "skip"
    ) -> dict[PK, M]:
        """Return the objects with these primary keys, by key, in the order given.

        One query for as many keys as the backend takes in one statement.
        Raises: the model's DoesNotExist: one is missing and `missing="raise"`.
        """
        wanted = list(dict.fromkeys(self._key(pk) for pk in pks))
        found = self._find_many(wanted) if wanted else {}
        absent = [pk for pk in wanted if pk not in found]
        if absent and missing == "raise":
            listed = ", ".join(map(repr, absent[:10])) + (", …" if len(absent) > 10 else "")
            raise self._missing(listed)
        return {pk: found[pk] for pk in wanted if pk in found}

    def find_all(
        self,
        *,
        order_by: Sequence[OrderTerm] = (),
        load: Sequence[str] = (),
        limit: int | Literal["all"] | None = None,
    ) -> list[M]:
        """Return every object, at most MAX_ROWS of them. One query, and those of `load`.

        Args:
            limit: return the first so many; "all" lifts the bound.
        Raises: TooManyRows: there are more and no limit was given.
        """
        if limit is not None:
            return self._rows(
                Selection(Q(), order_by, load, None if limit == "all" else self._limit(limit))
            )
        bound = RepositoriesSettings.load().max_rows
        rows = self._rows(Selection(Q(), order_by, load, bound + 1))
        if len(rows) > bound:
            raise TooManyRows(
                f"{self._label} has more than {bound:,} rows: read it by page() or stream(), or "
                'give find_all a limit, which may be "all".'
            )
        return rows

    def find_by(
        self,
        spec: Condition | None = None,
        /,
        *,
        order_by: Sequence[OrderTerm] = (),
        load: Sequence[str] = (),
        limit: int | None = None,
        **criteria: Any,
    ) -> list[M]:
        """Return the objects that match, all of them or the first `limit`. One query.

        Args:
            load: relations to read with them: single ones in the same query, one query more for
                each relation of many.
        """
        limit = None if limit is None else self._limit(limit)
        return self._rows(Selection(condition(spec, criteria), order_by, load, limit))

    def find_one_by(
        self,
        spec: Condition | None = None,
        /,
        *,
        load: Sequence[str] = (),
        **criteria: Any,
    ) -> M | None:
        """Return the only object that matches, or None. One query of at most two rows.

        Raises: the model's MultipleObjectsReturned.
        """
        q = condition(spec, criteria)
        rows = self._rows(Selection(q, load=load, limit=2))
        if len(rows) > 1:
            model: Any = self.model  # Django adds the exceptions to each model
            raise model.MultipleObjectsReturned(f"More than one {self._label} matches {q}.")
        return rows[0] if rows else None

    def exists(self, spec: Condition | None = None, /, **criteria: Any) -> bool:
        """Tell whether any object matches. One query, no rows."""
        return self._exists(condition(spec, criteria))

    def count(self, spec: Condition | None = None, /, **criteria: Any) -> int:
        """Count the objects that match. One query, no rows."""
        return self._count(condition(spec, criteria))

    def page(
        self,
        spec: Condition | None = None,
        /,
        *,
        size: int = 50,
        cursor: str | None = None,
        order_by: Sequence[OrderTerm] = ("-pk",),
        load: Sequence[str] = (),
        total: bool = False,
        **criteria: Any,
    ) -> Page[M]:
        """Return one page of the objects that match, by keyset. Exactly one query.

        Args:
            size: rows of a page, at most MAX_PAGE_SIZE.
            cursor: the `next_cursor` or `previous_cursor` of another page of this order.
            order_by: columns; the primary key is added where rows could tie.
            total: also count all that match: one more query, of every matching row.
        Raises: InvalidCursor; UsageError: an order by an expression or a relation of many.
        """
        most = RepositoriesSettings.load().max_page_size
        if type(size) is not int or not 1 <= size <= most:
            raise UsageError(f"A page of {self._label} has 1 to {most:,} rows, not {size!r}.")
        refuse_text(order_by=order_by, load=load)
        keyset = Keyset.of(self.model, order_by)
        position = None if cursor is None else keyset.position(cursor)
        backward = position is not None and position.is_backward
        q = condition(spec, criteria)
        rows = self._rows_after(
            q,
            keyset.reversed() if backward else keyset,
            position,
            load=[*dict.fromkeys((*load, *keyset.relations))],
            limit=size + 1,
        )
        has_more, rows = len(rows) > size, rows[:size]
        if backward:
            rows.reverse()
        has_next, has_previous = (True, has_more) if backward else (has_more, position is not None)
        return Page(
            rows,
            keyset.cursor(rows[-1], is_backward=False) if rows and has_next else None,
            keyset.cursor(rows[0], is_backward=True) if rows and has_previous else None,
            self._count(q) if total else None,
        )

    def stream(
        self,
        spec: Condition | None = None,
        /,
        *,
        order_by: Sequence[OrderTerm] = (),
        load: Sequence[str] = (),
        chunk: int = 2000,
        **criteria: Any,
    ) -> Iterator[M]:
        """Yield the objects that match, holding `chunk` of them at a time.

        One query, by a server-side cursor on PostgreSQL, and those of `load` once a chunk.
        """
        refuse_below_one(chunk=chunk)
        return self._stream(Selection(condition(spec, criteria), order_by, load), chunk)

    async def astream(
        self,
        spec: Condition | None = None,
        /,
        *,
        order_by: Sequence[OrderTerm] = (),
        load: Sequence[str] = (),
        chunk: int = 2000,
        **criteria: Any,
    ) -> AsyncIterator[M]:
        """Yield what `stream` yields, reading a chunk at a time in Django's thread."""
        rows = self.stream(spec, order_by=order_by, load=load, chunk=chunk, **criteria)

        def read() -> list[M]:
            return [row for _, row in zip(range(chunk), rows, strict=False)]

        while batch := await sync_to_async(read)():
            for row in batch:
                yield row

    # Async twins

    afind_by_id = twin(find_by_id)
    aget_by_id = twin(get_by_id)
    afind_by_ids = twin(find_by_ids)
    afind_all = twin(find_all)
    afind_by = twin(find_by)
    afind_one_by = twin(find_one_by)
    aexists = twin(exists)
    acount = twin(count)
    apage = twin(page)

    # What a way to run provides

    @abstractmethod
    def _find(self, pk: PK) -> M | None: ...

    @abstractmethod
    def _find_many(self, pks: Sequence[PK]) -> dict[PK, M]: ...

    @abstractmethod
    def _rows(self, selection: Selection) -> list[M]: ...

    @abstractmethod
    def _rows_after(
        self,
        q: Q,
        keyset: Keyset,
        position: Position | None,
        *,
        load: Sequence[str],
        limit: int,
    ) -> list[M]: ...

    @abstractmethod
    def _stream(self, selection: Selection, chunk: int) -> Iterator[M]: ...

    @abstractmethod
    def _exists(self, q: Q) -> bool: ...

    @abstractmethod
    def _count(self, q: Q) -> int: ...

    # Checks

    @property
    def _label(self) -> str:
        return self.model._meta.label

    def _missing(self, keys: str) -> Exception:
        model: Any = self.model
        error: Exception = model.DoesNotExist(f"There is no {self._label} with primary key {keys}.")
        return error

    def _key(self, pk: PK) -> PK:
        field = self.model._meta.pk
        try:
            if hasattr(pk, "resolve_expression"):
                raise TypeError("an expression names rows, not one")
            key: PK = field.to_python(pk)
        except BAD_VALUE as error:
            raise InvalidValue(
                f"{shown(pk)} is no primary key of {self._label}, a {type(field).__name__}.",
                model=self._label,
                field=field.name,
            ) from error
        return key

    def _limit(self, limit: int) -> int:
        if type(limit) is not int or limit < 0:
            raise UsageError(f"A limit on {self._label} is zero or more rows, not {limit!r}.")
        return limit
