"""Every address of the demo, visited with several rows in every table: none has an N+1.

The demo's own middleware watches, and raises as `guarded` in conftest.py tells it. A new address
fails here until it has a visit.
"""

import datetime
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest
from django.apps import apps
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.auth.models import Group
from django.contrib.contenttypes.models import ContentType
from django.db.models import Model
from django.forms import BaseForm, MultiWidget
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import URLResolver, get_resolver, path, resolve, reverse
from django.utils.timezone import now
from rest_framework.authtoken.models import Token, TokenProxy

from dbpatterns.eventstore.models import ProjectionState, StoredEvent
from dbpatterns.eventstore.projections import catch_up
from dbpatterns.eventstore.reading import recorded
from dbpatterns.eventstore.rebuilding import prepare
from dbpatterns.idempotency.models import IdempotencyKey
from dbpatterns.ledger.models import Account as LedgerAccount
from dbpatterns.ledger.models import Entry as LedgerEntry
from dbpatterns.ledger.models import Transfer as LedgerTransfer
from dbpatterns.queries import NPlusOneError
from dbpatterns.queries.capture import current_scope
from dbpatterns.sharding import shards
from dbpatterns.sharding.models import (
    MapChange,
    PlacedKey,
    ShardGroup,
    ShardMigration,
    SlotRange,
)
from demo.banking import standing_orders
from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.projections import Statements
from demo.banking.transfers import find_account
from demo.banking.transfers import transfer as pay
from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.blog.sample import load_sample_blog
from demo.settings import INSTALLED_APPS
from demo.urls import urlpatterns as of_demo
from demo.users.models import User
from tests.demo.api_support import PASSWORD
from tests.demo.bank_support import import_sample

pytestmark = [
    pytest.mark.django_db(databases="__all__"),
    pytest.mark.usefixtures("api_no_throttles"),
]
ROWS = 3
"""Fewest rows of each table: an N+1 over one row shows nothing."""
IN_ADMIN: Sequence[type[Model]] = (Group, TokenProxy, User, Author, Category, Tag, Post, Comment)

TO_LOOK_AT: Sequence[type[Model]] = (
    *(LedgerAccount, LedgerTransfer, LedgerEntry, IdempotencyKey, StoredEvent, ProjectionState),
)
"""On the shards, and nobody's to change there."""
OF_THE_MAP: Sequence[type[Model]] = (ShardGroup, SlotRange, PlacedKey, MapChange, ShardMigration)
"""The same, in the control database."""


def harm(request: HttpRequest) -> HttpResponse:
    """Show what the guard must refuse."""
    return HttpResponse(", ".join(post.author.name for post in Post.objects.all()))


def writing_harm(request: HttpRequest) -> HttpResponse:
    """Write what the guard must refuse."""
    for post in Post.objects.all():
        Post.objects.filter(pk=post.pk).update(title=f"{post.title}!")
    return HttpResponse()


urlpatterns = [path("harm/", harm), path("writing-harm/", writing_harm), *of_demo]


class Visit(NamedTuple):
    """One request; names in braces are keys of `Site`."""

    url: str
    as_: str = "staff"
    body: Mapping[str, Any] | None = None
    """What is posted, to the API as JSON; None for GET."""
    method: str = "post"
    status: int = 0
    """What is answered; any but an error if not given."""


PAYMENT = {"payer": "{account}", "payee": "more-1", "amount": "1.00", "memo": "thanks"}
ORDER = {"account": "{account}", "bank_code": "AB", "payee_account": "7-42", "amount": "9.90"}
PAGES = [
    Visit("/", ""),
    Visit("/blog/", ""),
    Visit("/blog/?page=2", ""),
    Visit("/blog/?category=databases&tag=locks", ""),
    Visit("/blog/{post}/", ""),
    Visit("/blog/{post}/edit/", status=200),
    Visit("/blog/{post}/edit/", "customer", status=403),
    Visit("/blog/{post}/edit/", "staff", {"title": "Hi", "status": "draft"}, status=200),
    Visit("/n-plus-one/", ""),
    Visit("/login/", ""),
    Visit("/login/", "", {"username": "customer", "password": PASSWORD}),
    Visit("/logout/", "customer", {}),
    Visit("/bank/", "customer"),
    Visit("/bank/", "customer", {**PAYMENT, "once": str(uuid.UUID(int=1))}),
    Visit("/bank/", "customer", {**PAYMENT, "once": str(uuid.UUID(int=2)), "payee": "nobody"}),
    Visit("/bank/", "nobody", status=403),
    Visit("/bank/"),
    Visit("/bank/?q={account}"),
    Visit("/bank/?q={customer}"),
    Visit("/bank/districts/"),
]
API = [
    Visit("/api/", ""),
    Visit("/api/nowhere/", "", status=404),
    Visit("/api/schema/", ""),
    Visit("/api/docs/", ""),
    Visit("/api/token/", "", {"username": "customer", "password": PASSWORD}),
    Visit("/api/posts/", ""),
    Visit("/api/posts/?author={login}&category=databases&search=e", ""),
    Visit("/api/posts/search/?title__icontains=e&author__name__icontains=a", ""),
    Visit("/api/posts/{post}/", ""),
    Visit("/api/editing/posts/{post}/"),
    Visit("/api/editing/posts/{post}/", "customer", status=403),
    Visit("/api/editing/posts/{post}/", "staff", {"title": "Hi"}, "patch", status=428),
    Visit("/api/authors/", ""),
    Visit("/api/authors/{login}/", ""),
    Visit("/api/comments/", ""),
    Visit("/api/comments/{comment}/", ""),
    *(
        Visit(f"/api/{address}/", as_)
        for as_ in ("customer", "staff")
        for address in (
            *("accounts", "accounts/{account}", "transfers", "transfers/{transfer}"),
            *("standing-orders", "standing-orders/{order}"),
        )
    ),
    Visit("/api/transfers/", "customer", PAYMENT),
    Visit("/api/standing-orders/", "customer", ORDER),
    Visit("/api/standing-orders/{order}/", "customer", {"amount": "1.00"}, "patch"),
]
ADMIN = [
    *(Visit(f"/admin/{address}") for address in ("", "jsi18n/", "blog/", "password_change/")),
    Visit("/admin/password_change/done/"),
    Visit("/admin/login/", ""),
    Visit("/admin/nowhere/", status=404),
    Visit("/admin/autocomplete/?app_label=blog&model_name=post&field_name=author&term=a"),
    Visit("/admin/r/{post_type}/{blog.post}/"),
    Visit("/admin/users/user/{users.user}/password/"),
    *(
        Visit(f"/admin/{model._meta.app_label}/{model._meta.model_name}/{address}")
        for model in IN_ADMIN
        for address in (
            *("", "?q=a", "add/", "{key}/", "{key}/change/", "{key}/history/", "{key}/delete/"),
        )
        for address in [address.replace("{key}", f"{{{model._meta.label_lower}}}")]
    ),
    *(
        Visit(f"/admin/{model._meta.app_label}/{model._meta.model_name}/{address}", status=status)
        for model in TO_LOOK_AT
        for address, status in (
            *(("", 200), ("?database={away}", 200), ("?q=1&database={home}", 200)),
            *(("{key}/", 302), ("{key}/change/{from}", 200), ("{key}/history/{from}", 200)),
            *(("add/", 403), ("{key}/delete/{from}", 403)),
        )
        for address in [
            address.replace("{key}", f"{{{model._meta.label_lower}}}").replace(
                "{from}", "?_changelist_filters=database%3D{home}"
            )
        ]
    ),
    *(
        Visit(f"/admin/{model._meta.app_label}/{model._meta.model_name}/{address}", status=status)
        for model in OF_THE_MAP
        for address, status in (
            *(("", 200), ("{key}/", 302), ("{key}/change/", 200), ("{key}/history/", 200)),
            *(("add/", 403), ("{key}/delete/", 403)),
        )
        for address in [address.replace("{key}", f"{{{model._meta.label_lower}}}")]
    ),
    *(
        Visit(f"/admin/dbpatterns_{pattern}/")
        for pattern in ("eventstore", "idempotency", "ledger", "sharding")
    ),
    Visit("/admin/logout/", "staff", {}),
]


class Witness:
    """A middleware that notes which addresses reached their view with a guard open."""

    seen: set[tuple[str, str | None]]

    def __init__(self, get_response: Any) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer."""
        answer: HttpResponse = self._get_response(request)
        return answer

    def process_view(self, request: HttpRequest, *_: object) -> None:
        """Take note."""
        match = request.resolver_match
        if match is not None and current_scope() is not None:
            self.seen.add((match.route, match.url_name))


class Site:
    """The demo with rows in every table, and people who visit it."""

    def __init__(self) -> None:
        load_sample_blog()
        import_sample(60)
        day = datetime.date(2026, 3, 1)
        for alias in shards():
            for order in StandingOrder.objects.using(alias).values_list("pk", flat=True):
                standing_orders.execute(order, day, using=alias)
        home = shards()[0]
        transfer = Transfer.objects.using(home).filter(kind=Transfer.Kind.STANDING_ORDER)[0]
        account = transfer.payer
        for number in range(ROWS):
            Account.objects.using(home).create(
                number=f"more-{number}", customer=account.customer, balance=100_000
            )
            StandingOrder.objects.using(home).create(
                customer_id=account.customer_id,
                account=account,
                bank_code="AB",
                payee_account=f"9-{number}",
                amount=1_000,
            )
        Account.objects.using(home).filter(pk=account.pk).update(balance=100_000)
        payer, payee = (find_account(f"more-{number}") for number in range(2))
        for number in range(ROWS):
            pay(payer, payee, amount=1, idempotency_key=f"made {number}")
        for alias in shards():
            prepare(Statements.name, using=alias)
            if not catch_up(Statements(), using=alias):  # PostgreSQL, where it sees no event of
                events = StoredEvent.objects.using(alias).order_by("position")  # this transaction
                page = list(map(recorded, events))
                Statements().apply_page(page, generation=1, using=alias)
        self.users = {
            "staff": User.objects.create_superuser("staff", password=PASSWORD),
            "customer": User.objects.create_user(
                "customer", password=PASSWORD, customer_id=account.customer_id
            ),
            "nobody": User.objects.create_user("nobody", password=PASSWORD),
        }
        for user in self.users.values():
            Token.objects.create(user=user)
            user.groups.set([Group.objects.create(name=f"Friends of {user}")])
        post = Post.objects.filter(status=Post.Status.PUBLISHED)[0]
        comment = Comment.objects.filter(is_approved=True, post=post)[0]
        self.keys: dict[str, object] = {
            "account": account.number,
            "customer": account.customer_id,
            "transfer": transfer.pk,
            "order": StandingOrder.objects.using(home).filter(account=account)[0].pk,
            "post": post.slug,
            "post_type": ContentType.objects.get_for_model(Post).pk,
            "login": post.author.login,
            "comment": comment.pk,
        }
        self.keys |= {"home": home, "away": shards()[-1]}
        for model in TO_LOOK_AT:
            row = model._default_manager.using(home).order_by("pk")[1]
            self.keys[model._meta.label_lower] = row.pk
        draw_maps()
        for model in OF_THE_MAP:
            self.keys[model._meta.label_lower] = model._default_manager.order_by("-pk")[1].pk
        for model in IN_ADMIN:
            row = model._default_manager.order_by("pk")[1]
            self.keys[model._meta.label_lower] = row.pk
            LogEntry.objects.bulk_create(
                LogEntry(
                    user=self.users["staff"],
                    content_type=ContentType.objects.get_for_model(model, False),
                    object_id=row.pk,
                    object_repr=str(row),
                    action_flag=CHANGE,
                )
                for _ in range(ROWS)
            )

    def client(self, name: str) -> Client:
        """Return a client, logged in unless the name is empty."""
        client = Client()
        if name:
            client.force_login(self.users[name])
        return client

    def go(self, visit: Visit) -> Any:
        """Send one request and check its status."""
        client, url = self.client(visit.as_), self.filled(visit.url)
        if visit.body is None:
            answer: Any = client.get(url)
        else:
            body = {name: self.filled(value) for name, value in visit.body.items()}
            kind = {"content_type": "application/json"} if url.startswith("/api/") else {}
            headers = {"Idempotency-Key": "one"}
            answer = getattr(client, visit.method)(url, body, **kind, headers=headers)
        expected = visit.status or min(answer.status_code, 399)
        assert answer.status_code == expected, (visit, answer.content)
        return answer

    def filled(self, text: str) -> str:
        """Put keys in the places of their names."""
        for name, key in self.keys.items():
            text = text.replace(f"{{{name}}}", str(key))
        return text


def draw_maps() -> None:
    """Write a few rows of maps, and of what was migrated."""
    for number in range(ROWS):
        group = ShardGroup.objects.create(name=f"z{number}", strategy="hash", epoch=2)
        for table, values in (
            (SlotRange, {"first_slot": 0, "shard": shards()[0]}),
            (PlacedKey, {"key": f"int:{number}", "shard": shards()[-1]}),
            (MapChange, {"epoch": 2, "change": "a key was assigned"}),
        ):
            table._default_manager.create(group=group, **values)
        ShardMigration._default_manager.create(
            shard=shards()[0], app="banking", name=f"000{number}", state="done", started_at=now()
        )


@pytest.fixture
def site() -> Site:
    return Site()


def addresses(resolver: URLResolver, before: str = "") -> Iterator[tuple[str, str | None]]:
    """Walk the patterns: each one's route, as a match names it, and its name."""
    for each in resolver.url_patterns:
        pattern = str(each.pattern)
        route = before + (pattern.removeprefix("^") if before else pattern)
        if isinstance(each, URLResolver):
            yield from addresses(each, route)
        else:
            yield route, each.name


def is_foreign(route: str) -> bool:
    """Tell whether it is in the admin for the tests alone."""
    return any(
        route.startswith(f"admin/{app.label}/")
        for app in apps.get_app_configs()
        if app.name not in INSTALLED_APPS
    )


@pytest.fixture
def witness(settings: Any) -> type[Witness]:
    settings.MIDDLEWARE = [*settings.MIDDLEWARE, f"{__name__}.Witness"]
    Witness.seen = set()
    return Witness


def test_every_address_answers_under_the_guard(site: Site, witness: type[Witness]) -> None:
    refused = {}
    for visit in [*PAGES, *API, *ADMIN]:
        try:
            site.go(visit)
        except NPlusOneError as error:
            refused[visit] = str(error)
    assert refused == {}
    assert witness.seen == {each for each in addresses(get_resolver()) if not is_foreign(each[0])}


def test_every_table_has_several_rows(site: Site) -> None:
    few = [
        (alias, model._meta.label)
        for model in apps.get_models()
        if model.__module__.startswith("demo.")
        for alias in (shards() if model._meta.app_label == "banking" else ["default"])
        if model._default_manager.using(alias).count() < ROWS
    ]
    assert few == []


@pytest.mark.urls(__name__)
@pytest.mark.parametrize("url", ["/harm/", "/writing-harm/"])
def test_the_guard_can_fail(site: Site, url: str) -> None:
    assert resolve(url)
    with pytest.raises(NPlusOneError):
        site.client("staff").get(url)


def values(form: BaseForm) -> dict[str, Any]:
    """Return what a browser would send back unchanged."""
    sent: dict[str, Any] = {}
    for bound in form:
        value, widget = bound.value(), bound.field.widget
        if isinstance(widget, MultiWidget):
            for number, part in enumerate(widget.decompress(value)):
                sent[f"{bound.html_name}_{number}"] = "" if part is None else part
        elif value is not None and value is not False:
            sent[bound.html_name] = value
    return sent


@pytest.mark.parametrize("model", IN_ADMIN, ids=lambda model: model._meta.label_lower)
def test_saving_and_deleting_in_the_admin_have_none(site: Site, model: type[Model]) -> None:
    client = site.client("staff")
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    row = model._default_manager.order_by("pk")[1]
    change = reverse(f"{name}_change", args=[row.pk])
    opened: Any = client.get(change)
    sent = values(opened.context["adminform"].form)
    saved: Any = client.post(change, sent)
    assert saved.status_code == 302, saved.context["errors"]
    rows = model._default_manager.exclude(pk=site.users["staff"].pk).values_list("pk", flat=True)
    action = {"action": "delete_selected", "_selected_action": list(rows)}
    changelist = reverse(f"{name}_changelist")
    assert client.post(changelist, action).status_code == 200
    answer: Any = client.post(changelist, {**action, "post": "yes"})
    assert answer.status_code in (200, 302)


@pytest.mark.parametrize(("action", "is_approved"), [("approve", True), ("hide", False)])
def test_marking_several_comments_at_once_has_none(
    site: Site, action: str, is_approved: bool
) -> None:
    chosen = Comment.objects.exclude(is_approved=is_approved).values_list("pk", flat=True)
    assert len(chosen) >= ROWS
    form = {"action": action, "_selected_action": list(chosen)}
    assert site.client("staff").post("/admin/blog/comment/", form).status_code == 302
    assert not chosen.all().exists()
