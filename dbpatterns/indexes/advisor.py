"""From statements to proposals: read, group, try, and say how sure it is."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

from django.apps import apps
from django.db import DEFAULT_DB_ALIAS, connections, models

from dbpatterns.errors import UsageError
from dbpatterns.indexes.candidates import candidates, redundant
from dbpatterns.indexes.catalog import Table, read_table
from dbpatterns.indexes.declaring import Candidate, migration
from dbpatterns.indexes.predicates import Access, accesses
from dbpatterns.indexes.verification import Verdict, Verification, verify
from dbpatterns.statements import Statement, fingerprint

__all__ = ["Advice", "Confidence", "Finding", "Proposal", "advise"]

MIN_ROWS = 1_000
"""A smaller table is read whole as fast."""
SAMPLES = 20
"""Statements read of those that differ in their values only."""
MAX_STATEMENTS = 3
"""Statements a candidate is tried on, the dearest."""
WORTH = 1.2
"""How many times cheaper the plans must be for a proposal at all."""


class Confidence(IntEnum):
    """How sure the advisor is."""

    LOW = 1
    """Not proved, or little gained."""
    MEDIUM = 2
    """Proved on a sample, or at least twice as cheap."""
    HIGH = 3
    """Proved with all rows, and at least ten times as cheap."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Proposal:
    """An index to add."""

    candidate: Candidate
    verdict: Verdict
    confidence: Confidence
    calls: int
    """Of all statements it is for."""
    statement: str
    """The dearest of them."""
    write_cost: str
    notes: tuple[str, ...] = ()

    @property
    def gain(self) -> float | None:
        """How many times cheaper the plans get; None where that is not known."""
        return _gain(self.verdict)

    def as_code(self) -> str:
        """Return the line for the model's `Meta.indexes`."""
        return self.candidate.as_code()

    def as_dict(self) -> dict[str, Any]:
        """Return it for people and machines."""
        verdict = self.verdict
        return {
            "model": self.candidate.model._meta.label,
            "confidence": str(self.confidence),
            "index": self.as_code(),
            "cost_before": verdict.before and round(verdict.before, 1),
            "cost_after": verdict.after and round(verdict.after, 1),
            "plans": verdict.plans,
            "size_bytes": verdict.size_bytes,
            "verified": str(verdict.method),
            "all_rows": verdict.is_whole,
            "inconclusive": verdict.inconclusive,
            "write_cost": self.write_cost,
            "calls": self.calls,
            "statement": self.statement,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """An index that is there and could go."""

    model: str
    index: str
    kind: str
    """`duplicate`: another index does all it does; `unused`: nothing has read it."""
    confidence: Confidence
    size_bytes: int | None
    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return it for people and machines."""
        names = ("model", "index", "kind", "size_bytes", "reason")
        return {
            **{name: getattr(self, name) for name in names},
            "confidence": str(self.confidence),
        }


@dataclass(frozen=True, slots=True)
class Advice:
    """What the advisor found."""

    proposals: tuple[Proposal, ...]
    findings: tuple[Finding, ...]
    statements: int
    unread: int
    """Statements that sqlglot could not read, or that are more than one."""
    left_out: tuple[str, ...]
    """Tables that were asked for and not looked at, and why."""
    vendor: str = field(default="", repr=False)

    def migrations(self) -> dict[str, str]:
        """Return for each app the text of a migration that adds what is proposed."""
        return migration((each.candidate for each in self.proposals), vendor=self.vendor)

    def count(self, least: Confidence) -> int:
        """Return how many proposals and findings are at least as sure."""
        sure = [each.confidence for each in self.proposals]
        sure += [each.confidence for each in self.findings]
        return sum(each >= least for each in sure)


def advise(
    statements: Iterable[Statement],
    *,
    using: str = DEFAULT_DB_ALIAS,
    app: str | None = None,
    how: Verification = Verification.AUTO,
) -> Advice:
    """Say which indexes these statements ask for, and which of those there are could go.

    Reads catalogs and statistics, plans each candidate on up to three statements, and takes no
    lock that a writer waits for, unless `how` is BUILD.

    Args:
        statements: those of other databases are left out.
        app: label of the only app to look at.
    Raises: UsageError: no such app, or no PostgreSQL or SQLite. ConfigurationError: no sqlglot.
    """
    connection = connections[using]
    if connection.vendor not in ("postgresql", "sqlite"):
        raise UsageError(f"The index advisor knows PostgreSQL and SQLite, not {connection.vendor}.")
    tables = _models(app)
    asked, examples, count, unread = _read(statements, using, tables)
    proposals: list[Proposal] = []
    findings: list[Finding] = []
    left_out: list[str] = []
    for name, model in tables.items():
        own = asked.get(name, Counter())
        conditions = sorted({c for access in own for c in access.conditions}, key=str)
        columns = {each.column for each in model._meta.local_concrete_fields}
        known = [each for each in conditions if each.column in columns]
        table = read_table(connection, name, known)
        if table is None:
            continue
        if not model._meta.auto_created:  # else nobody could take its indexes away
            findings += _findings(model, table)
        if own and table.kind not in "rpm":
            left_out.append(f"{name}: a view or foreign table has no indexes here")
        elif own and table.rows < MIN_ROWS:
            left_out.append(f"{name}: {table.rows:,} rows are read as fast without an index")
        elif own:
            for candidate, accesses_ in candidates(model, table, own, vendor=connection.vendor):
                proposal = _try(connection, candidate, table, accesses_, examples, how)
                proposals += [proposal] if proposal else []
    proposals.sort(key=lambda each: (-each.confidence, -(each.gain or 0), each.candidate.name))
    return Advice(
        tuple(proposals), tuple(findings), count, unread, tuple(left_out), connection.vendor
    )


def _models(app: str | None) -> dict[str, type[models.Model]]:
    try:
        found = (apps.get_app_config(app) if app else apps).get_models(include_auto_created=True)
    except LookupError as error:
        raise UsageError(f"There is no installed app {app!r}; give its label.") from error
    return {
        each._meta.db_table: each for each in found if each._meta.managed and not each._meta.proxy
    }


def _read(
    statements: Iterable[Statement], using: str, tables: Mapping[str, object]
) -> tuple[dict[str, Counter[Access]], dict[Access, list[Statement]], int, int]:
    alike: defaultdict[str, list[Statement]] = defaultdict(list)
    for each in statements:
        if each.database in ("", using):
            alike[fingerprint(each.sql)].append(each)
    asked: defaultdict[str, Counter[Access]] = defaultdict(Counter)
    examples: defaultdict[Access, list[Statement]] = defaultdict(list)
    unread = 0
    for group in alike.values():
        calls = sum(each.calls for each in group)
        shown = group[:: max(len(group) // SAMPLES, 1)][:SAMPLES]
        seconds = sum(each.seconds for each in group) / len(shown)
        for each in shown:
            read = accesses(each)
            if read is None:
                unread += 1
                break
            share = replace(each, calls=max(calls // len(shown), 1), seconds=seconds)
            for access in read:
                if access.table in tables:
                    asked[access.table][access] += share.calls
                    examples[access].append(share)
    return asked, examples, sum(map(len, alike.values())), unread


def _try(
    connection: Any,
    candidate: Candidate,
    table: Table,
    own: Sequence[Access],
    examples: Mapping[Access, Sequence[Statement]],
    how: Verification,
) -> Proposal | None:
    statements = sorted(
        {id(each): each for access in own for each in examples[access]}.values(),
        key=lambda each: (-each.seconds, -each.calls),
    )
    notes = []
    if candidate.is_trigram:
        notes.append("needs TrigramExtension() in an earlier migration")
    if candidate.needs_postgres_app and not apps.is_installed("django.contrib.postgres"):
        notes.append('needs "django.contrib.postgres" in INSTALLED_APPS')
        verdict = Verdict(how, inconclusive=notes[-1])
    else:
        is_alone = all(access.is_alone for access in own)
        shown = statements[:MAX_STATEMENTS]
        verdict = verify(connection, candidate, table, shown, how=how, is_alone=is_alone)
    confidence = _confidence(verdict)
    if confidence is None:
        return None
    return Proposal(
        candidate,
        verdict,
        confidence,
        sum(each.calls for each in statements),
        fingerprint(statements[0].sql),
        _write_cost(candidate, table),
        tuple(notes),
    )


def _confidence(verdict: Verdict) -> Confidence | None:
    if verdict.inconclusive:
        return Confidence.LOW
    gain = _gain(verdict)
    if not verdict.is_used or (gain is not None and gain < WORTH):
        return None
    if gain is None:
        return Confidence.HIGH if verdict.is_whole else Confidence.MEDIUM
    if gain >= 10 and verdict.is_whole:
        return Confidence.HIGH
    return Confidence.MEDIUM if gain >= 2 else Confidence.LOW


def _gain(verdict: Verdict) -> float | None:
    if verdict.before is None or verdict.after is None:  # SQLite has no costs
        return None
    return verdict.before / max(verdict.after, 0.01)


def _write_cost(candidate: Candidate, table: Table) -> str:
    names = dict.fromkeys(
        [
            *(key.column for key in candidate.keys),
            *(each.column for each in candidate.conditions),
            *candidate.include,
        ]
    )
    rows = "each INSERT"
    if candidate.conditions:
        rows += " of a row that meets the condition"
    columns = ", ".join(names)
    text = f"{rows} and each UPDATE of {columns} writes it too"
    if table.writes:
        text += f", and such an UPDATE is not HOT; {table.writes}"
    return text


def _findings(model: type[models.Model], table: Table) -> Iterator[Finding]:
    label, gone = model._meta.label, set()
    for index, other in redundant(table.indexes):
        gone.add(index.name)
        is_equal = index.keys == other.keys
        yield Finding(
            label,
            index.name,
            "duplicate",
            Confidence.HIGH if is_equal else Confidence.MEDIUM,
            index.size_bytes,
            f"{other.name} {'is the same' if is_equal else 'begins with the same columns'}",
        )
    for index in table.indexes:
        is_spare = index.scans == 0 and not index.is_unique and index.name not in gone
        if is_spare and table.rows >= MIN_ROWS:
            yield Finding(
                label,
                index.name,
                "unused",
                Confidence.LOW,
                index.size_bytes,
                "nothing has read it since the server's statistics began; replicas count apart",
            )
