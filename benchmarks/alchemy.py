"""The peer of the repositories: advanced-alchemy's own, over the table that Django made.

Imported by name, since only `make bench` installs it. The mapping is read from the database, so
both sides know the same columns and constraints. It reads in autocommit, as Django does, and
expunges what it returns, or its session would answer the second time from memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

from django.db.backends.base.base import BaseDatabaseWrapper

__all__ = ["Alchemy"]

sqlalchemy: Any = import_module("sqlalchemy")
orm: Any = import_module("sqlalchemy.orm")
repositories: Any = import_module("advanced_alchemy.repository")
memory: Any = import_module("advanced_alchemy.repository.memory")
filters: Any = import_module("advanced_alchemy.filters")


class Alchemy:
    """One table's repository of advanced-alchemy, and what the benchmark asks of it.

    Args:
        unique: a column with a unique constraint.
    """

    def __init__(self, connection: BaseDatabaseWrapper, table: str, *, unique: str) -> None:
        self.engine = sqlalchemy.create_engine(_url(connection))
        sqlalchemy.event.listen(self.engine, "connect", _as_django_connects)
        sqlalchemy.event.listen(self.engine, "before_cursor_execute", self._count)
        self.statements = 0
        reflected = sqlalchemy.Table(table, sqlalchemy.MetaData(), autoload_with=self.engine)
        # Reading SQLite's schema misses it, and upsert_many would not use ON CONFLICT.
        reflected.append_constraint(sqlalchemy.UniqueConstraint(reflected.c[unique]))
        base = orm.registry().generate_base()
        self.row: Any = type("ArticleRow", (base,), {"__table__": reflected})
        self._repository = type(
            "ArticleRows",
            (repositories.SQLAlchemySyncRepository,),
            {"model_type": self.row},
        )
        reading = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self.rows = self._repository(session=orm.Session(reading), auto_expunge=True)

    def page(self, order_by: Sequence[str], *, size: int, offset: int) -> object:
        """Return one page by offset, without counting."""
        return self.rows.get_many(*self._page(order_by, size, offset))

    def page_and_count(self, order_by: Sequence[str], *, size: int, offset: int) -> object:
        """Return one page by offset and the total, in one query: the pagination it documents."""
        return self.rows.get_many_and_count(*self._page(order_by, size, offset))

    def write(self, method: str, objs: list[Any], **options: Any) -> None:
        """Call `add_many` or `upsert_many`, and commit."""
        with orm.Session(self.engine, expire_on_commit=False) as session:
            getattr(self._repository(session=session), method)(objs, auto_commit=True, **options)

    def in_memory(self, kept: Iterable[Mapping[str, Any]]) -> Any:
        """Return its repository without a database, holding objects of these values.

        Over the same columns without the foreign key, which it cannot follow on SQLAlchemy 2.1.
        """
        columns = [
            sqlalchemy.Column(each.name, each.type, primary_key=each.primary_key)
            for each in self.row.__table__.columns
        ]
        table = sqlalchemy.Table("kept", sqlalchemy.MetaData(), *columns)
        row: Any = type("KeptRow", (orm.registry().generate_base(),), {"__table__": table})
        made = type("KeptRows", (memory.SQLAlchemySyncMockRepository,), {"model_type": row})
        repository: Any = made(session=None)
        repository.add_many([row(**values) for values in kept])
        return repository

    def close(self) -> None:
        """Give the connections back."""
        self.rows.session.close()
        self.engine.dispose()

    def _page(self, order_by: Sequence[str], size: int, offset: int) -> list[Any]:
        orders = [
            filters.OrderBy(each.removeprefix("-"), "desc" if each.startswith("-") else "asc")
            for each in order_by
        ]
        return [filters.LimitOffset(size, offset), *orders]

    def _count(self, *_: object) -> None:
        self.statements += 1


def _url(connection: BaseDatabaseWrapper) -> Any:
    settings = connection.settings_dict
    if connection.vendor == "sqlite":
        return sqlalchemy.URL.create("sqlite", database=str(settings["NAME"]))
    return sqlalchemy.URL.create(
        "postgresql+psycopg",
        username=settings["USER"],
        password=settings["PASSWORD"] or None,
        host=settings["HOST"],
        port=int(settings["PORT"]),
        database=settings["NAME"],
    )


def _as_django_connects(connection: Any, _: object) -> None:
    if hasattr(connection, "executescript"):  # SQLite, which forgets this with each connection
        connection.execute("PRAGMA synchronous=NORMAL")
