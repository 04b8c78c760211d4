"""Importing a WordPress export: what is read, what is written, and what is refused."""

import gc
import io
import json
import os
import signal
import tracemalloc
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection
from django.db.models import Count
from django.test.utils import CaptureQueriesContext

from demo.blog.importing import BlogImport
from demo.blog.importing_names import NameImport, Survey
from demo.blog.importing_posts import PostBatch
from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.blog.wxr import read_export
from demo.blog.wxr_records import WxrPost

EXPORT = Path(__file__).parents[3] / "shared/data/wordpress/themeunittestdata.wordpress.xml"
HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<rss version="2.0"
  xmlns:excerpt="{scheme}://wordpress.org/export/1.2/excerpt/"
  xmlns:content="http://purl.org/rss/1.0/modules/content/"
  xmlns:dc="http://purl.org/dc/elements/1.1/"
  xmlns:wp="{scheme}://wordpress.org/export/1.2/">
<channel><title>A blog</title><wp:wxr_version>{version}</wp:wxr_version>
"""
TAIL = "</channel></rss>\n"
ADA = (
    "<wp:author><wp:author_login>ada</wp:author_login>"
    "<wp:author_display_name>Ada &amp;amp; Co</wp:author_display_name></wp:author>"
)

pytestmark = pytest.mark.django_db
Import = Callable[..., dict[str, Any]]


def category(slug: str, name: str = "", parent: str = "") -> str:
    return (
        f"<wp:category><wp:category_nicename>{slug}</wp:category_nicename>"
        f"<wp:category_parent>{parent}</wp:category_parent>"
        f"<wp:cat_name>{name or slug}</wp:cat_name></wp:category>"
    )


def tag(slug: str, name: str) -> str:
    return f"<wp:tag><wp:tag_slug>{slug}</wp:tag_slug><wp:tag_name>{name}</wp:tag_name></wp:tag>"


def comment(number: int, parent: int = 0, **fields: str) -> str:
    values = {
        "comment_id": number,
        "comment_author": "Mia",
        "comment_date_gmt": "2020-02-03 04:05:06",
        "comment_content": f"Comment {number}",
        "comment_approved": "1",
        "comment_type": "",
        "comment_parent": parent,
    } | fields
    inside = "".join(f"<wp:{key}>{escape(str(value))}</wp:{key}>" for key, value in values.items())
    return f"<wp:comment>{inside}</wp:comment>"


def item(number: int | str, *inside: str, **fields: str) -> str:
    values: Mapping[str, object] = {
        "title": f"Post {number}",
        "dc:creator": "ada",
        "content:encoded": "<p>Hello</p>",
        "excerpt:encoded": "",
        "wp:post_id": number,
        "wp:post_date": "2020-01-02 04:04:05",
        "wp:post_date_gmt": "2020-01-02 03:04:05",
        "wp:post_name": f"post-{number}",
        "wp:status": "publish",
        "wp:post_type": "post",
        "wp:post_password": "",
    } | {key.replace("__", ":"): value for key, value in fields.items()}
    text = "".join(f"<{key}>{escape(str(value))}</{key}>" for key, value in values.items())
    return f"<item>\n{text}{''.join(inside)}</item>\n"


def in_term(domain: str, slug: str, name: str = "") -> str:
    return f'<category domain="{domain}" nicename="{slug}">{name or slug}</category>'


def wxr(*parts: str, version: str = "1.2", scheme: str = "http") -> str:
    return HEAD.format(version=version, scheme=scheme) + "".join(parts) + TAIL


def dump() -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table of the blog."""
    tables = (Author, Category, Tag, Post, Comment, Post.categories.through, Post.tags.through)
    return {
        each._meta.db_table: list(each._default_manager.order_by("pk").values_list())
        for each in tables
    }


@pytest.fixture
def run(tmp_path: Path) -> Import:
    """Import a text with the command and return its report; `exit` is its exit code."""

    def run(*parts: str, text: str | bytes | None = None, **options: Any) -> dict[str, Any]:
        path = tmp_path / "export.xml"
        content = wxr(*parts) if text is None else text
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return command(path, **options)

    return run


def command(path: Path, **options: Any) -> dict[str, Any]:
    out, code, reason = io.StringIO(), 0, ""
    try:
        call_command(
            "import_wxr", str(path), format="json", stdout=out, stderr=io.StringIO(), **options
        )
    except CommandError as error:
        code, reason = error.returncode, str(error)
    report = json.loads(out.getvalue()) if out.getvalue() else {}
    return {**report, "exit": code, "reason": reason}


def counted(created: int = 0, updated: int = 0, unchanged: int = 0) -> dict[str, int]:
    return {"created": created, "updated": updated, "unchanged": unchanged}


# What becomes of an item


def test_a_post_arrives_with_everything_the_file_says(run: Import) -> None:
    report = run(
        ADA,
        category("child", "Child", parent="top"),
        category("top", "Top"),
        tag("red", "Red"),
        item(
            7,
            in_term("category", "child"),
            in_term("post_tag", "red"),
            in_term("nav_menu", "main"),
            title="Fish &amp; <em>chips</em>",
            excerpt__encoded="Short & <b>sweet</b>",
            wp__post_name="fish",
        ),
    )
    post = Post.objects.select_related("author").get()
    assert (post.source_id, post.slug, post.title) == (7, "fish", "Fish & chips")
    assert (post.excerpt, post.body, post.version) == ("Short & sweet", "<p>Hello</p>", 1)
    assert (post.status, str(post.published_at)) == ("published", "2020-01-02 03:04:05+00:00")
    assert (post.author.login, post.author.name) == ("ada", "Ada & Co")
    assert [each.slug for each in post.categories.all()] == ["child"]
    assert [each.slug for each in post.tags.all()] == ["red"]
    assert Category.objects.get(slug="child").parent == Category.objects.get(slug="top")
    assert (report["exit"], report["problems"], report["made_from_posts"]) == (0, [], [])
    assert (report["categories"], report["posts"]) == (counted(2), counted(1))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_both_spellings_of_the_namespace_are_read(run: Import, scheme: str) -> None:
    assert run(text=wxr(ADA, item(1), scheme=scheme))["posts"] == counted(1)


def test_a_body_is_sanitised(run: Import) -> None:
    body = (
        '<p onclick="a()">x<script>alert(1)</script><iframe src="//e"></iframe></p>'
        '<a href="javascript:a()">y</a><!-- wp:more --><style>p{}</style>'
    )
    run(ADA, item(1, content__encoded=body))
    assert Post.objects.get().body == '<p>x</p><a rel="noopener noreferrer">y</a>'


@pytest.mark.parametrize(
    ("status", "password", "stored"),
    [
        ("publish", "", "published"),
        ("future", "", "scheduled"),
        ("draft", "", "draft"),
        ("pending", "", "draft"),
        ("private", "", "private"),
        ("publish", "enter", "private"),
        ("future", "0", "private"),
        ("draft", " ", "private"),
    ],
)
def test_status_keeps_its_meaning(run: Import, status: str, password: str, stored: str) -> None:
    run(ADA, item(1, wp__status=status, wp__post_password=password))
    post = Post.objects.get()
    assert post.status == stored
    assert (post.published_at is None) == (stored == "draft")


def test_other_types_and_discarded_posts_are_skipped_and_counted(run: Import) -> None:
    report = run(
        ADA,
        item(1, wp__post_type="page"),
        item(2, wp__post_type="attachment", wp__status="inherit"),
        item(3, wp__post_type="page"),
        item(4, wp__status="trash"),
        item(5, wp__status="auto-draft"),
    )
    assert report["skipped"] == {"attachment": 1, "page": 2, "post (auto-draft)": 1} | {
        "post (trash)": 1
    }
    assert not Post.objects.exists()
    assert report["exit"] == 0


def test_local_time_stands_in_for_a_missing_gmt_time(run: Import) -> None:
    run(ADA, item(1, wp__post_date_gmt="0000-00-00 00:00:00"))
    assert str(Post.objects.get().published_at) == "2020-01-02 04:04:05+00:00"


def test_slugs_are_found_for_posts_without_a_usable_one(run: Import) -> None:
    run(
        ADA,
        item(1, wp__post_name="", title="Über uns!"),
        item(2, wp__post_name="", title=""),
        item(3, wp__post_name="%CE%B1%CE%B2"),
        item(4, wp__post_name="same"),
        item(5, wp__post_name="same"),
        item(6, wp__post_name="x" * 300),
        item(7, wp__post_name="x" * 300),
    )
    slugs = dict(Post.objects.values_list("source_id", "slug"))
    assert slugs == {
        1: "über-uns",
        2: "post-2",
        3: "αβ",
        4: "same",
        5: "same-5",
        6: "x" * 200,
        7: "x" * 198 + "-7",
    }


def test_a_slug_that_a_hand_written_post_holds_is_left_to_it(run: Import) -> None:
    author = Author.objects.create(login="bo", name="Bo")
    ours = Post.objects.create(slug="post-1", author=author, title="Ours")
    run(ADA, item(1))
    ours.refresh_from_db()
    assert (ours.slug, ours.title) == ("post-1", "Ours")
    assert Post.objects.get(source_id=1).slug == "post-1-1"


def test_what_only_posts_mention_is_made_and_reported(run: Import) -> None:
    report = run(item(1, in_term("post_tag", "red", "Red"), in_term("category", "top")))
    assert report["made_from_posts"] == ["author ada", "tag red", "category top"]
    assert Tag.objects.get().name == "Red"
    assert report["exit"] == 0


def test_a_mention_does_not_rename_what_is_stored(run: Import) -> None:
    Tag.objects.create(slug="red", name="Crimson")
    report = run(ADA, item(1, in_term("post_tag", "red", "Red")))
    assert Tag.objects.get().name == "Crimson"
    assert report["tags"] == counted(unchanged=1)


# Comments


def test_comments_keep_their_threads_even_when_answers_come_first(run: Import) -> None:
    report = run(ADA, item(1, comment(12, 11), comment(11, 10), comment(10)))
    parents = dict(Comment.objects.values_list("source_id", "parent__source_id"))
    assert parents == {12: 11, 11: 10, 10: None}
    assert report["comments"] == counted(3)


def test_only_approved_comments_are_approved(run: Import) -> None:
    run(ADA, item(1, comment(10), comment(11, comment_approved="0")))
    assert dict(Comment.objects.values_list("source_id", "is_approved")) == {10: True, 11: False}


def test_answers_to_skipped_comments_move_up(run: Import) -> None:
    report = run(
        ADA,
        item(
            1,
            comment(10),
            comment(11, 10, comment_type="pingback"),
            comment(12, 11, comment_approved="spam"),
            comment(13, 12),
            comment(14, 99),
            comment(15, comment_content="<img src=x>"),
        ),
    )
    parents = dict(Comment.objects.values_list("source_id", "parent__source_id"))
    assert parents == {10: None, 13: 10, 14: None}
    assert report["skipped"] == {"empty": 1, "pingback": 1, "spam": 1}


def test_a_comment_is_plain_text(run: Import) -> None:
    run(ADA, item(1, comment(10, comment_content="a &lt; b <b>c</b><script>d</script>")))
    assert Comment.objects.get().body == "a < b c"


# Again


SMALL = (
    ADA,
    category("child", parent="top"),
    category("top"),
    tag("red", "Red"),
    item(1, in_term("category", "child"), in_term("post_tag", "red"), comment(10), comment(11, 10)),
    item(2, wp__post_name="same"),
    item(3, wp__post_name="same"),
)


def test_a_second_import_changes_nothing(run: Import) -> None:
    run(*SMALL)
    before = dump()
    report = run(*SMALL)
    assert dump() == before
    assert report["posts"] == counted(unchanged=3)
    assert report["comments"] == counted(unchanged=2)
    assert report["categories"] == counted(unchanged=2)


@pytest.mark.parametrize(
    "changed",
    [
        item(1, title="Another title"),
        item(1, in_term("post_tag", "red")),
        item(1, in_term("category", "top")),
        item(1, wp__status="private"),
        item(1, dc__creator="bo"),
    ],
)
def test_a_changed_item_updates_its_post_by_one_version(run: Import, changed: str) -> None:
    run(ADA, item(1), item(2))
    report = run(ADA, changed, item(2))
    assert report["posts"] == counted(updated=1, unchanged=1)
    assert dict(Post.objects.values_list("source_id", "version")) == {1: 2, 2: 1}
    assert run(ADA, changed, item(2))["posts"] == counted(unchanged=2)


def test_a_changed_comment_leaves_the_version_alone(run: Import) -> None:
    run(ADA, item(1, comment(10, comment_approved="0"), comment(11)))
    changed = item(1, comment(10, comment_approved="1"), comment(12), comment(11, 12))
    report = run(ADA, changed)
    assert report["comments"] == counted(created=1, updated=2)
    assert Comment.objects.get(source_id=10).is_approved
    assert Comment.objects.get(source_id=11).parent == Comment.objects.get(source_id=12)
    assert Post.objects.get().version == 1
    assert run(ADA, changed)["comments"] == counted(unchanged=3)


def test_swapped_slugs_settle_after_one_import(run: Import) -> None:
    run(ADA, item(1, wp__post_name="a"), item(2, wp__post_name="b"))
    swapped = (ADA, item(1, wp__post_name="b"), item(2, wp__post_name="a"))
    run(*swapped)
    before = dump()
    assert run(*swapped)["posts"] == counted(unchanged=2)
    assert dump() == before


def test_a_slug_given_up_earlier_in_the_file_is_free(run: Import) -> None:
    run(ADA, item(1, wp__post_name="a"), item(2, wp__post_name="b"))
    moved = (item(1, wp__post_name="c"), item(2, wp__post_name="a"), item(3, wp__post_name="b"))
    run(ADA, *moved)
    assert dict(Post.objects.values_list("source_id", "slug")) == {1: "c", 2: "a", 3: "b"}


def test_renames_and_moves_of_terms_are_followed(run: Import) -> None:
    run(ADA, category("a"), category("b"), tag("red", "Red"))
    report = run(ADA, category("a", "First"), category("b", parent="a"), tag("red", "Crimson"))
    assert (report["categories"], report["tags"]) == (counted(updated=2), counted(updated=1))
    assert str(Category.objects.get(slug="b").parent) == "First"


def test_a_dry_run_writes_nothing_and_counts_the_same(run: Import) -> None:
    before = dump()
    dry = run(*SMALL, dry_run=True)
    assert dump() == before
    wet = run(*SMALL)
    assert dry | {"dry_run": False} == wet
    changed = (ADA, category("child"), item(1, comment(10), comment(12, 10)), item(9))
    before = dump()
    dry = run(*changed, dry_run=True)
    assert dump() == before
    assert dry | {"dry_run": False} == run(*changed)


# Bad items


def test_a_bad_item_is_reported_with_its_place_and_the_rest_arrives(run: Import) -> None:
    report = run(ADA, item(1), item(2, title="Lost", wp__post_date_gmt="2020-13-45"), item(3))
    assert report["exit"] == 1
    assert report["problems"] == [
        'Item 2, line 10, post 2 "Lost": its wp:post_date_gmt "2020-13-45" is not a date and time.'
    ]
    assert list(Post.objects.order_by("pk").values_list("source_id", flat=True)) == [1, 3]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (item("x"), 'wp:post_id "x" is not a positive number'),
        (item("0"), 'wp:post_id "0" is not a positive number'),
        (item("9" * 19), "is not a positive number"),
        (item(""), 'wp:post_id "" is not a positive number'),
        (item(1), "an earlier post in this file is number 1 too"),
        (item(2, wp__status="archived"), 'wp:status "archived" is unknown'),
        (item(2, wp__post_type=""), "it has no wp:post_type"),
        (item(2, dc__creator=""), "it names no author"),
        (item(2, dc__creator="b" * 61), "was refused"),
        (item(2, wp__post_date="", wp__post_date_gmt=""), "neither wp:post_date_gmt nor"),
        (item(2, title="t" * 301), "title: Ensure this value has at most 300 characters"),
        (item(2, comment(10)), "comment 10 is under an earlier post in this file too"),
        (item(2, comment(20), comment(20)), "two comments with the number 20"),
        (item(2, comment(20, 21), comment(21, 20)), "answer each other in a circle"),
        (item(2, comment(20, 20)), "answer each other in a circle"),
        (item(2, comment(20, comment_date_gmt="")), "comment 20 has no date"),
        (item(2, comment(20, comment_author="m" * 201)), "comment 20: author_name: Ensure"),
        (item(2, in_term("post_tag", "t", "t" * 201)), "its term t was refused"),
    ],
)
def test_a_bad_item_is_absent_as_a_whole(run: Import, bad: str, reason: str) -> None:
    report = run(ADA, item(1, comment(10)), bad)
    assert report["exit"] == 1
    assert reason in report["problems"][-1]
    assert report["problems"][-1].startswith("Item 2, line ")
    assert [post.source_id for post in Post.objects.all()] == [1]
    assert [each.source_id for each in Comment.objects.all()] == [10]


def test_a_comment_of_another_stored_post_is_refused(run: Import) -> None:
    run(ADA, item(1, comment(10)))
    report = run(ADA, item(2, comment(10)))
    assert "comment 10 is under another post here" in report["problems"][0]
    assert not Post.objects.filter(source_id=2).exists()


def test_a_post_whose_slug_and_replacement_are_taken_is_refused(run: Import) -> None:
    author = Author.objects.create(login="bo", name="Bo")
    Post.objects.create(slug="post-1", author=author)
    Post.objects.create(slug="post-1-1", author=author)
    report = run(ADA, item(1), item(2))
    assert 'other posts have its slug "post-1"' in report["problems"][0]
    assert report["posts"] == counted(1)


@pytest.mark.parametrize(
    ("parts", "reason", "parents"),
    [
        ((category("a", parent="b"), category("b", parent="a")), "circle", {"a": None, "b": "a"}),
        ((category("a", parent="a"), category("b")), "circle", {"a": None, "b": None}),
        ((category("a", parent="zzz"), category("b", parent="a")), '"zzz" is not there', None),
        ((category("c", "n" * 201), category("a"), category("b", parent="a")), "name: Ens", None),
    ],
)
def test_a_bad_category_does_not_stop_the_rest(
    run: Import, parts: tuple[str, ...], reason: str, parents: dict[str, str | None] | None
) -> None:
    report = run(ADA, *parts, item(1))
    assert len(report["problems"]) == 1
    assert reason in report["problems"][0]
    stored = dict(Category.objects.values_list("slug", "parent__slug"))
    assert stored == (parents or {"a": None, "b": "a"})
    before = dump()
    run(ADA, *parts, item(1))
    assert dump() == before


def test_names_without_a_key_are_reported(run: Import) -> None:
    report = run("<wp:author/>", "<wp:tag/>", category(""), item(1))
    assert len(report["problems"]) == 3
    assert report["posts"] == counted(1)


def test_a_post_that_the_database_refuses_leaves_its_batch_whole(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PostBatch.run

    def write_and_fail(batch: PostBatch) -> None:
        write(batch)
        if any(record.source_id == 2 for record in batch.records):
            raise IntegrityError("a rule of the database")

    monkeypatch.setattr(PostBatch, "run", write_and_fail)
    report = run(ADA, item(1, comment(10)), item(2, comment(20)), item(3))
    assert report["posts"] == counted(2)
    assert report["comments"] == counted(1)
    assert "post 2" in report["problems"][0]
    assert "a rule of the database" in report["problems"][0]
    assert set(Post.objects.values_list("source_id", flat=True)) == {1, 3}
    assert set(Comment.objects.values_list("source_id", flat=True)) == {10}


# Bad files


def _broken() -> Iterable[tuple[str, str | bytes, str]]:
    good = wxr(ADA, item(1), item(2))
    utf = '<?xml version="1.0" encoding="UTF-8"?>'
    yield "empty", "", "line 1: this is no complete XML: the file ends too early"
    yield "text", "hello", "line 1: this is no complete XML: syntax error"
    yield "truncated", good[: good.rindex("<item>") + 40], "the file ends too early"
    yield (
        "mismatched",
        good.replace("</channel>", "</rss>"),
        "line 12: this is no complete XML: mismatched",
    )
    yield "html", "<html></html>", "line 1: this is not RSS, its root is <html>"
    yield "rss", "<rss><channel/></rss>", "it has no wp:wxr_version"
    yield "late version", good.replace("wp:wxr_version", "wp:x"), "no wp:wxr_version before items"
    yield "version", good.replace(">1.2<", ">2.0<"), 'line 7: this is WXR version "2.0"'
    yield "latin 1", good.replace("Hello", "é").encode("latin-1"), "line 9: "
    yield "no encoding", good.replace("UTF-8", "klingon", 1), "encoding cannot be read"
    yield "multi-byte", good.replace("UTF-8", "shift_jis", 1), "encoding cannot be read"
    laughs = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]>'
    yield "laughs", good.replace(utf, f"{utf}\n{laughs}").replace("Hello", "&c;"), "line 2: it decl"
    outside = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/hostname">]>'
    yield "outside", good.replace(utf, utf + outside), "line 1: it declares a document type"
    yield "dtd", good.replace(utf, utf + '<!DOCTYPE a SYSTEM "http://e/x.dtd">'), "document type"


@pytest.mark.parametrize(
    ("text", "reason"),
    [pytest.param(text, reason, id=name) for name, text, reason in _broken()],
)
def test_a_bad_file_writes_nothing_and_is_one_sentence(
    run: Import, text: str | bytes, reason: str
) -> None:
    report = run(text=text)
    assert report["exit"] == 1
    assert reason in report["reason"]
    assert "export.xml, line " in report["reason"]
    assert "\n" not in report["reason"]
    assert not any(dump().values())


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    report = command(tmp_path / "missing.xml")
    assert report["exit"] == 2
    assert "missing.xml cannot be read: No such file" in report["reason"]


def test_a_folder_or_a_pipe_is_wrong_usage(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        report = command(path)
        assert (report["exit"], report["reason"]) == (2, f"{path} is not a regular file.")


# Size, cost and stopping


def test_sigterm_stops_between_batches_and_the_same_command_goes_on(
    run: Import, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PostBatch.run

    def write_and_terminate(batch: PostBatch) -> None:
        write(batch)
        os.kill(os.getpid(), signal.SIGTERM)

    file = (ADA, *(item(number) for number in range(1, 8)))
    with monkeypatch.context() as patch:
        patch.setattr(PostBatch, "run", write_and_terminate)
        report = run(*file, batch_size=3)
    assert report["exit"] == 3
    assert Post.objects.count() == 3
    assert run(*file, batch_size=3)["posts"] == counted(created=4, unchanged=3)


def _statements(tmp_path: Path, posts: int, first: int, **fields: str) -> int:
    path = tmp_path / "export.xml"
    path.write_text(
        wxr(
            ADA,
            category("top"),
            tag("red", "Red"),
            *(
                item(
                    number,
                    in_term("category", "top"),
                    in_term("post_tag", "red"),
                    comment(number * 10),
                    comment(number * 10 + 1, number * 10),
                    **fields,
                )
                for number in range(first, first + posts)
            ),
        )
    )
    with path.open("rb") as source:
        names = NameImport(Survey.of(source, "x"))
        names.run()
        source.seek(0)
        batch = [each for each in read_export(source, "x") if isinstance(each, WxrPost)]
        with CaptureQueriesContext(connection) as queries:
            PostBatch(batch, names).run()
    return len(queries)


def test_a_batch_costs_the_same_whatever_its_size(tmp_path: Path) -> None:
    assert _statements(tmp_path, 2, first=1) == _statements(tmp_path, 40, first=100) <= 11


def test_a_changed_post_costs_at_most_nine_statements_more(tmp_path: Path) -> None:
    _statements(tmp_path, 20, first=1)
    Post.categories.through._default_manager.all().delete()
    Post.tags.through._default_manager.all().delete()
    unchanged = 5
    assert _statements(tmp_path, 20, first=1, title="New") <= unchanged + 9 * 20
    assert set(Post.objects.values_list("version", flat=True)) == {2}


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peaks = {}
    for posts in (300, 3000):  # 3 and 30 MB
        path = tmp_path / f"{posts}.xml"
        with path.open("w") as file:
            file.write(HEAD.format(version="1.2", scheme="http") + ADA)
            for number in range(posts):
                page = item(number + 1, content__encoded="word " * 2000, wp__post_type="page")
                file.write(page if number % 10 else item(number + 1, content__encoded="w " * 5000))
            file.write(TAIL)
        with path.open("rb") as source:
            survey = Survey.of(source, "x")
            gc.collect()
            tracemalloc.start()
            Survey.of(source, "x")
            BlogImport(source, "x", survey, batch_size=10).run()
            peaks[posts] = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert path.stat().st_size > posts * 10_000
    assert Post.objects.count() == 300
    # Cycles wait for the collector, whose turn is not ours to choose: a tenth of the file's growth.
    assert peaks[3000] < peaks[300] + 2_700_000


# The real file


@pytest.mark.skipif(not EXPORT.exists(), reason="WordPress's theme unit test data is not here")
def test_the_theme_unit_test_data_arrives(run: Import) -> None:
    report = command(EXPORT)
    assert (report["exit"], report["problems"]) == (0, [])
    assert report["posts"] == counted(51)
    assert (report["categories"], report["tags"]) == (counted(67), counted(112))
    assert report["comments"] == counted(23)
    assert report["skipped"] == {
        "attachment": 38,
        "nav_menu_item": 70,
        "page": 21,
        "pingback": 2,
        "trackback": 2,
    }
    by_status = [Post.objects.filter(status=each).count() for each in Post.Status]
    assert by_status == [1, 1, 48, 1]
    assert Post.objects.get(source_id=1168).status == Post.Status.PRIVATE  # has a password
    by_author = dict(Author.objects.values_list("login").annotate(n=Count("posts")))
    assert by_author == {"themedemos": 39, "themereviewteam": 11, ">themereviewteam": 1}
    assert Comment.objects.filter(is_approved=False).count() == 1
    assert Comment.objects.exclude(parent=None).count() == 9
    assert Category.objects.exclude(parent=None).count() == 10
    assert Category.objects.get(slug="grandchild-category").parent == Category.objects.get(
        slug="child-category-03"
    )
    assert not Post.objects.filter(body__contains="<script").exists()
    before = dump()
    again = command(EXPORT)
    assert again["posts"] == counted(unchanged=51)
    assert dump() == before
