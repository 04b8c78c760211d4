"""A value of a lookup index is on one shard alone, whoever writes, dies or rolls back."""

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack
from io import StringIO
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connections, models, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext, isolate_apps

from dbpatterns.errors import UsageError
from dbpatterns.sharding import LookupIndex, ShardedModel, shard, shard_for, shards
from dbpatterns.sharding.checks import problems_of
from dbpatterns.sharding.errors import CrossShardError, ShardKeyRequired, ValueTaken
from dbpatterns.sharding.lookups import indexes_of
from dbpatterns.sharding.models import LookupEntry
from dbpatterns.sharding.reservations import resolve
from tests.parcels.models import Badge, Member, Station, Stranger
from tests.processes import in_threads, start_process
from tests.sharding.operations import ONE, OTHER, SAME
from tests.sharding.support import BUYERS

A, A2, B = ONE, SAME, OTHER
"""Two keys of one shard, and one of another."""

committed = pytest.mark.django_db(transaction=True, databases="__all__")
in_test = pytest.mark.django_db(databases="__all__")


def found() -> dict[str, tuple[int, bool]]:
    """Return the entries: by value the key, and whether they are settled."""
    return {
        each.value: (int(each.key.removeprefix("int:")), each.is_settled)
        for each in LookupEntry.objects.all()
    }


def sweep(**options: Any) -> dict[str, Any]:
    out = StringIO()
    call_command(
        "sweep_lookups", older_than_seconds=0, format="json", stdout=out, verbosity=0, **options
    )
    report: dict[str, Any] = json.loads(out.getvalue())
    return report


@in_test
def test_without_an_index_two_shards_take_one_value() -> None:
    for key in (A, B):
        Stranger.objects.create(id=key, email="eva@example.com")  # unique=True, and yet
    with pytest.raises(ShardKeyRequired):
        Stranger.objects.get(email="eva@example.com")


@committed
def test_a_value_is_taken_once_over_all_shards() -> None:
    Member.objects.create(id=A, email="eva@example.com")
    assert found() == {"eva@example.com": (A, True)}
    with pytest.raises(ValueTaken, match=r"parcels\.Member with email 'eva@example\.com'") as taken:
        Member.objects.create(id=B, email="eva@example.com")
    assert isinstance(taken.value, IntegrityError)
    assert (taken.value.model, taken.value.value) == ("parcels.Member", "eva@example.com")
    with pytest.raises(IntegrityError):
        Member.objects.create(id=A2, email="eva@example.com")
    with pytest.raises(ValidationError, match="already exists") as invalid:
        Member(id=B, email="eva@example.com").full_clean()
    assert list(invalid.value.message_dict) == ["email"]
    Member(id=B, email="olga@example.com").full_clean()
    Member.objects.get(pk=A).full_clean()
    Member.objects.create(id=B, email=None)
    assert list(found()) == ["eva@example.com"]


@committed
def test_a_query_by_the_value_finds_its_shard_and_asks_no_other() -> None:
    Member.objects.create(id=A, email="eva@example.com")
    Member.objects.create(id=B, email="olga@example.com")

    def asked(query: Callable[[], object]) -> dict[str, int]:
        with_all = {alias: CaptureQueriesContext(connections[alias]) for alias in connections}
        for each in with_all.values():
            each.__enter__()
        query()
        for each in with_all.values():
            each.__exit__(None, None, None)
        return {alias: len(each) for alias, each in with_all.items() if len(each)}

    by_value = Member.objects.filter(email="eva@example.com")
    assert asked(by_value.get) == {"default": 1, shard_for(A): 1}
    assert asked(Member.objects.get(pk=A, email="eva@example.com").delete) is not None
    Member.objects.create(id=A, email="eva@example.com")
    assert by_value.get().pk == A
    assert Member.objects.filter(name="", email__in=["eva@example.com"]).count() == 1
    assert not Member.objects.filter(email="nobody@example.com").exists()
    LookupEntry.objects.update(shard=shard_for(B))  # where it was taken, before the key moved
    assert by_value.get().pk == A
    both = Member.objects.filter(email__in=["eva@example.com", "olga@example.com"])
    with pytest.raises(CrossShardError):
        both.count()
    for refused in (
        Member.objects.filter(email__startswith="eva"),
        Member.objects.exclude(email="eva@example.com"),
        Member.objects.filter(email="eva@example.com") | Member.objects.filter(name="x"),
    ):
        with pytest.raises(ShardKeyRequired):
            refused.count()
    made, is_new = Member.objects.get_or_create(email="eva@example.com", defaults={"id": B})
    assert (made.pk, is_new) == (A, False)


@committed
def test_another_value_frees_the_old_one_when_it_has_committed() -> None:
    member = Member.objects.create(id=A, email="old@example.com")
    with transaction.atomic(using=shard_for(A)):
        member.email = "new@example.com"
        member.save()
        for taken in ("old@example.com", "new@example.com"):
            with pytest.raises(ValueTaken):
                in_thread(lambda taken=taken: Member.objects.create(id=B, email=taken))
    assert found() == {"new@example.com": (A, True)}
    Member.objects.create(id=B, email="old@example.com")
    stale = Member.objects.get(pk=A)
    Member.objects.get(pk=A).delete()
    assert list(found()) == ["old@example.com"]
    stale.email = "last@example.com"
    stale.save()
    assert found()["last@example.com"] == (A, True)


@committed
def test_what_a_row_had_is_read_from_the_shard_not_from_memory() -> None:
    Member.objects.create(id=A, email="one@example.com")
    stale, other = Member.objects.get(pk=A), Member.objects.get(pk=A)
    other.email = "two@example.com"
    other.save()
    stale.save()  # writes the first value back
    assert found() == {"one@example.com": (A, True)}
    other.email = "three@example.com"
    other.save(update_fields=["name"])
    assert found() == {"one@example.com": (A, True)}
    stale.email = "four@example.com"
    stale.delete()
    assert found() == {}


@committed
def test_rows_in_bulk_have_their_values_to_themselves() -> None:
    Member.objects.bulk_create(
        [Member(id=key, email=f"{key}@example.com") for key in BUYERS], batch_size=2
    )
    assert found() == {f"{key}@example.com": (key, True) for key in BUYERS}
    with pytest.raises(ValueTaken):
        Member.objects.bulk_create([Member(id=10**6, email=f"{A}@example.com")])
    with pytest.raises(ValueTaken):
        Member.objects.bulk_create(
            [Member(id=10**6 + each, email="same@example.com") for each in (A, A2)]
        )
    rows = list(Member.objects.filter(pk=A))
    rows[0].email = "other@example.com"
    Member.objects.bulk_update(rows, ["email"])
    assert found()["other@example.com"] == (A, True)
    assert f"{A}@example.com" not in found()
    with pytest.raises(UsageError, match=r"parcels\.Member\.email has a lookup index"):
        Member.objects.filter(pk=A).update(email="third@example.com")
    with pytest.raises(UsageError, match="has a lookup index"):
        Member.objects.bulk_create([Member(id=5, email="x@example.com")], ignore_conflicts=True)
    Member.objects.filter(pk=A).update(name="Eva")
    Badge.objects.create(member_id=B, code="b")
    Member.objects.filter(pk=B).delete()
    assert f"{B}@example.com" not in found()
    assert not LookupEntry.objects.filter(index="parcels.badge.code").exists()  # by the cascade


@committed
def test_a_rollback_frees_the_value_for_who_wants_it() -> None:
    def undone(outer: bool) -> None:
        with transaction.atomic(using=shard_for(A)):
            try:
                with transaction.atomic(using=shard_for(A)):
                    Member.objects.create(id=A, email="eva@example.com")
                    raise LookupError
            except LookupError:
                if outer:
                    raise
            Member.objects.create(id=A2, email="olga@example.com")

    with pytest.raises(LookupError):
        undone(outer=True)
    assert found() == {"eva@example.com": (A, False)}
    Member.objects.create(id=B, email="eva@example.com")
    assert found() == {"eva@example.com": (B, True)}
    Member.objects.get(pk=B).delete()
    undone(outer=False)
    Member.objects.create(id=B, email="eva@example.com")
    assert found() == {"eva@example.com": (B, True), "olga@example.com": (A2, True)}


@committed
def test_the_sweeper_leaves_an_entry_that_another_has_taken_since_it_was_read() -> None:
    with transaction.atomic(using=shard_for(A)):
        Member.objects.create(id=A, email="eva@example.com")
        transaction.set_rollback(True, using=shard_for(A))
    left = LookupEntry.objects.get()
    Member.objects.create(id=B, email="eva@example.com")
    assert resolve(indexes_of(Member)[0], left) is None
    assert found() == {"eva@example.com": (B, True)}


@committed
def test_a_delete_that_is_undone_frees_nothing() -> None:
    member = Member.objects.create(id=A, email="eva@example.com")
    with transaction.atomic(using=shard_for(A)):
        member.delete()
        transaction.set_rollback(True, using=shard_for(A))
    assert found() == {"eva@example.com": (A, False)}
    with pytest.raises(ValueTaken):
        Member.objects.create(id=B, email="eva@example.com")
    assert Member.objects.get(email="eva@example.com").pk == A
    assert sweep()["settled"] == 1
    assert found() == {"eva@example.com": (A, True)}


@committed
def test_a_value_that_this_transaction_has_freed_is_not_for_another_shard_yet() -> None:
    member = Member.objects.create(id=A, email="eva@example.com")
    with transaction.atomic(using=shard_for(A)):
        member.delete()
        with pytest.raises(ValueTaken), transaction.atomic(using=shard_for(B)):
            Member.objects.create(id=B, email="eva@example.com")
        Member.objects.create(id=A2, email="eva@example.com")  # the same shard, one outcome
    assert found() == {"eva@example.com": (A2, True)}


@in_test
def test_a_transaction_on_the_control_database_could_undo_the_entry_alone() -> None:
    def both() -> ExitStack:
        with ExitStack() as stack:
            for alias in ("default", shard_for(A)):
                stack.enter_context(transaction.atomic(using=alias))
            return stack.pop_all()

    with both(), pytest.raises(UsageError, match="transaction is open on 'default'"):
        Member.objects.create(id=A, email="eva@example.com")
    with both():
        Member.objects.create(id=A, email=None)  # has no entry
    member = Member.objects.get(pk=A)
    with both():
        member.save()


def in_thread(function: Callable[[], object]) -> None:
    (answer,) = in_threads([function])
    if isinstance(answer, Exception):
        raise answer


@pytest.mark.postgresql
@committed
def test_the_sweeper_leaves_a_slow_writer_its_value() -> None:
    written, go_on = threading.Event(), threading.Event()

    def slowly() -> None:
        with transaction.atomic(using=shard_for(A)):
            Member.objects.create(id=A, email="eva@example.com")
            written.set()
            assert go_on.wait(30)

    def meanwhile() -> dict[str, Any]:
        assert written.wait(30)
        try:
            report = sweep()
            with pytest.raises(ValueTaken):
                Member.objects.create(id=B, email="eva@example.com")
            return report
        finally:
            go_on.set()

    first, report = in_threads([slowly, meanwhile])
    assert first is None
    assert (report["in_use"], report["freed"]) == (1, 0)
    assert found() == {"eva@example.com": (A, True)}


@committed
def test_of_many_who_take_one_value_at_once_one_has_it() -> None:
    def taking(key: int, email: str) -> Callable[[], object]:
        return lambda: Member.objects.create(id=key, email=email)

    for turn in range(5):
        email, keys = f"eva{turn}@example.com", [turn * 10**7 + key for key in BUYERS[:4]]
        answers = in_threads([taking(key, email) for key in keys])
        assert sum(isinstance(each, Member) for each in answers) == 1, answers
        assert all(isinstance(each, Member | IntegrityError) for each in answers), answers
        assert LookupEntry.objects.get(value=email).is_settled


@committed
def test_a_key_made_by_the_insert_is_known_when_it_has_committed() -> None:
    with shard(A):
        made = Station.objects.create(number=7)
    entry = LookupEntry.objects.get(index="parcels.station.number")
    assert (entry.value, entry.key, entry.is_settled) == ("7", f"int:{made.pk}", True)
    assert Station.objects.get(number=7) == made
    with pytest.raises(IntegrityError), shard(B):
        Station.objects.create(number=7)
    with shard(A):
        Station.objects.bulk_create(Station(number=number) for number in (8, 9))
    assert {each.key for each in LookupEntry.objects.all()} == {
        f"int:{pk}" for pk in Station.objects.using(shard_for(A)).values_list("pk", flat=True)
    }


@committed
def test_rows_older_than_their_index_are_entered() -> None:
    Member.objects.bulk_create(Member(id=key, email=f"{key}@example.com") for key in BUYERS)
    LookupEntry.objects.all().delete()
    assert not Member.objects.filter(email=f"{B}@example.com").exists()  # nobody knows of it
    assert sweep(enter=True, dry_run=True)["pending"] == 0
    assert sweep(enter=True, batch_size=2)["on_two_shards"] == []
    assert found() == {f"{key}@example.com": (key, True) for key in BUYERS}
    LookupEntry.objects.filter(value=f"{A}@example.com").update(value="x@example.com")
    with connections[shard_for(B)].cursor() as cursor:
        cursor.execute("UPDATE parcels_member SET email = %s WHERE id = %s", ["x@example.com", B])
    with pytest.raises(CommandError, match="1 values are on two shards") as told:
        sweep(enter=True)
    assert told.value.returncode == 1


@committed
def test_what_each_write_costs() -> None:
    here = shard_for(A)

    def asked(write: Callable[[], object]) -> tuple[int, int]:
        with (
            CaptureQueriesContext(connections[here]) as there,
            CaptureQueriesContext(connections["default"]) as control,
        ):
            write()
        bounds = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
        own = [each for each in there if not each["sql"].startswith(bounds)]
        entered = [each for each in control if not each["sql"].startswith(bounds)]
        return len(own), len(entered)

    member = Member(id=A, email="eva@example.com")
    assert asked(lambda: member.save(force_insert=True)) == (2, 3)
    assert asked(member.save) == (2, 0)
    assert asked(lambda: member.save(update_fields=["name"])) == (1, 0)
    member.email = "olga@example.com"
    assert asked(member.save) == (4, 5)
    assert asked(member.delete)[1] == 2
    rows = [Member(id=key, email=f"{key}@example.com") for key in (A, A2)]
    assert asked(lambda: Member.objects.bulk_create(rows)) == (3, 3)


KILLED = """
import json, os, signal
from tests.sharding.killed_lookups import run
print(json.dumps(run({names!r}, {a}, {b})), flush=True)
"""


@committed
def test_a_writer_killed_at_any_statement_leaves_no_value_twice_or_for_ever() -> None:
    names = {alias: connections[alias].settings_dict["NAME"] for alias in connections}
    process = start_process(KILLED.format(names=names, a=A, b=B))
    out, _ = process.communicate(timeout=120)
    report = json.loads(out)
    assert report["faults"] == []
    assert report["kills"] >= 15
    assert report["states"] >= 4


@in_test
def test_every_index_is_known_with_its_model() -> None:
    assert [each.label for each in indexes_of(Member)] == ["parcels.member.email"]
    assert indexes_of(Stranger) == ()


@isolate_apps("tests.parcels")
def test_an_index_that_could_not_hold_is_told() -> None:
    class Loose(ShardedModel):
        shard_key = "id"
        id = models.UUIDField(primary_key=True)
        name = models.CharField(max_length=20)
        about = models.TextField(unique=True)
        at = models.DateTimeField(unique=True)
        long = models.CharField(max_length=256, unique=True)
        name_index = LookupIndex("name")
        about_index = LookupIndex("about")
        at_index = LookupIndex("at")
        long_index = LookupIndex("long")
        lost_index = LookupIndex("nowhere")

        class Meta:
            app_label = "parcels"

    sharding = {**settings.DBPATTERNS["SHARDING"], "CONTROL": shards()[0]}
    with override_settings(DBPATTERNS={"SHARDING": sharding}):
        ids = [each.id for each in problems_of(Member)]
        assert ids == ["dbpatterns_sharding.E017"]
    found = list(problems_of(Loose))
    assert [each.id for each in found] == ["dbpatterns_sharding.E016"] * 5
    assert all("parcels.Loose has a lookup index, and" in each.msg and each.hint for each in found)
    assert list(problems_of(Member)) == list(problems_of(Station)) == []
