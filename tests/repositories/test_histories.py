"""Generated histories: whatever is done to both, the twin in memory stays what the database is.

`DBPATTERNS_TEST_HISTORIES=10000` runs as many as the bar asks for (`make chaos`).
"""

import datetime
import os
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import pytest
from django.db import DatabaseError, DataError, IntegrityError, connection, transaction
from django.db.models import F, Q
from hypothesis import HealthCheck, Phase, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from dbpatterns.errors import DBPatternsError
from dbpatterns.repositories import BaseRepository, Repository, UpsertResult
from dbpatterns.repositories.errors import InvalidValue, VanishedRows
from dbpatterns.repositories.keyset import OrderTerm
from tests.testapp.models import Article

HISTORIES = int(os.environ.get("DBPATTERNS_TEST_HISTORIES", "100"))
COLUMNS = [each.attname for each in Article._meta.concrete_fields if each.name != "id"]

FAULTS = (IntegrityError, DataError, InvalidValue, VanishedRows)
"""What one row of many can be refused for."""

slugs = st.sampled_from("abcdefgh")
moments = st.sampled_from(
    [
        datetime.datetime(2024, 3, 31, 0, 30, tzinfo=datetime.UTC),
        datetime.datetime(2024, 3, 31, 0, 30, 0, 1, tzinfo=datetime.UTC),
        datetime.datetime(
            2023, 12, 31, 23, 59, tzinfo=datetime.timezone(datetime.timedelta(hours=2))
        ),
    ]
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "title": st.sampled_from(["", "a", "A", "ß", "%", "x" * 100, "x" * 101]),
    "body": st.none() | st.sampled_from(["", "text", "Text\n"]),
    "rating": st.none() | st.integers(-1, 2) | st.sampled_from(["1", "x"]),
    "price": st.none() | st.sampled_from([Decimal("0.10"), Decimal("-1.5"), "2.25"]),
    "score": st.sampled_from([0.0, -0.5, 0.1 + 0.2]) | st.none(),
    "is_live": st.booleans(),
    "published_at": st.none() | moments,
    "day": st.none() | st.sampled_from([datetime.date(2024, 2, 29), "2024-03-01"]),
    "reading_time": st.none() | st.just(datetime.timedelta(microseconds=7)),
    "language": st.sampled_from(["en", "de"]),
    "number": st.none() | st.integers(0, 1),
}
if connection.vendor == "postgresql":  # SQLite keeps such prices, and shows others
    VALUES["price"] |= st.sampled_from([Decimal(10) ** 8, Decimal("0.105")])
rows = st.fixed_dictionaries({"slug": slugs}, optional=VALUES)  # type: ignore[arg-type]
changes = st.fixed_dictionaries({}, optional={"slug": slugs, **VALUES})  # type: ignore[arg-type]

leaves = st.one_of(
    st.builds(lambda v: Q(slug__in=v), st.lists(slugs, max_size=3)),
    st.builds(lambda v: Q(rating=v), st.none() | st.integers(-1, 2)),
    st.builds(lambda v: Q(rating__gte=v), st.integers(-1, 2)),
    st.builds(lambda v: Q(number__isnull=v), st.booleans()),
    st.builds(lambda v: Q(title__icontains=v), st.sampled_from(["a", "X", "%", "ß"])),
    st.builds(lambda v: Q(price__lt=v), st.sampled_from([Decimal("0.11"), Decimal(0)])),
    st.builds(lambda v: Q(published_at__lte=v), moments),
    st.builds(lambda v: Q(is_live=v), st.booleans()),
    st.just(Q(rating=F("number"))),
    st.just(Q()),
)
conditions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(lambda a, b: a & b, inner, inner),
        st.builds(lambda a, b: a | b, inner, inner),
        st.builds(lambda a: ~a, inner),
    ),
    max_leaves=5,
)
orders: st.SearchStrategy[Sequence[OrderTerm]] = st.lists(
    st.sampled_from(["rating", "-rating", "-price", "published_at", "title", "-is_live", "number"]),
    unique_by=lambda name: name.removeprefix("-"),
    max_size=3,
)


def shape(found: Any) -> Any:
    """Return a result without what two runs may differ in: the keys and the objects themselves."""
    if isinstance(found, Article):
        return {name: getattr(found, name) for name in COLUMNS}
    if isinstance(found, UpsertResult):
        return [each.slug for each in found.created], [each.slug for each in found.updated]
    if isinstance(found, list):
        return [shape(each) for each in found]
    return found


class Histories(RuleBasedStateMachine):
    """The same call on both, with objects of their own, stale ones among them."""

    def __init__(self) -> None:
        super().__init__()
        self.block = transaction.atomic()
        self.block.__enter__()
        self.database: BaseRepository[Article, int] = Repository.for_model(Article)
        self.memory: BaseRepository[Article, int] = type(self.database).in_memory()  # type: ignore[attr-defined]
        self.held: list[tuple[Article, Article]] = []

    def teardown(self) -> None:
        transaction.set_rollback(True)
        self.block.__exit__(None, None, None)

    def both(
        self,
        call: Callable[[BaseRepository[Article, int], int], Any],
        *,
        is_bulk: bool = False,
    ) -> tuple[Any, Any]:
        """Do it on both and compare; an error is compared by its type.

        Of several faults in one batch, which one is told is not promised.
        """
        answers = []
        for side, repository in enumerate((self.database, self.memory)):
            try:
                with transaction.atomic():
                    answers.append(call(repository, side))
            except (DatabaseError, DBPatternsError) as error:
                note(f"{side}: {error!r}")
                is_fault = is_bulk and isinstance(error, FAULTS)
                answers.append("a fault in the batch" if is_fault else type(error))
        shapes = [shape(each) for each in answers]
        assert shapes[0] == shapes[1]
        return answers[0], answers[1]

    def hold(self, made: tuple[Article, Article]) -> None:
        self.held = [*self.held[-7:], made]

    def pair(self, data: st.DataObject) -> tuple[Article, Article]:
        if not self.held or data.draw(st.integers(0, 3)) == 0:
            values = data.draw(rows)
            self.hold((Article(**values), Article(**values)))
            return self.held[-1]
        made = data.draw(st.sampled_from(self.held))
        for name, value in data.draw(changes).items():
            for each in made:
                setattr(each, name, value)
        return made

    @rule(data=st.data())
    def save(self, data: st.DataObject) -> None:
        made = self.pair(data)
        self.both(lambda repository, side: shape(repository.save(made[side])) and None)

    @rule(data=st.data(), names=st.lists(st.sampled_from(sorted(VALUES)), max_size=3, unique=True))
    def save_some_columns(self, data: st.DataObject, names: list[str]) -> None:
        made = self.pair(data)
        if not made[0]._state.adding and made[0].pk and made[1].pk:
            self.both(lambda repo, side: repo.save(made[side], update_fields=names) and None)

    @rule(data=st.data(), count=st.integers(1, 4), batch=st.integers(1, 3))
    def save_many(self, data: st.DataObject, count: int, batch: int) -> None:
        pairs = {id(made): made for made in (self.pair(data) for _ in range(count))}.values()
        if all(each.pk is not None or each._state.adding for made in pairs for each in made):
            self.both(
                lambda repository, side: len(
                    repository.save_many([made[side] for made in pairs], batch=batch)
                ),
                is_bulk=True,
            )

    @rule(
        values=st.lists(rows, min_size=1, max_size=4),
        match=st.sampled_from([["slug"], ["language", "number"]]),
        update=st.lists(
            st.sampled_from(["title", "rating", "price", "body"]), max_size=2, unique=True
        ),
    )
    def upsert_many(
        self, values: list[dict[str, Any]], match: list[str], update: list[str]
    ) -> None:
        made = [[Article(**each) for each in values] for _ in range(2)]
        self.both(
            lambda repository, side: repository.upsert_many(made[side], match=match, update=update),
            is_bulk=True,
        )

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        made = self.pair(data)
        self.both(lambda repository, side: repository.delete(made[side]))

    @rule(q=conditions, allow_all=st.booleans())
    def delete_by(self, q: Q, allow_all: bool) -> None:
        self.both(lambda repository, side: repository.delete_by(q, allow_all=allow_all))

    @rule(q=conditions, order=orders, limit=st.none() | st.integers(0, 3))
    def find(self, q: Q, order: list[str], limit: int | None) -> None:
        self.both(lambda repo, side: repo.find_by(q, order_by=[*order, "slug"], limit=limit))
        self.both(lambda repository, side: (repository.count(q), repository.exists(q)))

    @rule(q=conditions, order=orders, size=st.integers(1, 3))
    def walk(self, q: Q, order: list[str], size: int) -> None:
        def pages(repository: BaseRepository[Article, int], side: int) -> list[Article]:
            page = repository.page(q, size=size, order_by=[*order, "slug"])
            found = page.object_list
            while page.next_cursor:
                page = repository.page(
                    q, size=size, order_by=[*order, "slug"], cursor=page.next_cursor
                )
                found = [*found, *page.object_list]
            return found

        self.both(pages)

    @rule(slug=slugs)
    def take(self, slug: str) -> None:
        found = self.both(lambda repository, side: repository.find_one_by(slug=slug))
        if found[0] is not None:
            self.hold(found)

    @invariant()
    def hold_the_same_rows(self) -> None:
        self.both(lambda repository, side: repository.find_all(order_by=["slug"]))


@pytest.mark.django_db
def test_memory_and_database_tell_the_same_history() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Histories,
        settings=settings(
            max_examples=HISTORIES,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking takes minutes
        ),
    )
