"""Formulas over merged numbers, written as the databases compute them themselves."""

from collections.abc import Iterator
from typing import Any

from django.db.models import DecimalField, Expression, Func
from django.db.models.expressions import SQLiteNumericMixin
from django.db.models.functions import Collate

__all__ = ["FromSums", "Known", "Numeric", "Quotient", "TextExtreme", "collations_of"]


class Known(SQLiteNumericMixin, Expression):
    """A column of what is known of the merged groups."""

    def __init__(self, index: int, output_field: Any) -> None:
        super().__init__(output_field=output_field)
        self.index = index

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, tuple[Any, ...]]:
        """Return the SQL."""
        return f"known.c{self.index}", ()


class Numeric(Func):
    """A number in PostgreSQL's exact type, which neither overflows nor rounds."""

    template = "(%(expressions)s)::numeric"
    arity = 1
    output_field = DecimalField()


class Quotient(Func):
    """A sum divided by a count; NULL for a sum of nothing."""

    template = "(%(expressions)s)"
    arg_joiner = " / "
    arity = 2


class FromSums(Func):
    """PostgreSQL's variance of exact numbers, or its root: of a count, a sum, a sum of squares.

    The sums are exact, so that nothing cancels out; the quotient has the digits that the server's
    own has, since it divides the same two numbers.
    """

    arity = 3

    def __init__(self, *sums: Any, sample: bool, root: bool, **options: Any) -> None:
        super().__init__(*sums, **options)
        self.sample, self.root = sample, root

    def as_sql(self, compiler: Any, connection: Any, *_: Any, **__: Any) -> Any:
        """Return the SQL; its sources are columns, which may stand in it twice."""
        count, total, squares = (compiler.compile(each)[0] for each in self.source_expressions)
        less = int(self.sample)
        sql = (
            f"(GREATEST({count} * {squares} - {total} * {total}, 0)"
            f" / ({count}::numeric * ({count} - {less})))"
        )
        if self.root:
            sql = f"ROUND(SQRT({sql}), SCALE({sql}))"
        return f"(CASE WHEN {count} > {less} THEN {sql} END)", ()


class TextExtreme(Func):
    """The least or greatest of some texts, a list in JSON, by the database's collation."""

    arity = 1

    def __init__(self, texts: Any, *, name: str, collation: str | None, **options: Any) -> None:
        super().__init__(texts, **options)
        self.name, self.collation = name, collation

    def as_postgresql(self, compiler: Any, connection: Any) -> tuple[str, Any]:
        """Return the SQL of PostgreSQL."""
        return self._from("json_array_elements_text(%(expressions)s::json)", compiler, connection)

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:
        """Return the SQL of SQLite."""
        return self._from("json_each(%(expressions)s)", compiler, connection)

    def _from(self, source: str, compiler: Any, connection: Any) -> tuple[str, Any]:
        by = f" COLLATE {connection.ops.quote_name(self.collation)}" if self.collation else ""
        column = "value" if connection.vendor == "sqlite" else "candidate"
        return self.as_sql(
            compiler,
            connection,
            template=f"(SELECT {self.name}({column}{by}) FROM {source} AS candidate)",
        )


def collations_of(expression: Any) -> Iterator[str]:
    """Yield the collations that are named in an expression or for its columns."""
    named = (
        getattr(expression, "collation", None)
        if isinstance(expression, Collate)
        else getattr(getattr(expression, "target", None), "db_collation", None)
    )
    if named:
        yield named
        return
    for each in expression.get_source_expressions():
        if each is not None:
            yield from collations_of(each)
