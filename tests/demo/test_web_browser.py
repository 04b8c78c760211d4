"""The pages in a real headless Chromium, against a demo that runs as its own process.

No ORM here: Playwright keeps an event loop running, in which Django refuses to query.
"""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.demo.browser import DESKTOP, PASSWORD, PHONE, SMALL_PHONE, Open, assert_fits

pytestmark = pytest.mark.browser

SEED = f"""
from itertools import count
from django.utils import timezone
from dbpatterns.sharding import shard_for, shards
from demo.banking.models import Account, Customer
from demo.blog.models import Author, Comment, Post
from demo.blog.sample import load_sample_blog
from demo.users.models import User

def settle(alias, *accounts):
    taken = set(Customer.objects.using(alias).values_list("pk", flat=True))
    number = next(n for n in count(1) if shard_for(n) == alias and n not in taken)
    customer = Customer.objects.using(alias).create(id=number, name=f"Owner of {{accounts[0]}}")
    for account in accounts:
        Account.objects.using(alias).create(number=account, customer=customer, balance=100_000)
    return number

near, far = shards()[0], shards()[-1]
for name in ("payer", "clicker", "refused"):
    User.objects.create_user(name, password="{PASSWORD}", customer_id=settle(near, f"{{name}}-1"))
settle(near, "near-1")
settle(far, "far-1")
User.objects.create_user("staff", password="{PASSWORD}", is_staff=True)
load_sample_blog()
post = Post.objects.create(
    slug="wide", title="Wide" * 70, status="published", published_at=timezone.now(),
    author=Author.objects.first(),
    body="<p>" + "x" * 400 + "</p><pre>" + "y" * 400 + "</pre><table><tr>"
    + "<td>unbreakable_cell</td>" * 30 + "</tr></table><ul><li><ol><li><ul><li>z</ul></ol></ul>"
    + "<p>https://example.org/" + "path/" * 60 + "</p>",
)
above = None
for depth in range(12):
    above = Comment.objects.create(
        post=post, parent=above, is_approved=True, created_at=timezone.now(),
        body="deep " + "w" * 200, author_name="N" * 150,
    )
"""


def fill_transfer(page: Page, *, payee: str, amount: str) -> None:
    page.get_by_label("To account number").fill(payee)
    page.get_by_label("Amount").fill(amount)


def balance(page: Page) -> str:
    page.goto("/bank/")
    return page.locator(".accounts .balance").inner_text().replace("\xa0", " ")


@pytest.mark.parametrize("size", [PHONE, SMALL_PHONE, DESKTOP])
def test_a_reader_goes_from_the_front_page_to_a_post_and_back(
    open_page: Open, size: tuple[int, int]
) -> None:
    page = open_page("/", size)
    assert_fits(page)
    page.get_by_role("link", name="Read the blog").click()
    page.wait_for_url("**/blog/")
    assert_fits(page)
    page.get_by_role("link", name="Older").click()
    page.wait_for_url("**/blog/?page=2")
    assert_fits(page)
    link = page.locator(".teaser h2 a").first
    title = link.inner_text()
    link.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    assert_fits(page)
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Blog").click()
    expect(page.locator("nav [aria-current=page]")).to_have_text(["Blog", "1"])


@pytest.mark.parametrize("size", [PHONE, SMALL_PHONE, DESKTOP])
def test_wide_content_does_not_widen_the_page(open_page: Open, size: tuple[int, int]) -> None:
    page = open_page("/blog/wide/", size)
    expect(page.locator(".comments li")).to_have_count(12)
    assert_fits(page)
    page.goto("/blog/")
    assert_fits(page)


@pytest.mark.parametrize("size", [PHONE, SMALL_PHONE, DESKTOP])
@pytest.mark.parametrize("name", ["refused", "staff"])
def test_the_bank_fits_every_screen(open_page: Open, size: tuple[int, int], name: str) -> None:
    assert_fits(open_page("/bank/", size, as_=name))


@pytest.mark.parametrize("size", [PHONE, SMALL_PHONE, DESKTOP])
def test_an_n_plus_one_stands_beside_its_cures(open_page: Open, size: tuple[int, int]) -> None:
    page = open_page("/", size)
    page.get_by_role("main").get_by_role("link", name="N+1, side by side").click()
    page.wait_for_url("**/n-plus-one/")
    expect(page.locator(".cost strong")).to_have_text(["26", "2", "2"])  # 25 posts
    assert page.locator(".marks").first.locator("i").count() == 26
    assert_fits(page)
    page.get_by_text("What it rendered").first.click()
    expect(page.locator("details[open] li")).to_have_count(25)
    assert_fits(page)
    said = page.get_by_role("region", name="Message of the guard")
    expect(said).to_contain_text("N+1: 25 queries for Post.categories")
    room = said.evaluate("each => [each.offsetLeft, each.offsetLeft + each.offsetWidth]")
    assert 0 <= room[0] < room[1] <= size[0]
    expect(page.locator("nav [aria-current=page]")).to_have_text(["N+1"])


def test_a_customer_sends_money_and_sees_the_new_balance(open_page: Open) -> None:
    page = open_page("/bank/", PHONE, as_="payer")
    assert balance(page) == "1,000.00 CZK"
    fill_transfer(page, payee="near-1", amount="12.50")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("status")).to_have_text("Sent 12.50\xa0CZK to account near-1.")
    assert page.locator(".ledger .what").first.inner_text() == "To near-1"
    assert balance(page) == "987.50 CZK"
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url(re.compile(r"//[^/]+/$"))
    page.goto("/bank/")
    assert "/login/" in page.url


@pytest.mark.parametrize(
    ("payee", "amount", "reason"),
    [
        ("near-1", "1000.01", "Account refused-1 has 1000.00 CZK, not 1000.01."),
        ("far-1", "1", "no transaction spans them yet: no money moved"),
        ("nobody", "1", "There is no account nobody."),
    ],
)
def test_a_refused_transfer_shows_the_reason_and_moves_nothing(
    open_page: Open, payee: str, amount: str, reason: str
) -> None:
    page = open_page("/bank/", as_="refused")
    fill_transfer(page, payee=payee, amount=amount)
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("alert")).to_contain_text("Nothing was sent.")
    expect(page.locator(".errorlist")).to_contain_text(reason)
    assert page.get_by_label("Amount").input_value() == amount
    assert balance(page) == "1,000.00 CZK"


def test_money_moves_once_on_a_double_click_and_when_a_form_arrives_twice_at_once(
    open_page: Open,
) -> None:
    page = open_page("/bank/", as_="clicker")
    fill_transfer(page, payee="near-1", amount="100")
    page.get_by_role("button", name="Send").dblclick()
    expect(page.get_by_role("status").first).to_contain_text("Sent 100.00\xa0CZK")
    page.wait_for_load_state("networkidle")
    assert balance(page) == "900.00 CZK"
    fill_transfer(page, payee="near-1", amount="100")
    statuses = page.evaluate(
        """() => {
          const body = new FormData(document.querySelector("form.panel"));
          const send = () => fetch("/bank/", {method: "POST", body}).then(each => each.status);
          return Promise.all([send(), send(), send()]);
        }"""
    )
    assert statuses == [200, 200, 200]
    assert balance(page) == "800.00 CZK"


def test_dark_and_light_follow_the_system(open_page: Open) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page("/", scheme=each).evaluate(background) for each in ("light", "dark"))
    assert light == "rgb(250, 249, 246)"
    assert dark == "rgb(20, 24, 26)"


def test_the_keyboard_reaches_the_content_first(open_page: Open) -> None:
    page = open_page("/blog/")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
