"""Who changed a row and when is right by whichever way it was written."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.functional import SimpleLazyObject

from dbpatterns.errors import UsageError
from dbpatterns.repositories.audit import acting_as, acting_user_middleware
from dbpatterns.repositories.errors import UnsavedObject
from tests.testapp.models import Contract, Memo, PlainMemo

User = get_user_model()
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def eva(db: None) -> Any:
    return User.objects.create(username="eva")


@pytest.fixture
def tom(db: None) -> Any:
    return User.objects.create(username="tom")


@pytest.fixture
def contract(eva: Any) -> Contract:
    """Made by Eva, long ago."""
    with acting_as(eva, at=LONG_AGO):
        return Contract.objects.create(number="1")


def stamps(contract: Contract) -> tuple[Any, Any, Any, Any]:
    row = Contract.objects.get(pk=contract.pk)
    return row.created_at, row.created_by, row.updated_at, row.updated_by


def test_a_new_row_says_who_and_when_with_one_instant(eva: Any) -> None:
    before = timezone.now()
    with acting_as(eva):
        contract = Contract.objects.create(number="1")
    created_at, created_by, updated_at, updated_by = stamps(contract)
    assert before <= created_at == updated_at <= timezone.now()
    assert created_by == updated_by == eva


def test_auto_now_misses_what_django_writes_without_save(db: None) -> None:
    memo = PlainMemo.objects.create(text="a")
    stamp = memo.updated_at
    memo.text = "b"
    memo.save(update_fields=["text"])
    PlainMemo.objects.update(text="c")
    memo.text = "d"
    PlainMemo.objects.bulk_update([memo], ["text"])
    PlainMemo.objects.only("text").get().save()
    assert PlainMemo.objects.get().updated_at == stamp  # the harm: four writes, no trace


def save(contract: Contract) -> None:
    contract.text = "new"
    contract.save()


def save_fields(contract: Contract) -> None:
    contract.text = "new"
    contract.save(update_fields=["text"])


def save_generator(contract: Contract) -> None:
    contract.text = "new"
    contract.save(update_fields=(each for each in ["text"]))


def save_deferred(contract: Contract) -> None:
    found = Contract.objects.only("text").get(pk=contract.pk)
    found.text = "new"
    found.save()


def update(contract: Contract) -> None:
    Contract.objects.filter(pk=contract.pk).update(text="new")


def bulk_update(contract: Contract) -> None:
    contract.text = "new"
    assert Contract.objects.bulk_update([contract], ["text"]) == 1


def bulk_upsert(contract: Contract) -> None:
    Contract.objects.bulk_create(
        [Contract(number=contract.number, text="new")],
        update_conflicts=True,
        unique_fields=["number"],
        update_fields=["text"],
    )


def update_or_create(contract: Contract) -> None:
    Contract.objects.update_or_create({"text": "new"}, number=contract.number)


def async_update(contract: Contract) -> None:
    async_to_sync(Contract.objects.filter(pk=contract.pk).aupdate)(text="new")


WAYS = [
    save,
    save_fields,
    save_generator,
    save_deferred,
    update,
    bulk_update,
    bulk_upsert,
    update_or_create,
    async_update,
]


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("somebody", [True, False])
def test_every_way_to_change_a_row_is_stamped(
    contract: Contract, tom: Any, write: Callable[[Contract], None], somebody: bool
) -> None:
    before = timezone.now()
    with acting_as(tom) if somebody else nullcontext():
        write(contract)
    created_at, created_by, updated_at, updated_by = stamps(contract)
    assert Contract.objects.get().text == "new"
    assert (created_at, created_by.username) == (LONG_AGO, "eva")
    assert before <= updated_at <= timezone.now()
    assert updated_by == (tom if somebody else None)


@pytest.mark.parametrize("write", [save, save_fields, bulk_update])
def test_the_object_in_memory_has_what_was_written(
    contract: Contract, tom: Any, write: Callable[[Contract], None]
) -> None:
    with acting_as(tom):
        write(contract)
    row = Contract.objects.get()
    assert (contract.updated_at, contract.updated_by) == (row.updated_at, tom)


@pytest.mark.parametrize("write", [save, save_fields, update, bulk_update, bulk_upsert])
def test_no_way_adds_a_query(
    contract: Contract, tom: Any, write: Callable[[Contract], None]
) -> None:
    with acting_as(tom), CaptureQueriesContext(connection) as queries:
        write(contract)
    assert len([each for each in queries if "SAVEPOINT" not in each["sql"]]) == 1


def test_bulk_create_stamps_all_rows_with_one_instant(eva: Any) -> None:
    with acting_as(eva):
        made = Contract.objects.bulk_create(Contract(number=str(n)) for n in range(3))
    rows = Contract.objects.values_list("created_at", "updated_at", "created_by", "updated_by")
    assert len(made) == 3
    (only,) = set(rows)
    assert only == (made[0].created_at, made[0].created_at, eva.pk, eva.pk)


def test_get_or_create_stamps_what_it_creates_and_leaves_what_it_finds(
    contract: Contract, tom: Any
) -> None:
    with acting_as(tom):
        Contract.objects.get_or_create(number="1")
        made, _ = Contract.objects.get_or_create(number="2")
        upserted, _ = Contract.objects.update_or_create(number="3")
    assert stamps(contract)[2:] == (LONG_AGO, contract.created_by)
    assert stamps(made)[1] == stamps(made)[3] == tom
    assert stamps(upserted)[1] == tom


def test_bulk_update_in_batches_has_one_instant(contract: Contract, tom: Any) -> None:
    other = Contract.objects.create(number="2")
    with acting_as(tom):
        Contract.objects.bulk_update([contract, other], ["text"], batch_size=1)
    assert Contract.objects.values("updated_at").distinct().count() == 1
    assert contract.updated_at == other.updated_at
    assert Contract.objects.get(pk=other.pk).updated_at == other.updated_at


def test_related_managers_stamp_save_for_a_bulk_add(contract: Contract, tom: Any) -> None:
    other = Contract.objects.create(number="2")
    with acting_as(tom):
        contract.annexes.add(other)
        assert stamps(other)[3] is None  # Django writes it through the base manager
        contract.annexes.add(other, bulk=False)
        assert stamps(other)[3] == tom
        made = contract.annexes.create(number="3")
    assert stamps(made)[1] == tom
    contract.annexes.clear()
    assert stamps(other)[3] is None


def test_a_stamp_given_to_update_is_kept(contract: Contract, tom: Any, eva: Any) -> None:
    with acting_as(tom):
        Contract.objects.update(updated_at=LONG_AGO, updated_by=eva)
        assert stamps(contract)[2:] == (LONG_AGO, eva)
        Contract.objects.update(updated_by_id=None)
        assert stamps(contract)[3] is None
        contract.updated_at, contract.updated_by = LONG_AGO, eva
        Contract.objects.bulk_update([contract], ["updated_at", "updated_by"])
    assert stamps(contract)[2:] == (LONG_AGO, eva)
    assert (contract.updated_at, contract.updated_by) == (LONG_AGO, eva)


def test_stamps_are_never_taken_from_the_object(contract: Contract, tom: Any) -> None:
    with acting_as(tom):
        contract.updated_at = contract.updated_by = None
        contract.save()
        assert stamps(contract)[3] == tom
        contract.pk, contract.number, contract._state.adding = None, "2", True
        contract.save()  # Django's way to copy a row
    created_at, created_by, _, _ = stamps(contract)
    assert created_at > LONG_AGO
    assert created_by == tom


def test_an_empty_update_fields_writes_nothing(contract: Contract, tom: Any) -> None:
    with acting_as(tom), CaptureQueriesContext(connection) as queries:
        contract.save(update_fields=[])
    assert len(queries) == 0
    assert contract.updated_at == LONG_AGO


def test_full_clean_asks_for_no_stamp(db: None) -> None:
    Contract(number="1", text="x").full_clean(exclude=["parent"])


def test_a_row_outlives_its_user(contract: Contract, eva: Any) -> None:
    eva.delete()
    assert stamps(contract)[1::2] == (None, None)
    assert not [each for each in User._meta.related_objects if each.related_model is Contract]


# Who acts


def test_blocks_nest_and_end_even_with_an_error(eva: Any, tom: Any) -> None:
    def author() -> Any:
        number = str(Contract.objects.count())
        return Contract.objects.create(number=number).created_by

    with acting_as(eva):
        with acting_as(tom):
            assert author() == tom
        with pytest.raises(ZeroDivisionError), acting_as(tom):
            raise ZeroDivisionError
        assert author() == eva
        with acting_as(None):
            assert author() is None
    assert author() is None


@pytest.mark.django_db(transaction=True)
def test_another_thread_acts_for_nobody() -> None:
    def work() -> None:
        try:
            Contract.objects.create(number="1")
        finally:
            connection.close()

    with acting_as(User.objects.create(username="eva")):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(timeout=30)
    assert Contract.objects.get().created_by is None


@pytest.mark.django_db(transaction=True)
def test_tasks_act_for_their_own_users() -> None:
    users = [User.objects.create(username=str(n)) for n in range(5)]

    async def work(user: Any, barrier: asyncio.Barrier) -> None:
        with acting_as(user):
            await barrier.wait()
            await Contract.objects.acreate(number=user.username)
            await barrier.wait()
            contract = await Contract.objects.aget(number=user.username)
            await contract.asave(update_fields=["text"])

    async def story() -> None:
        barrier = asyncio.Barrier(len(users))
        await asyncio.gather(*(work(each, barrier) for each in users))

    async_to_sync(story)()
    for each in Contract.objects.select_related("created_by", "updated_by"):
        assert each.created_by.username == each.updated_by.username == each.number


@pytest.mark.parametrize("user", ["eva", 7, PlainMemo(pk=1)])
def test_only_a_user_acts(user: object) -> None:
    with pytest.raises(UsageError, match=r"acting_as needs a users\.User or None, not"):
        acting_as(user).__enter__()


def test_a_user_without_a_row_cannot_act() -> None:
    with pytest.raises(UnsavedObject, match=r"This users\.User has no row"):
        acting_as(User(username="new")).__enter__()


def test_an_anonymous_user_is_nobody(db: None) -> None:
    with acting_as(AnonymousUser()):
        assert Contract.objects.create(number="1").created_by is None


# Requests


def view(request: HttpRequest) -> HttpResponse:
    Contract.objects.create(number="1")
    return HttpResponse("done")


@pytest.fixture
def request_() -> HttpRequest:
    return RequestFactory().post("/")


def test_a_request_acts_as_its_user_and_the_next_one_does_not(
    request_: HttpRequest, eva: Any
) -> None:
    request_.user = eva
    assert acting_user_middleware(view)(request_).content == b"done"
    assert Contract.objects.get().created_by == eva
    Contract.objects.all().delete()
    view(request_)
    assert Contract.objects.get().created_by is None


def test_a_request_without_a_user_acts_for_nobody(request_: HttpRequest, db: None) -> None:
    acting_user_middleware(view)(request_)
    assert Contract.objects.get().created_by is None


def test_the_user_is_read_when_something_is_written(request_: HttpRequest, eva: Any) -> None:
    loads: list[None] = []

    def load() -> Any:
        loads.append(None)
        return AnonymousUser()

    def reads_only(request: HttpRequest) -> HttpResponse:
        Contract.objects.exists()
        return HttpResponse()

    def logs_in(request: HttpRequest) -> HttpResponse:
        request.user = eva
        return view(request)

    request_.user = SimpleLazyObject(load)
    acting_user_middleware(reads_only)(request_)
    assert loads == []
    acting_user_middleware(logs_in)(request_)
    assert Contract.objects.get().created_by == eva
    assert loads == []


@pytest.mark.django_db(transaction=True)
def test_an_async_request_acts_as_its_user(request_: HttpRequest) -> None:
    eva = User.objects.create(username="eva")

    async def handler(request: HttpRequest) -> HttpResponse:
        await Contract.objects.acreate(number="1")
        return HttpResponse("done")

    async def story() -> HttpResponse:
        # Loaded by a query, which Django allows in a thread only: as a session's user is.
        request_.user = SimpleLazyObject(lambda: User.objects.get(username="eva"))
        middleware: Callable[[HttpRequest], Awaitable[HttpResponse]]
        middleware = acting_user_middleware(handler)
        assert iscoroutinefunction(middleware)
        return await middleware(request_)

    assert async_to_sync(story)().content == b"done"
    assert Contract.objects.get().created_by == eva


# With soft deletion


def test_both_mixins_work_on_one_model(eva: Any, tom: Any) -> None:
    with acting_as(eva):
        memo = Memo.objects.create(text="a")
    with acting_as(tom):
        Memo.objects.update(text="b")
        memo.delete()
    assert not Memo.objects.exists()
    row = Memo.everything.get()
    assert (row.created_by, row.updated_by, row.text) == (eva, tom, "b")
    row.text = "c"
    row.save(update_fields=["text"])
    assert Memo.everything.get().is_deleted
    assert row.restore()[0] == 1
    assert Memo.objects.get().text == "c"
