"""A large XML feed, one entry at a time, and nothing an attacker could hide in one.

Document types are refused, and entities and external references with them. An entry is forgotten
as soon as the next one is asked for, so memory holds the largest entry, not the file.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, BinaryIO
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers.expat import ErrorString, errors

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, XMLParser, iterparse

__all__ = ["BadExport", "channel_entries", "line_of"]

_LINE = "{}line"  # no XML name: a file cannot set it
_PREFIXES = (
    # http in WordPress's own exports, https in files that people "corrected"
    (re.compile(r"\{https?://wordpress\.org/export/1\.\d+/excerpt/\}"), "excerpt:"),
    (re.compile(r"\{https?://wordpress\.org/export/1\.\d+/\}"), "wp:"),
    (re.compile(r"\{https?://purl\.org/rss/1\.0/modules/content/\}"), "content:"),
    (re.compile(r"\{https?://purl\.org/dc/elements/1\.1/\}"), "dc:"),
)
_REASONS = {
    errors.XML_ERROR_NO_ELEMENTS: "the file ends too early",
    errors.XML_ERROR_INVALID_TOKEN: "a character that XML or the declared encoding does not know",
}


class BadExport(Exception):
    """The file as a whole cannot be imported; the sentence names the file and the line."""

    def __init__(self, name: str, line: int, reason: str) -> None:
        super().__init__(f"{name}, line {line}: {reason}")


def channel_entries(source: BinaryIO, name: str) -> Iterator[Element]:
    """Yield each child of an RSS file's channel, tags with their usual prefixes (`wp:post_id`).

    Read an entry before asking for the next one: it is emptied then.
    Raises: BadExport: broken, cut short, in another encoding than it says, with a document type,
    or not RSS.
    """
    builder = _Builder()
    parser = XMLParser(target=builder, forbid_dtd=True)
    builder.expat = parser.parser
    open_elements: list[Element] = []
    try:
        for event, element in iterparse(source, ("start", "end"), parser):
            if event == "start":
                if not open_elements and element.tag != "rss":
                    raise BadExport(
                        name, line_of(element), f"this is not RSS, its root is <{element.tag}>."
                    )
                open_elements.append(element)
                continue
            open_elements.pop()
            if [each.tag for each in open_elements[:3]] == ["rss", "channel"]:
                yield element
            if 1 <= len(open_elements) <= 2:
                open_elements[-1].clear()
    except DefusedXmlException as error:
        raise BadExport(
            name,
            builder.line,
            "it declares a document type (DTD), which can hide an attack and which no WordPress "
            "export has: refused.",
        ) from error
    except ParseError as error:
        reason = _REASONS.get(ErrorString(error.code), ErrorString(error.code))
        raise BadExport(name, error.position[0], f"this is no complete XML: {reason}.") from error
    except (LookupError, ValueError) as error:
        raise BadExport(name, builder.line, f"its encoding cannot be read ({error}).") from error


def line_of(entry: Element) -> int:
    """Return the line on which an entry starts."""
    return int(entry.get(_LINE, "0"))


class _Builder(TreeBuilder):
    """Builds elements that carry short tags and, where entries start, their line."""

    expat: Any
    depth = 0

    @property
    def line(self) -> int:
        return int(self.expat.CurrentLineNumber)

    def start(self, tag: str, attrs: dict[str, str], /) -> Element:
        self.depth += 1
        if self.depth <= 3:
            attrs = {**attrs, _LINE: str(self.line)}
        return super().start(_short(tag), attrs)

    def end(self, tag: str, /) -> Element:
        self.depth -= 1
        return super().end(_short(tag))


@lru_cache(maxsize=256)
def _short(tag: str) -> str:
    for namespace, prefix in _PREFIXES:
        if match := namespace.match(tag):
            return prefix + tag[match.end() :]
    return tag
