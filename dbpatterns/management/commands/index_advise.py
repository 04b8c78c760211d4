"""`manage.py index_advise`: the indexes that the queries ask for."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from typing import Any

from django.db import DEFAULT_DB_ALIAS

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.indexes import Confidence, advise
from dbpatterns.indexes.verification import Verification
from dbpatterns.statements import Statement, read_log, read_server


class Command(OperationalCommand):
    """Propose indexes, prove them without making anybody wait, and exit 1 on request."""

    help = "Propose indexes for the queries of a log or of pg_stat_statements."
    common_options = ("--database",)

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add where the queries come from, how to prove, and what to fail on."""
        super().add_arguments(parser)  # type: ignore[arg-type]  # Django's is one
        parser.add_argument("--app", help="Look at the models of this app only, by its label.")
        parser.add_argument(
            "--from-log",
            action="append",
            metavar="FILE",
            help="Read statements here and not from pg_stat_statements; may be given again.",
        )
        parser.add_argument(
            "--verify",
            choices=[str(each) for each in Verification],
            default="auto",
            help="HypoPG or a copy (auto), or a real build that is rolled back.",
        )
        parser.add_argument(
            "--fail-on",
            choices=[str(each) for each in Confidence],
            help="Exit 1 when there is a finding at least as sure.",
        )

    def operate(self, **options: Any) -> Report:
        """Read the statements, and report what was found."""
        using = options["database"] or DEFAULT_DB_ALIAS
        statements: list[Statement] = []
        skipped = 0
        for path in options["from_log"] or ():
            log = read_log(path)
            statements += log.statements
            skipped += log.skipped
        if not options["from_log"]:
            statements = read_server(using)
        how = Verification(options["verify"])
        advice = advise(statements, using=using, app=options["app"], how=how)
        facts = {
            "statements": advice.statements,
            "unread": advice.unread + skipped,
            "left_out": list(advice.left_out),
            "proposals": [each.as_dict() for each in advice.proposals],
            "existing": [each.as_dict() for each in advice.findings],
            "migrations": advice.migrations(),
        }
        if options["fail_on"]:
            found = advice.count(Confidence[options["fail_on"].upper()])
            if found:
                reason = f"{found} findings of confidence {options['fail_on']} or more."
                return Report(facts, Exit.FINDINGS, reason)
        return Report(facts)

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print proposals as paragraphs."""
        for lines in (*map(_proposal, facts["proposals"]), map(_existing, facts["existing"])):
            for line in lines:
                self.stdout.write(line)
        for app, text in facts["migrations"].items():
            self.stdout.write(f"\nA migration for {app}:\n\n{text}")
        rest = {"proposals": len(facts["proposals"]), "existing": len(facts["existing"])}
        super().show({"statements": facts["statements"], "unread": facts["unread"], **rest})


def _proposal(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['model']}  confidence {found['confidence']}"
    yield f"  {found['index']}"
    if found["cost_after"] is not None:
        proof = f"{found['verified']}, {'all' if found['all_rows'] else 'a sample of the'} rows"
        yield f"  cost    {found['cost_before']:,} -> {found['cost_after']:,}  ({proof})"
    if found["plans"]:
        yield f"  plan    {found['plans'][0]} -> {found['plans'][1]}"
    if found["inconclusive"]:
        yield f"  cost    inconclusive: {found['inconclusive']}"
    if found["size_bytes"] is not None:
        yield f"  size    {found['size_bytes'] / 1024**2:,.2f} MB"
    yield f"  writes  {found['write_cost']}"
    yield f"  for     {found['calls']:,} calls such as {found['statement'][:160]}"
    yield from (f"  note    {each}" for each in found["notes"])
    yield ""


def _existing(found: Mapping[str, Any]) -> str:
    name = f"{found['model']}: {found['index']}"
    return f"{name} is {found['kind']}, confidence {found['confidence']}: {found['reason']}"
