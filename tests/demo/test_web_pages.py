"""The front page, the blog's pages and the errors: what they say, and what they ask databases."""

import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test import Client

from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.sharding import shards
from dbpatterns.testing.ledger import unguarded_ledger
from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.web.blog import thread
from demo.web.prose import as_excerpt, as_page
from demo.web.templatetags.web import money
from tests.demo.api_support import Bank, queries_by_database

every_database = pytest.mark.django_db(databases="__all__")
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def make_post(number: int, **fields: Any) -> Post:
    author, _ = Author.objects.get_or_create(login="ada", defaults={"name": "Ada Marsh"})
    return Post.objects.create(
        **{
            "slug": f"post-{number}",
            "title": f"Post number {number}",
            "body": "<p>Some words.</p>",
            "status": Post.Status.PUBLISHED,
            "published_at": NOON + timedelta(days=number),
            "author": author,
            **fields,
        }
    )


def comment(post: Post, number: int, **fields: Any) -> Comment:
    at = NOON + timedelta(minutes=number)
    return Comment.objects.create(
        **{"post": post, "body": f"Reply {number}", "is_approved": True, "created_at": at, **fields}
    )


def text(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, answer.content
    return answer.content.decode()


# The front page


@every_database
def test_the_front_page_shows_what_every_shard_holds(client: Client, api_bank: Bank) -> None:
    comment(make_post(1), 1)
    page = text(client, "/")
    assert all(f'<th scope="row">{alias}</th>' in page for alias in shards())
    assert "1 post and 1 comment" in page
    assert "/api/docs/" in page
    assert "/admin/" in page


@every_database
def test_the_front_page_says_when_the_books_of_a_shard_do_not_sum_to_zero(
    client: Client, api_bank: Bank
) -> None:
    assert "balances 2,000.00" not in text(client, "/")
    with unguarded_ledger(api_bank.home):  # money from nowhere, which the guards refuse
        rows = LedgerAccount.objects.using(api_bank.home)
        rows.filter(name=f"opening-{api_bank.home}").update(balance=0)
    assert "balances 2,000.00" in text(client, "/")


@every_database
def test_the_front_page_stands_with_empty_databases(client: Client) -> None:
    page = text(client, "/")
    assert "There is no bank yet" in page
    assert "0 posts and 0 comments" in page


@every_database
@pytest.mark.parametrize(
    ("database", "said"), [("shard", "no answer"), ("default", "Its database does not answer")]
)
def test_the_front_page_stands_while_a_database_does_not_answer(
    client: Client, api_bank: Bank, database: str, said: str
) -> None:
    def refuse(*arguments: object) -> None:
        raise OperationalError("the server is away")

    alias = shards()[0] if database == "shard" else database
    with connections[alias].execute_wrapper(refuse):
        assert text(client, "/").count(said) == 1


@pytest.mark.once
def test_the_front_page_stands_before_anything_is_migrated(tmp_path: Path) -> None:
    servers = ("DATABASE_URL", "DBPATTERNS_SHARD_URLS", "REDIS_URL", "DJANGO_SETTINGS_MODULE")
    clean = {name: value for name, value in os.environ.items() if name not in servers}
    script = (
        "from django.test import Client\n"
        "answer = Client(headers={'host': 'localhost'}).get('/')\n"
        "print(answer.status_code, answer.content.decode())"
    )
    done = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", script],
        env={**clean, "DEMO_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("200"), done.stderr
    assert "not migrated yet" in done.stdout


@every_database
def test_the_front_page_costs_two_queries_and_four_a_shard(client: Client, api_bank: Bank) -> None:
    for number in range(3):
        comment(make_post(number), number)
    with queries_by_database() as queries:
        text(client, "/")
    assert queries == {"default": 2, **dict.fromkeys(shards(), 4)}


# The blog


@pytest.mark.django_db
def test_the_list_shows_published_posts_newest_first(client: Client) -> None:
    make_post(1)
    make_post(2)
    make_post(3, status=Post.Status.DRAFT)
    page = text(client, "/blog/")
    assert page.index("Post number 2") < page.index("Post number 1")
    assert "Post number 3" not in page


@pytest.mark.django_db
def test_the_list_counts_approved_comments_only(client: Client) -> None:
    post = make_post(1)
    comment(post, 1)
    comment(post, 2, is_approved=False)
    assert "1 comment\n" in text(client, "/blog/").replace("</p>", "\n")


@pytest.mark.django_db
def test_the_list_comes_in_pages_and_keeps_its_filter(client: Client) -> None:
    tag = Tag.objects.create(slug="locks", name="locks")
    for number in range(11):
        make_post(number).tags.add(tag)
    assert "?tag=locks&amp;page=2" in text(client, "/blog/?tag=locks")
    assert "Post number 0" in text(client, "/blog/?tag=locks&page=2")


@pytest.mark.django_db
def test_a_category_holds_the_posts_of_those_below_it(client: Client) -> None:
    above = Category.objects.create(slug="databases", name="Databases")
    below = Category.objects.create(slug="索引", name="Indexes", parent=above)
    make_post(1).categories.add(below)
    make_post(2).categories.add(above, below)
    make_post(3)
    page = text(client, "/blog/?category=databases")
    assert page.count("Post number 1") == page.count("Post number 2") == 1
    assert "Post number 3" not in page
    assert "Post number 1" in text(client, "/blog/?category=索引")


@pytest.mark.django_db
@pytest.mark.parametrize(
    "url",
    [
        *("/blog/?page=0", "/blog/?page=2", "/blog/?page=x", "/blog/?category=x", "/blog/?tag=x"),
        *("/blog/?tag=%00", "/blog/?category=%00", "/blog/?page=%00", "/blog/%00/", "/blog/x/"),
    ],
)
def test_what_is_not_there_is_a_404_page_of_ours(client: Client, url: str) -> None:
    answer = client.get(url)
    assert answer.status_code == 404
    assert "There is nothing here" in answer.content.decode()


@pytest.mark.django_db
@pytest.mark.parametrize("status", ["draft", "scheduled", "private"])
def test_an_unpublished_post_is_not_there(client: Client, status: str) -> None:
    assert client.get(make_post(1, status=status).get_absolute_url()).status_code == 404


@pytest.mark.django_db
def test_a_post_is_found_by_a_slug_of_any_script(client: Client) -> None:
    post = make_post(1, slug="περιεχόμενο")
    assert "Post number 1" in text(client, post.get_absolute_url())


@pytest.mark.django_db
def test_a_post_is_sanitised_again_when_it_is_shown(client: Client) -> None:
    post = make_post(1, body="<p>Fine</p><script>steal()</script><img src=x onerror=steal()>")
    page = text(client, post.get_absolute_url())
    assert "Fine" in page
    assert "steal" not in page


@pytest.mark.django_db
def test_a_comment_is_text_and_never_markup(client: Client) -> None:
    post = make_post(1)
    comment(post, 1, body="<b>bold</b>", author_name="<i>Eve</i>")
    page = text(client, post.get_absolute_url())
    assert "&lt;b&gt;bold" in page
    assert "&lt;i&gt;Eve" in page


@pytest.mark.django_db
def test_an_answer_stands_below_what_it_answers(client: Client) -> None:
    post = make_post(1)
    first, second = comment(post, 1, author_name="Mia"), comment(post, 2)
    comment(post, 3, parent=first, body="An answer")
    page = text(client, post.get_absolute_url())
    assert page.index("Reply 1") < page.index("An answer") < page.index("Reply 2")
    assert f'answers <a href="#comment-{first.pk}">Mia</a>' in page
    assert f'id="comment-{second.pk}" class="depth-0"' in page


@pytest.mark.django_db
def test_comments_that_answer_each_other_in_a_circle_are_all_shown_once() -> None:
    post = make_post(1)
    first, second = comment(post, 1), comment(post, 2)
    first.parent, second.parent = second, first
    assert [(each.comment, each.depth) for each in thread([first, second])] == [
        (first, 0),
        (second, 1),
    ]


@pytest.mark.django_db
def test_a_post_links_to_its_neighbours(client: Client) -> None:
    for number in (1, 2, 3):
        make_post(number, published_at=NOON)  # the same moment: the id decides
    page = text(client, "/blog/post-2/")
    assert 'rel="prev" href="/blog/post-1/"' in page
    assert 'rel="next" class="newer" href="/blog/post-3/"' in page


def fill_a_little() -> None:
    above = Category.objects.create(slug=f"c{Category.objects.count()}", name="Above")
    below = Category.objects.create(slug=f"{above.slug}-below", name="Below", parent=above)
    tag = Tag.objects.create(slug=f"t{Tag.objects.count()}", name="Tag")
    for _ in range(4):
        post = make_post(Post.objects.count())
        post.categories.add(below)
        post.tags.add(tag)
        start = comment(Post.objects.get(slug="post-0"), 1)
        comment(start.post, 2, parent=start)


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("url", "expected"),
    [("/blog/", 5), ("/blog/?category=c0", 5), ("/blog/?tag=t0", 6), ("/blog/post-0/", 6)],
)
def test_a_page_of_the_blog_costs_the_same_however_much_there_is(
    client: Client, url: str, expected: int
) -> None:
    for _ in range(2):
        fill_a_little()
        with queries_by_database() as queries:
            text(client, url)
        assert queries == {"default": expected}


# How things are written


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("One\ntwo\n\nThree", "<p>One<br>\ntwo</p>\n<p>Three</p>\n"),
        ("Then:\n<ul><li>a\n\nb</li></ul>", "<p>Then:</p>\n<ul><li>a\n\nb</li></ul>"),
        ("<pre>a\n\nb</pre>", "<pre>a\n\nb</pre>"),
        ("<p>a</p>\n\nb", "<p>a</p>\n\nb"),
        ("[gallery ids='1']", "<p><em>(gallery: not imported)</em></p>\n"),
        ("[caption id='1']A bell[/caption]", "<figure>A bell</figure>"),
        ("<div>never closed", "<div>never closed</div>"),
        ("</div>a</p>", "<p>a</p><p></p>\n"),
    ],
)
def test_a_stored_body_becomes_paragraphs(stored: str, shown: str) -> None:
    assert as_page(stored) == shown


def test_an_image_waits_until_it_is_seen_and_tells_nobody_where() -> None:
    shown = as_page('<img src="https://example.org/a.png" alt="A">')
    assert 'loading="lazy"' in shown
    assert 'referrerpolicy="no-referrer"' in shown


def test_an_excerpt_is_text_cut_between_words() -> None:
    assert as_excerpt("<p>One</p><p>t<b>w</b>o</p> [gallery] [sic]") == "One two [sic]"
    assert as_excerpt("word " * 99, length=12) == "word word…"


@pytest.mark.parametrize(
    ("minor_units", "shown"),
    [(0, "0.00"), (5, "0.05"), (123_456_789, "1,234,567.89"), (-100_000, "\u22121,000.00")],
)
def test_money_is_grouped_and_unbroken(minor_units: int, shown: str) -> None:
    assert money(minor_units) == shown
    assert money(minor_units, "CZK") == f"{shown}\xa0CZK"


# Errors and the frame


@pytest.fixture
def breaking(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception], None]:
    def breaks(error: Exception) -> None:
        def fail(*arguments: object) -> None:
            raise error

        monkeypatch.setattr("demo.web.home.blog_figures", fail)

    return breaks


@pytest.mark.django_db
@pytest.mark.filterwarnings("ignore")
def test_a_broken_page_says_so_and_shows_no_trace(
    breaking: Callable[[Exception], None],
) -> None:
    breaking(RuntimeError("the secret detail"))
    answer = Client(raise_request_exception=False).get("/")
    assert answer.status_code == 500
    assert "Something broke" in answer.content.decode()
    assert "secret detail" not in answer.content.decode()


@every_database
@pytest.mark.parametrize("url", ["/", "/blog/", "/blog/post-1/", "/login/", "/bank/", "/nowhere/"])
def test_no_page_has_inline_code_or_loads_from_elsewhere(url: str, api_bank: Bank) -> None:
    make_post(1)
    client = Client()
    client.force_login(api_bank.users["alice"]) if url == "/bank/" else None
    page = client.get(url).content.decode()
    assert page.startswith("<!doctype html>")
    assert not [bad for bad in ("<script", "<style", " style=", " onclick=") if bad in page]
    assert 'src="http' not in page
    assert 'href="http' not in page
    assert '<a class="skip" href="#main">' in page
