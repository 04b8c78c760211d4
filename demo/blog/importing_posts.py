"""The second half of a blog import: one batch of posts with their terms and comments."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

from django.core.exceptions import ValidationError

from demo.blog.importing_names import NameImport, sentence_of
from demo.blog.markup import make_slug, sanitize_html
from demo.blog.models import Category, Comment, Post, Tag
from demo.blog.wxr_records import WxrComment, WxrPost

__all__ = ["PostBatch"]

_COMMENT_FIELDS = ("author_name", "body", "is_approved", "created_at")


@dataclass(slots=True)
class PostBatch:
    """Compares posts of the file with stored ones and writes the difference."""

    records: Sequence[WxrPost]
    names: NameImport
    dry_run: bool = False
    posts: Counter[str] = field(default_factory=Counter)
    comments: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Write the batch; needs a transaction unless it is a dry run.

        At most eleven statements on PostgreSQL, whatever the size, and at most nine more for each
        post that changed. Locks the rows of the posts it found. Raises: IntegrityError,
        DataError: somebody else wrote the same at the same time, or the database knows a rule
        that this code does not.
        """
        changes = list(self._changes())
        for change in changes:
            self.posts[change.verdict] += 1
            self.comments.update(each.verdict for each in change.comments)
            self.skipped.update(change.record.skipped_comments)
        if not self.dry_run:
            for change in changes:
                change.update_post()
            _create_posts([each for each in changes if each.verdict == "created"])
            _write_comments([comment for each in changes for comment in each.comments])

    def _changes(self) -> Iterator["_PostChange"]:
        posts = Post.objects.prefetch_related("categories", "tags")
        if not self.dry_run:
            posts = posts.select_for_update()
        stored = posts.in_bulk([each.source_id for each in self.records], field_name="source_id")
        comments = Comment.objects.in_bulk(
            [comment.source_id for each in self.records for comment in each.comments],
            field_name="source_id",
        )
        slugs = [slug for each in self.records for slug in _slugs(each)]
        taken = set(Post.objects.only("slug").in_bulk(slugs, field_name="slug"))
        for record in self.records:
            post = stored.get(record.source_id) or Post(source_id=record.source_id)
            before = post.slug
            try:
                change = _PostChange.of(record, post, self.names, taken, comments)
            except ValidationError as error:
                self.problems.append(f"{record.where}: {sentence_of(error)}")
                continue
            taken.discard(before)
            taken.add(post.slug)
            yield change


@dataclass(slots=True)
class _CommentChange:
    comment: Comment
    parent: Comment | None
    verdict: str


@dataclass(slots=True)
class _PostChange:
    record: WxrPost
    post: Post
    fields: list[str]
    categories: list[Category]
    tags: list[Tag]
    comments: list[_CommentChange]
    verdict: str

    @classmethod
    def of(
        cls,
        record: WxrPost,
        post: Post,
        names: NameImport,
        taken: Set[str],
        comments: Mapping[int, Comment],
    ) -> "_PostChange":
        """Put what the file says onto the post. Raises: ValidationError: it cannot be stored."""
        author = names.authors.get(record.author)
        wanted: dict[str, Mapping[str, Category | Tag]] = {
            "category": names.categories,
            "tag": names.tags,
        }
        missing = [each.slug for each in record.terms if each.slug not in wanted[each.taxonomy]]
        if author is None or missing:
            what = f"author {record.author}" if author is None else f"term {missing[0]}"
            raise ValidationError(f"its {what} was refused.")
        new = {
            "slug": _free_slug(record, post, taken),
            "title": record.title,
            "excerpt": record.excerpt,
            "body": sanitize_html(record.body),
            "status": record.status,
            "published_at": record.published_at,
        }
        fields = [name for name, value in new.items() if getattr(post, name) != value]
        if post.author_id != author.pk:
            post.author = author
            fields.append("author")
        for name, value in new.items():
            setattr(post, name, value)
        post.clean_fields(exclude={"author"})
        slugs = {
            kind: [each.slug for each in record.terms if each.taxonomy == kind] for kind in wanted
        }
        if not post.pk:
            verdict = "created"
        elif (
            fields
            or {each.slug for each in post.categories.all()} != set(slugs["category"])
            or {each.slug for each in post.tags.all()} != set(slugs["tag"])
        ):
            verdict = "updated"
        else:
            verdict = "unchanged"
        return cls(
            record,
            post,
            fields,
            [names.categories[slug] for slug in slugs["category"]],
            [names.tags[slug] for slug in slugs["tag"]],
            _comment_changes(record, post, comments),
            verdict,
        )

    def update_post(self) -> None:
        """Write a stored post that changed, one version up; its row is locked."""
        if self.verdict == "updated":
            self.post.save(update_fields=[*self.fields, "version"])
            self.post.categories.set(self.categories)
            self.post.tags.set(self.tags)


def _slugs(record: WxrPost) -> tuple[str, str]:
    return record.slug, make_slug(record.slug, suffix=str(record.source_id))


def _free_slug(record: WxrPost, post: Post, taken: Set[str]) -> str:
    """Return the post's own slug, else one nobody holds; a post keeps the slug it has."""
    if post.slug in _slugs(record):
        return post.slug
    for slug in _slugs(record):
        if slug not in taken:
            return slug
    raise ValidationError(f'other posts have its slug "{record.slug}" and its replacement.')


def _comment_changes(
    record: WxrPost, post: Post, stored: Mapping[int, Comment]
) -> list[_CommentChange]:
    changes: dict[int, _CommentChange] = {}
    for each in record.comments:
        comment = stored.get(each.source_id) or Comment(source_id=each.source_id, post=post)
        if comment.pk and comment.post_id != post.pk:
            raise ValidationError(f"its comment {each.source_id} is under another post here.")
        changes[each.source_id] = _CommentChange(comment, None, _fill_comment(comment, each))
    for each in record.comments:
        change = changes[each.source_id]
        if each.parent is not None:
            change.parent = changes[each.parent].comment
        parent_id = change.parent.pk if change.parent else None
        moved = change.comment.parent_id != parent_id or (change.parent and not parent_id)
        if moved and change.verdict == "unchanged":
            change.verdict = "updated"
    return list(changes.values())


def _fill_comment(comment: Comment, record: WxrComment) -> str:
    changed = [name for name in _COMMENT_FIELDS if getattr(comment, name) != getattr(record, name)]
    for name in changed:
        setattr(comment, name, getattr(record, name))
    try:
        comment.clean_fields(exclude={"post", "parent"})
    except ValidationError as error:
        raise ValidationError(f"comment {record.source_id}: {sentence_of(error)}") from error
    return "created" if not comment.pk else "updated" if changed else "unchanged"


def _create_posts(changes: Sequence[_PostChange]) -> None:
    Post.objects.bulk_create([each.post for each in changes])
    post_categories, post_tags = Post.categories.through, Post.tags.through
    post_categories._default_manager.bulk_create(
        post_categories(post_id=each.post.pk, category_id=category.pk)
        for each in changes
        for category in each.categories
    )
    post_tags._default_manager.bulk_create(
        post_tags(post_id=each.post.pk, tag_id=tag.pk) for each in changes for tag in each.tags
    )


def _write_comments(changes: Sequence[_CommentChange]) -> None:
    created = [each for each in changes if each.verdict == "created"]
    updated = [each for each in changes if each.verdict == "updated"]
    Comment.objects.bulk_create([each.comment for each in created])
    for each in [*created, *updated]:
        each.comment.parent = each.parent
    answers = [each.comment for each in created if each.parent]
    Comment.objects.bulk_update(answers, ["parent"], batch_size=500)
    Comment.objects.bulk_update(
        [each.comment for each in updated], [*_COMMENT_FIELDS, "parent"], batch_size=500
    )
