"""Text from outside, made safe: sanitised HTML, plain text and slugs."""

import html
from urllib.parse import unquote

import nh3
from django.utils.text import slugify

__all__ = ["make_slug", "plain_text", "sanitize_html"]

_SLUG_LENGTH = 200


def sanitize_html(text: str) -> str:
    """Return HTML that cannot run anything: no scripts, styles, frames, comments or handlers.

    Keeps nh3's safe tags and attributes; links get `rel="noopener noreferrer"`.
    """
    return nh3.clean(text)


def plain_text(text: str) -> str:
    """Return what a reader of this HTML would read: tags gone, entities resolved.

    The result is text and may hold `<`: a template escapes it, as Django does by itself.
    """
    return html.unescape(nh3.clean(text, tags=set())).strip()


def make_slug(*candidates: str, suffix: str = "") -> str:
    """Return the slug of the first candidate that leaves one, `suffix` added; else "".

    Reads WordPress's percent-encoded slugs. At most 200 characters, suffix included.
    """
    for candidate in candidates:
        if slug := slugify(unquote(candidate), allow_unicode=True):
            tail = f"-{suffix}" if suffix else ""
            return slug[: _SLUG_LENGTH - len(tail)].rstrip("-_") + tail
    return ""
