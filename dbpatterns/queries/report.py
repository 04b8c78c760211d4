"""What a guard found: findings, duplicates, and entries of the allow-list that do nothing."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from dbpatterns.errors import UsageError
from dbpatterns.queries.allowing import Allowed

__all__ = ["Duplicate", "Finding", "NPlusOneError", "NPlusOneWarning", "Place", "Report"]


@dataclass(frozen=True, slots=True)
class Place:
    """A line of the project; the path is relative to the project's folder."""

    path: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}" + (f" in {self.function}" if self.function else "")


@dataclass(slots=True, kw_only=True)
class Finding:
    """One N+1: statements of one template, sent from one stack with different values."""

    subject: str
    """Model, field and method: "blog.Post.comments.count"; what `allow` takes."""
    label: str
    """The same for reading: "Post.comments.count()"."""
    place: Place
    """The user's line; the awaiting one in async code."""
    callers: tuple[Place, ...] = ()
    """The user's lines further out, nearest first."""
    template: str = ""
    """File and line of the template, "blog/list.html:12"."""
    serializer: str = ""
    """The serializer's field, "PostSerializer.author"."""
    rows_from: str = ""
    """Where the rows of the loop were read."""
    fix: str
    after: int = 1
    """Queries left when the fix is applied, with the one that reads the rows."""
    sql: str
    params: tuple[object, ...] = ()
    """The values of the first runs."""
    database: str
    is_write: bool = False
    filename: str = ""
    count: int = 0
    """Runs seen so far; complete when the scope has ended."""
    rows: int = 0
    """Rows of the loop where they can be seen, else 0."""
    is_complete: bool = False

    @property
    def fingerprint(self) -> str:
        """What stays the same when lines move: subject, file and function."""
        where = self.template.rpartition(":")[0] or self.serializer
        kind = "write" if self.is_write else "read"
        return "|".join((kind, self.subject, self.place.path, self.place.function, where))

    def __str__(self) -> str:
        from dbpatterns.queries.messages import describe

        return describe(self)


@dataclass(frozen=True, slots=True)
class Duplicate:
    """The same statement with the same values, more than once from one stack."""

    sql: str
    database: str
    count: int
    place: Place | None

    def __str__(self) -> str:
        where = f"   {self.place}" if self.place else ""
        return f"Duplicate: {self.count} times the same query{where}\n  SQL         {self.sql}"


@dataclass(slots=True)
class Report:
    """What one scope saw; filled while it runs, complete when it has ended."""

    findings: list[Finding] = field(default_factory=list)
    """N+1s of reads that nothing allows."""
    writes: list[Finding] = field(default_factory=list)
    """N+1s of writes that nothing allows."""
    allowed: list[Finding] = field(default_factory=list)
    """What the allow-list or the baseline let pass."""
    duplicates: list[Duplicate] = field(default_factory=list)
    stale: list[Allowed] = field(default_factory=list)
    """Entries of this guard's own `allow=` that matched nothing."""
    expired: list[Allowed] = field(default_factory=list)
    """Entries whose last day has passed; they allow nothing any more."""
    matched: list[Allowed] = field(default_factory=list)
    """Entries that let something pass."""
    queries: int = 0
    """Statements seen."""
    is_watched: bool = True
    """False when the mode is off or the scope was not in the sample."""

    def __iter__(self) -> Iterator[Finding]:
        yield from self.findings
        yield from self.writes

    def __str__(self) -> str:
        return "\n\n".join(str(each) for each in (*self, *self.duplicates))


class NPlusOneError(UsageError):
    """The same query for each row of a loop. Change the code as the message says, or allow it."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(str(finding))
        self.finding = finding


class NPlusOneWarning(UserWarning):
    """The same query for each row of a loop, or an entry of the allow-list that does nothing."""
