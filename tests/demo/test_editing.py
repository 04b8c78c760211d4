"""Two people edit one post: on its page, in the admin and by the API none undoes the other."""

from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth.models import Permission
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from demo.blog.forms import PostForm
from demo.blog.models import Author, Category, Post
from demo.users.models import User
from tests.demo.api_support import PASSWORD, queries_by_database

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("api_no_throttles")]
DAY = datetime(2026, 3, 1, tzinfo=UTC)
PAGE = "/blog/locks/edit/"
EDITED = "/api/editing/posts/locks/"


@pytest.fixture
def post() -> Post:
    author = Author.objects.create(login="ada", name="Ada")
    post = Post.objects.create(
        slug="locks",
        title="Old",
        body="<p>Old</p>",
        author=author,
        status="published",
        published_at=DAY,
    )
    post.categories.set([Category.objects.create(slug="db", name="Databases")])
    return post


@pytest.fixture
def api(admin_user: User) -> APIClient:
    client = APIClient()
    client.force_authenticate(admin_user)
    return client


def opened(post: Post, **changed: Any) -> dict[str, Any]:
    """Return what a browser sends that has opened the page and changed something."""
    form = PostForm(instance=Post.objects.get(pk=post.pk))
    sent: dict[str, Any] = {
        each.html_name: "" if each.value() is None else each.value() for each in form
    }
    sent["published_at"] = "2026-03-01 00:00:00"
    return sent | changed


def test_a_post_is_edited_and_its_body_sanitised(admin_client: Client, post: Post) -> None:
    sent = opened(post, title="New", body="<p>New</p><script>steal()</script>")
    answer = admin_client.post(PAGE, sent, follow=True)
    assert answer.redirect_chain == [("/blog/locks/", 302)]
    assert Post.objects.values_list("title", "body", "version").get() == ("New", "<p>New</p>", 2)


def test_the_page_is_for_those_who_may_change_posts(client: Client, post: Post) -> None:
    assert client.get(PAGE).status_code == 302
    user = User.objects.create_user("reader", password=PASSWORD)
    client.force_login(user)
    assert client.get(PAGE).status_code == 403
    assert "Edit" not in client.get("/blog/locks/").content.decode()
    user.user_permissions.add(Permission.objects.get(codename="change_post"))
    assert client.get(PAGE).status_code == 200
    assert f'<a href="{PAGE}">Edit</a>' in client.get("/blog/locks/").content.decode()
    assert client.get("/blog/nothing/edit/").status_code == 404
    assert client.get("/blog/%00/edit/").status_code == 404


def test_showing_the_page_costs_the_same_however_many_categories(
    admin_client: Client, post: Post
) -> None:
    counted = []
    for number in range(2):
        post.categories.add(Category.objects.create(slug=f"c{number}", name="More"))
        with queries_by_database() as queries:
            admin_client.get(PAGE)
        counted.append(queries["default"] - 2)  # the session and its user
    assert counted == [5, 5]


def test_a_value_that_cannot_be_is_refused_in_words(admin_client: Client, post: Post) -> None:
    answer = admin_client.post(PAGE, opened(post, published_at=""))
    assert "What is published or scheduled needs a date." in answer.content.decode()
    assert Post.objects.get().version == 1


def test_the_second_editor_sees_both_values_and_goes_on(admin_client: Client, post: Post) -> None:
    sent = opened(post, title="Mine")
    admin_client.post(PAGE, opened(post, title="Theirs", status="draft"))
    conflict: Any = admin_client.post(PAGE, sent)
    assert conflict.status_code == 409
    page = conflict.content.decode()
    assert 'value="Mine"' in page
    assert "<p>Theirs</p>" in page
    assert "<p>Draft</p>" in page
    changed = {
        field.name for field, difference in conflict.context["rows"] if difference.is_changed
    }
    assert changed == {"title", "status"}
    assert Post.objects.get().title == "Theirs"
    again = {**sent, "signed_version": conflict.context["form"]["signed_version"].value()}
    assert admin_client.post(PAGE, again).status_code == 302
    assert Post.objects.values_list("title", "status", "version").get() == ("Mine", "published", 3)


def test_a_conflict_page_overwrites_only_what_it_has_shown(
    admin_client: Client, post: Post
) -> None:
    sent = opened(post, title="Mine")
    admin_client.post(PAGE, opened(post, title="Theirs"))
    conflict: Any = admin_client.post(PAGE, sent)
    admin_client.post(PAGE, opened(post, title="A third one's"))
    again = {**sent, "signed_version": conflict.context["form"]["signed_version"].value()}
    assert admin_client.post(PAGE, again).status_code == 409
    assert Post.objects.get().title == "A third one's"


def test_a_post_deleted_meanwhile_is_a_404(admin_client: Client, post: Post) -> None:
    sent = opened(post, title="Mine")
    post.delete()
    assert admin_client.post(PAGE, sent).status_code == 404
    assert not Post.objects.exists()


def test_the_admin_shows_both_values_of_a_post(admin_client: Client, post: Post) -> None:
    url = reverse("admin:blog_post_change", args=[post.pk])
    form: Any = admin_client.get(url)
    form = form.context["adminform"].form
    sent = {
        **{each.html_name: "" if each.value() is None else each.value() for each in form},
        "title": "Mine",
        "published_at_0": "2026-03-01",
        "published_at_1": "00:00:00",
        "categories": [each.pk for each in post.categories.all()],
    }
    del sent["published_at"]
    Post.objects.update(author=Author.objects.create(login="ben", name="Ben"), status="draft")
    post.categories.add(Category.objects.create(slug="locks", name="Locks"))
    conflict: Any = admin_client.post(url, sent)
    assert conflict.status_code == 409
    assert {row.name: (row.mine, row.theirs) for row in conflict.context["rows"]} == {
        "title": ("Mine", "Old"),
        "status": ("Published", "Draft"),
        "author": ("Ada", "Ben"),
        "categories": ("Databases", "Databases, Locks"),
    }
    assert admin_client.post(url, dict(conflict.context["sent"])).status_code == 302
    assert Post.objects.values_list("title", "version").get() == ("Mine", 3)


def test_a_write_by_the_api_names_the_version_it_is_made_from(api: APIClient, post: Post) -> None:
    read = api.get(EDITED)
    assert read["ETag"] == f'"{post.pk}-1"'
    assert api.patch(EDITED, {"title": "New"}, "json").status_code == 428
    mine = {"title": "Mine", "body": "<p>x</p><script>steal()</script>"}
    stale = {"If-Match": read["ETag"]}
    written = api.patch(EDITED, {"title": "Theirs"}, "json", headers=stale)
    assert (written.status_code, written["ETag"]) == (200, f'"{post.pk}-2"')
    for method in ("patch", "put", "delete"):
        refused = getattr(api, method)(EDITED, mine, "json", headers=stale)
        assert refused.status_code == 412
        assert refused.json()["detail"] == "It has changed since you read it: read it again."
    assert Post.objects.get().title == "Theirs"
    fresh = {"If-Match": written["ETag"]}
    put = api.put(EDITED, {**mine, "status": "draft"}, "json", headers=fresh)
    assert put.json()["body"] == "<p>x</p>"
    assert api.delete(EDITED, headers={"If-Match": put["ETag"]}).status_code == 204


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"version": 7}, "#/version"),
        ({"slug": "other"}, "#/slug"),
        ({"published_at": None}, "#"),
        ({"status": "secret"}, "#/status"),
    ],
)
def test_the_api_refuses_what_a_post_cannot_be(
    api: APIClient, post: Post, sent: dict[str, Any], said: str
) -> None:
    answer = api.patch(EDITED, sent, "json", headers={"If-Match": "*"})
    assert answer.status_code == 400
    assert [each["pointer"] for each in answer.json()["errors"]] == [said]
    assert Post.objects.get().version == 1


@pytest.mark.parametrize(("codename", "status"), [("view_post", 200), ("add_post", 403)])
def test_drafts_are_for_those_who_may_see_posts(post: Post, codename: str, status: int) -> None:
    user = User.objects.create_user("someone", password=PASSWORD)
    user.user_permissions.add(Permission.objects.get(codename=codename))
    client = APIClient()
    assert client.get(EDITED).status_code == 401
    client.force_authenticate(user)
    assert client.get(EDITED).status_code == status
    assert client.patch(EDITED, {}, "json", headers={"If-Match": "*"}).status_code == 403
