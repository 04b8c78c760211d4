"""`manage.py shard_map show|assign|split|check`: look at the maps, change them, prove them."""

import argparse
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandParser

from dbpatterns.commands import Exit, OperationalCommand, Report
from dbpatterns.errors import UsageError
from dbpatterns.sharding import picture, proof
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.map_store import Rows, read
from dbpatterns.sharding.operations import HandOver, assigning, splitting
from dbpatterns.sharding.parts import key_type
from dbpatterns.sharding.shard_map import ShardMap


class Command(OperationalCommand):
    """Show who owns what, give keys and ranges to shards, and prove the map."""

    help = "Show the shard maps, give a key or a range to a shard, or check them."

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the four actions; common options stand before or after them."""
        super().add_arguments(parser)
        parser.add_argument("--group", help="Of this group only; needed where there are several.")
        shared = CommandParser(add_help=False, argument_default=argparse.SUPPRESS)
        shared.add_argument("--group", help="Of this group only.")
        shared.add_argument("--format", choices=("text", "json"), help="Output.")
        actions = parser.add_subparsers(dest="action", required=True)
        actions.add_parser("show", parents=[shared], help="Who owns what.")
        for name, what in (("assign", "key"), ("split", "bound")):
            action = actions.add_parser(
                name, parents=[shared], help=f"Give {what}s without rows to a shard."
            )
            action.add_argument(what)
            action.add_argument("shard")
            action.add_argument("--dry-run", action="store_true", help="Say what would happen.")
        check = actions.add_parser(
            "check", parents=[shared], help="Exit 1 when something is wrong."
        )
        check.add_argument("--rows", action="store_true", help="Read every row's key, too.")

    def operate(self, **options: Any) -> Report:
        """Do one of the actions."""
        if options["action"] == "show":
            self._maps = [read(name) for name in self._groups()]
            return Report({"groups": [_facts(each) for each in self._maps]})
        if options["action"] == "check":
            return self._check(options["rows"])
        group = self._only_group()
        if options["action"] == "assign":
            handing = assigning(group, _key(group, options["key"]), options["shard"])
        else:
            handing = splitting(group, _key(group, options["bound"]), options["shard"])
        return self._hand_over(handing, is_dry=options["dry_run"])

    def show(self, facts: Mapping[str, Any]) -> None:
        """Print a picture for people who ask to see the maps."""
        if self._options["action"] != "show":
            super().show(facts)
            return
        for each in self._maps:
            for line in picture.lines(each):
                self.stdout.write(line)

    def _hand_over(self, handing: HandOver, *, is_dry: bool) -> Report:
        facts: dict[str, object] = {
            "group": handing.part.group,
            "part": str(handing.part),
            "from": handing.home or "nowhere",
            "to": handing.shard,
            "rows_in_the_way": handing.rows(),
        }
        if not is_dry:
            return Report(facts | {"epoch": handing.run().epoch})
        if facts["rows_in_the_way"]:
            return Report(facts, Exit.FINDINGS, "Keys that have rows do not change hands.")
        return Report(facts)

    def _check(self, has_rows: bool) -> Report:
        findings: list[str] = []
        for name in self._groups():
            found = read(name)
            findings += proof.interrupted(found)
            if has_rows:
                findings += proof.strays(found)
        facts = {"groups": self._groups(), "findings": findings}
        if findings:
            return Report(facts, Exit.FINDINGS, f"{len(findings)} findings in the shard maps.")
        return Report(facts)

    def _groups(self) -> list[str]:
        known = sorted(ShardingSettings.load().groups)
        asked = self._options["group"]
        if asked and asked not in known:
            raise UsageError(f"There is no group {asked!r}. Known: {', '.join(known) or 'none'}.")
        return [asked] if asked else known

    def _only_group(self) -> str:
        groups = self._groups()
        if len(groups) != 1:
            raise UsageError(f"Say which --group: {', '.join(groups) or 'there is none'}.")
        return groups[0]


def _facts(shard_map: ShardMap) -> dict[str, object]:
    rows = Rows.of(shard_map)
    return {
        "group": shard_map.group,
        "strategy": shard_map.strategy.name,
        "epoch": shard_map.epoch,
        "slots": {str(first): shard for first, shard in sorted(rows.slots.items())},
        "slots_held": picture.slots_of(rows) if rows.slots else {},
        "keys": dict(sorted(rows.keys.items())),
    }


def _key(group: str, text: str) -> Key:
    kind = key_type(group)
    try:
        key: Key = kind(text)
    except ValueError:
        raise UsageError(f"{text!r} is no key of {group!r}: those are {kind.__name__}s.") from None
    return key
