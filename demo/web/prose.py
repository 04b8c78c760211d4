"""Stored HTML as a reader sees it: WordPress's conventions resolved, sanitised last."""

import re
from collections.abc import Iterator

import nh3

from demo.blog.markup import plain_text

__all__ = ["as_excerpt", "as_page"]

_TAG = re.compile(r'<(/?)([a-z][a-z0-9]*)(?:[^>"]|"[^"]*")*>', re.IGNORECASE)
_BLOCKS = frozenset(
    (
        *("address", "article", "aside", "blockquote", "center", "dd", "details", "div", "dl"),
        *("dt", "figcaption", "figure", "footer", "h1", "h2", "h3", "h4", "h5", "h6", "header"),
        *("li", "nav", "ol", "p", "pre", "section", "table", "ul"),
    )
)
_PARTING = _BLOCKS | {"br", "hr", "td", "th"}
_CAPTION = re.compile(r"\[caption\b[^\]]*\](.*?)\[/caption\]", re.DOTALL)
_MEDIA = re.compile(r"\[(audio|gallery|playlist|video|wpvideo)\b[^\]]*\](?:\[/\1\])?")
_EMBED = re.compile(r"\[/?embed\b[^\]]*\]")
_SHORTCODE = re.compile(r"\[/?(?:audio|caption|embed|gallery|playlist|video|wpvideo)\b[^\]]*\]?")

_IMAGES = {"img": {"loading": "lazy", "decoding": "async", "referrerpolicy": "no-referrer"}}
_ATTRIBUTES = {tag: set(names) for tag, names in nh3.ALLOWED_ATTRIBUTES.items()}


def as_page(stored: str) -> str:
    """Return safe HTML of a stored body, its paragraphs marked up.

    WordPress's older editor stores blank lines where a page has paragraphs, and `[captions]`.
    Sanitising is the last step, so nothing before it has to be trusted.
    """
    text = _CAPTION.sub(r"<figure>\1</figure>", stored)
    text = _MEDIA.sub(r"<em>(\1: not imported)</em>", _EMBED.sub("", text))
    if not re.search(r"<p[\s>]", text):
        text = "".join(_paragraphs(text))
    return nh3.clean(text, attributes=_ATTRIBUTES, set_tag_attribute_values=_IMAGES)


def as_excerpt(stored: str, *, length: int = 240) -> str:
    """Return the first words of a stored body as text, `…` at a cut; a template escapes it."""
    start = stored[: length * 20]  # markup goes, and images have long addresses
    spaced = _TAG.sub(lambda tag: f" {tag[0]}" if tag[2] in _PARTING else tag[0], start)
    text = " ".join(plain_text(_SHORTCODE.sub(" ", spaced)).split())
    if len(text) <= length:
        return text
    return text[:length].rsplit(" ", 1)[0].rstrip(" ,;:.-") + "…"


def _paragraphs(text: str) -> Iterator[str]:
    """Yield blocks as they are, and what stands between them as paragraphs."""
    depth, start = 0, 0
    for tag in _TAG.finditer(text):
        if tag[2].lower() not in _BLOCKS:
            continue
        if tag[1]:
            if depth == 0:
                continue
            depth -= 1
            if depth == 0:
                yield text[start : tag.end()]
                start = tag.end()
        else:
            if depth == 0:
                yield from _loose(text[start : tag.start()])
                start = tag.start()
            depth += 1
    yield from [text[start:]] if depth else _loose(text[start:])


def _loose(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        if stripped := paragraph.strip():
            yield "<p>" + stripped.replace("\n", "<br>\n") + "</p>\n"
