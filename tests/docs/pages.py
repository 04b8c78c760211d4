"""Reading the documentation as the tests need it: pages, their code blocks and their marks."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGES", "ROOT", "Block", "Page", "joined_commands"]

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>[^\n]+?) -->\n)?```(?P<language>[^\n`]*)\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; `mark` is the HTML comment directly above it, if any."""

    language: str
    code: str
    line: int
    mark: str

    @property
    def is_run(self) -> bool:
        """Whether nothing says that it is not."""
        return not self.mark.startswith("not run: ")

    @property
    def file(self) -> tuple[str, str] | None:
        """What a `file:` or `append:` mark says: the verb and the path."""
        verb, _, path = self.mark.partition(": ")
        return (verb, path) if verb in ("file", "append") else None


@dataclass(frozen=True, slots=True)
class Page:
    """One Markdown file."""

    path: Path

    @property
    def name(self) -> str:
        """Its path in the checkout."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def text(self) -> str:
        """All of it."""
        return self.path.read_text(encoding="utf-8")

    @property
    def blocks(self) -> list[Block]:
        """Its fenced blocks, in order."""
        text = self.text
        return [
            Block(
                found["language"].strip(),
                found["code"],
                text.count("\n", 0, found.start("code")),
                found["mark"] or "",
            )
            for found in _BLOCK.finditer(text)
        ]

    @property
    def is_project(self) -> bool:
        """Whether it builds a project: some of its blocks are files."""
        return any(block.file for block in self.blocks)


PAGES = [
    Page(path)
    for path in sorted(
        [
            ROOT / "README.md",
            ROOT / "CONTRIBUTING.md",
            *(each for each in (ROOT / "docs").rglob("*.md") if "_build" not in each.parts),
        ]
    )
]


def joined_commands(code: str) -> Iterator[str]:
    """Yield the commands of a console block, without `$ `, continued lines joined."""
    for line in re.sub(r"\\\n\s*", "", code).splitlines():
        if line.startswith("$ "):
            yield line.removeprefix("$ ")
