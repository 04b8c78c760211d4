"""The blog in the admin: every page opens, and a longer list costs no more queries."""

import pytest
from django.contrib import admin
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path

from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.blog.sample import load_sample_blog

pytestmark = [pytest.mark.django_db, pytest.mark.urls(__name__)]
urlpatterns = [path("admin/", admin.site.urls)]
NAMES = ["author", "category", "tag", "post", "comment"]


def queries(client: Client, url: str) -> int:
    with CaptureQueriesContext(connection) as captured:
        assert client.get(url).status_code == 200
    return len(captured)


@pytest.mark.parametrize("name", NAMES)
def test_a_list_costs_the_same_whatever_its_length(admin_client: Client, name: str) -> None:
    load_sample_blog()
    url = f"/admin/blog/{name}/"
    model = {"author": Author, "category": Category, "tag": Tag, "post": Post, "comment": Comment}
    many = queries(admin_client, url)
    keep = model[name]._default_manager.order_by("pk").values_list("pk", flat=True)[:2]
    if name == "author":
        Post.objects.all().delete()
    model[name]._default_manager.exclude(pk__in=list(keep)).delete()
    assert queries(admin_client, url) == many


@pytest.mark.parametrize("name", NAMES)
def test_searching_adding_and_changing_open(admin_client: Client, name: str) -> None:
    load_sample_blog()
    model = {"author": Author, "category": Category, "tag": Tag, "post": Post, "comment": Comment}
    row = model[name]._default_manager.order_by("pk")[0]
    for url in ("?q=a", "add/", f"{row.pk}/change/"):
        assert admin_client.get(f"/admin/blog/{name}/{url}").status_code == 200


@pytest.mark.parametrize("action", ["approve", "hide"])
def test_an_action_marks_comments_by_two_writes_and_says_so(
    admin_client: Client, action: str
) -> None:
    load_sample_blog()
    counted = []
    for many in (1, 2, 9):
        Comment.objects.update(is_approved=action == "hide")
        chosen = list(Comment.objects.order_by("pk").values_list("pk", flat=True)[:many])
        with CaptureQueriesContext(connection) as captured:
            answer = admin_client.post(
                "/admin/blog/comment/", {"action": action, "_selected_action": chosen}
            )
        assert answer.status_code == 302
        counted.append(len(captured))
        marked = Comment.objects.filter(is_approved=action == "approve")
        assert sorted(marked.values_list("pk", flat=True)) == chosen
        done = "approved" if action == "approve" else "hidden"
        assert LogEntry.objects.filter(change_message=f"Marked as {done}.").count() == many
        LogEntry.objects.all().delete()
        page = admin_client.get("/admin/blog/comment/").content.decode()
        assert f"Comments {done}: {many}." in page
    assert len(set(counted[1:])) == 1


def test_comments_marked_before_are_left_alone(admin_client: Client) -> None:
    load_sample_blog()
    chosen = list(Comment.objects.filter(is_approved=True).values_list("pk", flat=True)[:3])
    form = {"action": "approve", "_selected_action": chosen}
    assert admin_client.post("/admin/blog/comment/", form).status_code == 302
    assert not LogEntry.objects.exists()
