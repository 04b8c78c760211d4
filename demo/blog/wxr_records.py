"""What a WordPress export holds, as values: the records that `demo.blog.wxr` reads."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from demo.blog.models import Post

__all__ = [
    "WxrAuthor",
    "WxrComment",
    "WxrPost",
    "WxrProblem",
    "WxrRecord",
    "WxrSkipped",
    "WxrTerm",
]


@dataclass(frozen=True, slots=True)
class WxrAuthor:
    """Who wrote, by login."""

    where: str
    login: str
    name: str


@dataclass(frozen=True, slots=True)
class WxrTerm:
    """A category or a tag."""

    where: str
    taxonomy: str
    """`category` or `tag`."""
    slug: str
    name: str
    parent: str = ""


@dataclass(frozen=True, slots=True)
class WxrComment:
    """One comment; `parent` is the source id of the comment it answers."""

    source_id: int
    parent: int | None
    author_name: str
    body: str
    is_approved: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class WxrPost:
    """One post with its comments; `body` is not sanitised."""

    where: str
    source_id: int
    slug: str
    title: str
    excerpt: str
    body: str
    status: Post.Status
    published_at: datetime | None
    author: str
    terms: tuple[WxrTerm, ...]
    comments: tuple[WxrComment, ...]
    skipped_comments: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class WxrSkipped:
    """An item the blog has no place for."""

    kind: str


@dataclass(frozen=True, slots=True)
class WxrProblem:
    """An entry that cannot be imported: where it is and what is wrong with it."""

    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


WxrRecord = WxrAuthor | WxrTerm | WxrPost | WxrSkipped | WxrProblem
