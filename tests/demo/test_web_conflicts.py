"""Two people save one post, each in a browser of their own: on its page, and in the admin.

No ORM here, as in `test_web_browser`: what is stored is read from the form.
"""

import pytest
from playwright.sync_api import Page, expect

from tests.demo.browser import DESKTOP, PASSWORD, PHONE, Open, assert_fits

pytestmark = pytest.mark.browser

SEED = f"""
from django.utils import timezone
from demo.blog.models import Author, Post
from demo.users.models import User

for name in ("ann", "ben"):
    User.objects.create_superuser(name, password="{PASSWORD}")
author = Author.objects.create(login="ada", name="Ada")
for where in ("page", "admin"):
    for what in ("mine", "theirs", "delete", "list"):
        for width in ({PHONE[0]}, {DESKTOP[0]}):
            Post.objects.create(
                slug=f"{{where}}-{{what}}-{{width}}", title="Old title", excerpt="Old excerpt",
                body="<p>Old body.</p>", status="published", published_at=timezone.now(),
                author=author,
            )
"""
BENS = {"title": "Ben's title", "excerpt": "Both's excerpt", "body": "<p>Ben's\n<b>body</b>.</p>"}
ANNS = {**BENS, "title": "Ann's title", "body": "<p>Ann's\n<i>body</i>.</p>"}

sizes = pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
choices = pytest.mark.parametrize("choice", ["mine", "theirs"])


def save(page: Page, values: dict[str, str]) -> None:
    for name, value in values.items():
        page.locator(f"[name={name}]").fill(value)
    page.get_by_role("button", name="Save", exact=True).click()


def assert_stored(page: Page, slug: str, values: dict[str, str]) -> None:
    page.goto(f"/blog/{slug}/edit/")
    for name, value in values.items():
        expect(page.locator(f"[name={name}]")).to_have_value(value)


def open_in_admin(open_page: Open, slug: str, size: tuple[int, int], person: str) -> Page:
    page = open_page(f"/admin/blog/post/?q={slug}", size, as_=person)
    page.locator("#result_list tbody th a").click()
    page.wait_for_url("**/change/**")
    return page


def assert_told(page: Page, message: str) -> None:
    expect(page.locator(".messagelist")).to_contain_text(message)
    page.wait_for_load_state()  # its scripts too: what comes next may click what they work


@sizes
@choices
def test_the_second_to_save_a_post_sees_both_and_decides(
    open_page: Open, size: tuple[int, int], choice: str
) -> None:
    slug = f"page-{choice}-{size[0]}"
    ann, ben = (open_page(f"/blog/{slug}/edit/", size, as_=each) for each in ("ann", "ben"))
    save(ben, BENS)
    expect(ben.get_by_role("status")).to_have_text("Saved.")
    save(ann, ANNS)
    expect(ann.get_by_role("heading", level=1)).to_have_text("Somebody else was faster")
    assert_fits(ann)
    assert_stored(ben, slug, BENS)
    expect(ann.locator(".differs [name]")).to_have_count(2)
    for name in ("title", "body"):
        both = ann.locator(".differs").filter(has=ann.locator(f"[name={name}]"))
        expect(both.locator("[name]")).to_have_value(ANNS[name])
        expect(both.locator(".theirs p")).to_have_text(BENS[name], use_inner_text=True)
    if choice == "mine":
        ann.get_by_role("button", name="Save mine over it").click()
    else:
        ann.get_by_role("link", name="Keep what is stored").click()
    kept = ANNS if choice == "mine" else BENS
    expect(ann.get_by_role("heading", level=1)).to_have_text(kept["title"])
    assert_stored(ben, slug, kept)


@sizes
@choices
def test_the_second_to_save_a_post_in_the_admin_sees_both_and_decides(
    open_page: Open, size: tuple[int, int], choice: str
) -> None:
    slug = f"admin-{choice}-{size[0]}"
    ann, ben = (open_in_admin(open_page, slug, size, each) for each in ("ann", "ben"))
    save(ben, BENS)
    assert_told(ben, "was changed successfully")
    save(ann, ANNS)
    expect(ann.locator("#content h1")).to_have_text(
        "Someone else has changed this since you opened it"
    )
    assert_fits(ann)
    assert_stored(ben, slug, BENS)
    cells = ann.locator(".conflict tbody td > div")
    expect(cells).to_have_text(
        [ANNS["title"], BENS["title"], ANNS["body"], BENS["body"]], use_inner_text=True
    )
    if choice == "mine":
        ann.get_by_role("button", name="Keep mine").click()
        assert_told(ann, "was changed successfully")
        assert_stored(ben, slug, ANNS)
    else:
        ann.get_by_role("link", name="Take theirs").click()
        expect(ann.locator("[name=title]")).to_have_value(BENS["title"])
        save(ann, {"title": "Ann's next title"})  # on top of theirs
        assert_told(ann, "was changed successfully")
        assert_stored(ben, slug, {**BENS, "title": "Ann's next title"})


def test_a_delete_in_the_admin_leaves_what_has_changed_and_asks_again(open_page: Open) -> None:
    slug = f"admin-delete-{PHONE[0]}"
    ann, ben = (open_in_admin(open_page, slug, PHONE, each) for each in ("ann", "ben"))
    ann.locator(".deletelink").click()  # a link, or since 6.1 a button
    sure = ann.get_by_role("button", name="Yes, I")
    sure.wait_for()
    save(ben, BENS)
    assert_told(ben, "was changed successfully")
    sure.click()
    assert_told(ann, "Someone else was faster")
    expect(ann.locator("#content")).to_contain_text(BENS["title"])
    assert_fits(ann)
    assert_stored(ben, slug, BENS)
    sure.click()
    assert_told(ann, "was deleted successfully")
    assert ann.request.get(f"/blog/{slug}/").status == 404


def test_deleting_several_in_the_admin_leaves_all_if_one_has_changed(open_page: Open) -> None:
    slugs = [f"admin-list-{size[0]}" for size in (PHONE, DESKTOP)]
    ann = open_page("/admin/blog/post/?q=admin-list", PHONE, as_="ann")
    ben = open_in_admin(open_page, slugs[0], PHONE, "ben")

    def ask() -> None:
        ann.locator("#action-toggle").check()
        ann.get_by_label("Action:").select_option("delete_selected")
        ann.locator(".actions [name=index]").click()
        ann.get_by_role("button", name="Yes, I").wait_for()

    ask()
    save(ben, BENS)
    assert_told(ben, "was changed successfully")
    ann.get_by_role("button", name="Yes, I").click()
    assert_told(ann, "Someone else was faster")
    expect(ann.locator("#result_list tbody th")).to_have_text(["Old title", BENS["title"]])
    assert_fits(ann)
    ask()
    ann.get_by_role("button", name="Yes, I").click()
    assert_told(ann, "Successfully deleted 2 posts")
    assert [ann.request.get(f"/blog/{each}/").status for each in slugs] == [404, 404]
