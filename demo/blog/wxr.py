"""Reading a WordPress export (WXR 1.x): authors, terms and posts, one at a time.

What an item becomes:

- Posts only; pages, attachments, menus and other types are skipped, and so are posts in the
  trash, auto-drafts and revisions.
- publish is published, future is scheduled, draft and pending are drafts. Private posts and
  *all* posts with a password are private: nobody's secret becomes public by moving house.
- Drafts have no `published_at`. WordPress's local time stands in for a missing GMT one.
- Titles, names, excerpts and comments are plain text here; only a post's body is HTML, as it
  stands in the file: whoever stores it sanitises it.
- Comments that await approval are kept unapproved. Pingbacks and trackbacks, spam, trash and
  comments without text are skipped; an answer to a skipped one answers what that answered.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import BinaryIO
from xml.etree.ElementTree import Element

from demo.blog.markup import make_slug, plain_text
from demo.blog.models import Post
from demo.blog.wxr_records import (
    WxrAuthor,
    WxrComment,
    WxrPost,
    WxrProblem,
    WxrRecord,
    WxrSkipped,
    WxrTerm,
)
from demo.blog.xml_stream import BadExport, channel_entries, line_of

__all__ = ["read_export"]

_STATUSES = {
    "publish": Post.Status.PUBLISHED,
    "future": Post.Status.SCHEDULED,
    "draft": Post.Status.DRAFT,
    "pending": Post.Status.DRAFT,
    "private": Post.Status.PRIVATE,
}
_NO_POSTS = {"trash", "auto-draft", "inherit"}
_TAXONOMIES = {"category": "category", "post_tag": "tag", "tag": "tag"}


def read_export(source: BinaryIO, name: str) -> Iterator[WxrRecord]:
    """Yield what the file holds, in its order; `name` is what messages call the file.

    Memory: one item, and the numbers of the posts and comments seen, about 60 bytes each.
    Raises: BadExport: not a readable WordPress export of version 1.x; what was yielded before
    stands, so go through the whole file once before writing anything.
    """
    seen = _Seen()
    version, items = "", 0
    for entry in channel_entries(source, name):
        line = line_of(entry)
        if entry.tag == "wp:wxr_version":
            version = (entry.text or "").strip()
            if not re.fullmatch(r"1\.\d+", version):
                raise BadExport(name, line, f'this is WXR version "{version}", not 1.x.')
        elif entry.tag == "wp:author":
            yield _author(entry, f"Author on line {line}")
        elif entry.tag in ("wp:category", "wp:tag"):
            yield _term(entry, line)
        elif entry.tag == "item":
            if not version:
                raise BadExport(name, line, "no WordPress export: no wp:wxr_version before items.")
            items += 1
            where = f"Item {items}, line {line}"
            if number := _text(entry, "wp:post_id"):
                where += f", post {number[:30]}"
            if title := _title(entry):
                where += f' "{title[:60]}"'
            try:
                yield _item(entry, where, seen)
            except _Refused as error:
                yield WxrProblem(where, str(error))
    if not version:
        raise BadExport(name, 1, "this is not a WordPress export, it has no wp:wxr_version.")


@dataclass(slots=True)
class _Seen:
    posts: set[int] = field(default_factory=set)
    comments: set[int] = field(default_factory=set)


class _Refused(Exception):
    """Why an item cannot be imported."""


def _author(entry: Element, where: str) -> WxrAuthor | WxrProblem:
    login = _text(entry, "wp:author_login")
    if not login:
        return WxrProblem(where, "it has no wp:author_login.")
    return WxrAuthor(where, login, plain_text(_text(entry, "wp:author_display_name")) or login)


def _term(entry: Element, line: int) -> WxrTerm | WxrProblem:
    if entry.tag == "wp:category":
        taxonomy, slug, name = "category", "wp:category_nicename", "wp:cat_name"
    else:
        taxonomy, slug, name = "tag", "wp:tag_slug", "wp:tag_name"
    where = f"{taxonomy.title()} on line {line}"
    label = plain_text(_text(entry, name))
    if not (key := make_slug(_text(entry, slug), label)):
        return WxrProblem(where, f"it has neither {slug} nor {name}.")
    return WxrTerm(
        where, taxonomy, key, label or key, make_slug(_text(entry, "wp:category_parent"))
    )


def _item(entry: Element, where: str, seen: _Seen) -> WxrPost | WxrSkipped:
    kind, status = _text(entry, "wp:post_type"), _text(entry, "wp:status")
    if not kind:
        raise _Refused("it has no wp:post_type.")
    if kind != "post":
        return WxrSkipped(kind)
    if status in _NO_POSTS:
        return WxrSkipped(f"post ({status})")
    if status not in _STATUSES:
        raise _Refused(f'its wp:status "{status}" is unknown.')
    meant = _STATUSES[status]
    if any(each.text for each in _all(entry, "wp:post_password")):
        meant = Post.Status.PRIVATE
    moment = _moment(entry, "wp:post_date")
    if moment is None and meant in (Post.Status.PUBLISHED, Post.Status.SCHEDULED):
        raise _Refused(f"it is {meant} but has neither wp:post_date_gmt nor wp:post_date.")
    if not (author := _text(entry, "dc:creator")):
        raise _Refused("it names no author (dc:creator).")
    source_id, title = _number(entry, "wp:post_id"), _title(entry)
    comments, skipped = _comments(entry)
    post = WxrPost(
        where=where,
        source_id=source_id,
        slug=make_slug(_text(entry, "wp:post_name"), title, f"post-{source_id}"),
        title=title,
        excerpt=plain_text(_text(entry, "excerpt:encoded")),
        body=_text(entry, "content:encoded"),
        status=meant,
        published_at=None if meant == Post.Status.DRAFT else moment,
        author=author,
        terms=_terms(entry, where),
        comments=comments,
        skipped_comments=skipped,
    )
    if source_id in seen.posts:
        raise _Refused(f"an earlier post in this file is number {source_id} too.")
    numbers = {each.source_id for each in comments}
    if again := numbers & seen.comments:
        raise _Refused(f"its comment {min(again)} is under an earlier post in this file too.")
    seen.posts.add(source_id)
    seen.comments |= numbers
    return post


def _terms(entry: Element, where: str) -> tuple[WxrTerm, ...]:
    found: dict[tuple[str, str], WxrTerm] = {}
    for each in _all(entry, "category"):
        taxonomy = _TAXONOMIES.get(each.get("domain", ""))
        slug = make_slug(each.get("nicename", ""))
        if taxonomy and slug:
            name = plain_text(each.text or "") or slug
            found.setdefault((taxonomy, slug), WxrTerm(where, taxonomy, slug, name))
    return tuple(found.values())


def _comments(entry: Element) -> tuple[tuple[WxrComment, ...], dict[str, int]]:
    skipped: dict[str, int] = {}
    parents: dict[int, int] = {}
    kept: dict[int, tuple[Element, str]] = {}
    for each in _all(entry, "wp:comment"):
        number = _number(each, "wp:comment_id")
        if number in parents:
            raise _Refused(f"it has two comments with the number {number}.")
        parents[number] = _number(each, "wp:comment_parent", or_zero=True)
        kind = _text(each, "wp:comment_type") or "comment"
        approval = _text(each, "wp:comment_approved")
        body = plain_text(_text(each, "wp:comment_content"))
        if kind != "comment":
            skipped[kind] = skipped.get(kind, 0) + 1
        elif approval in ("spam", "trash", "post-trashed"):
            skipped[approval] = skipped.get(approval, 0) + 1
        elif not body:
            skipped["empty"] = skipped.get("empty", 0) + 1
        else:
            kept[number] = each, body
    _refuse_circles(parents)
    comments = tuple(
        WxrComment(
            source_id=number,
            parent=_kept_ancestor(number, parents, kept),
            author_name=plain_text(_text(each, "wp:comment_author")),
            body=body,
            is_approved=_text(each, "wp:comment_approved") == "1",
            created_at=_comment_moment(each, number),
        )
        for number, (each, body) in kept.items()
    )
    return comments, skipped


def _refuse_circles(parents: Mapping[int, int]) -> None:
    fine: set[int] = set()
    for number in parents:
        path: set[int] = set()
        while number in parents and number not in fine:
            if number in path:
                raise _Refused(f"its comments answer each other in a circle, at number {number}.")
            path.add(number)
            number = parents[number]
        fine |= path


def _kept_ancestor(
    number: int, parents: Mapping[int, int], kept: Mapping[int, object]
) -> int | None:
    above = parents[number]
    while above in parents and above not in kept:
        above = parents[above]
    return above if above in kept else None


def _all(entry: Element, tag: str) -> Iterator[Element]:
    return (each for each in entry if each.tag == tag)  # find() would look for a namespace "wp"


def _text(entry: Element, tag: str) -> str:
    return next((each.text or "" for each in _all(entry, tag)), "").strip()


def _title(entry: Element) -> str:
    return plain_text(_text(entry, "title"))


def _number(entry: Element, tag: str, *, or_zero: bool = False) -> int:
    text = _text(entry, tag) or ("0" if or_zero else "")
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII) or not (int(text) or or_zero):
        raise _Refused(f'its {tag} "{text[:30]}" is not a positive number.')
    return int(text)


def _moment(entry: Element, tag: str) -> datetime | None:
    """Return the GMT time, else the local one, read as UTC: the file names no time zone."""
    for name in (f"{tag}_gmt", tag):
        text = _text(entry, name)
        if text and not text.startswith("0000-00-00"):
            try:
                return datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            except ValueError as error:
                raise _Refused(f'its {name} "{text[:30]}" is not a date and time.') from error
    return None


def _comment_moment(comment: Element, number: int) -> datetime:
    if (moment := _moment(comment, "wp:comment_date")) is None:
        raise _Refused(f"its comment {number} has no date.")
    return moment
