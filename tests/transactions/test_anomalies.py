"""Anomalies at each level, through our API: the table of hermitage for PostgreSQL.

Each scenario tells whether the anomaly was seen. Two rows: 1 has 10, 2 has 20.
Source: Martin Kleppmann, github.com/ept/hermitage.
"""

from collections.abc import Callable
from contextlib import suppress

import pytest
from django.db import DatabaseError

from dbpatterns.transactions import Isolation
from tests.testapp.models import Purse
from tests.transactions.stepping import Stepped
from tests.transactions.support import PATIENCE_SECONDS, threads

pytestmark = [pytest.mark.postgresql, pytest.mark.django_db(transaction=True)]

Begin = Callable[[], Stepped]


def balances() -> dict[int, int]:
    return dict(Purse.objects.values_list("pk", "balance"))


def dirty_write_g0(begin: Begin) -> bool:
    one, two = begin(), begin()
    one.write(1, 11)
    waiting = two.write_blocked(1, 12)
    one.write(2, 21)
    assert one.commit() == ""
    with suppress(DatabaseError):
        waiting.result(PATIENCE_SECONDS)
        two.write(2, 22)
    two.commit()
    return balances() not in ({1: 11, 2: 21}, {1: 12, 2: 22})


def aborted_read_g1a(begin: Begin) -> bool:
    one, two = begin(), begin()
    one.write(1, 101)
    seen = [two.read(1)]
    one.abort()
    seen.append(two.read(1))
    two.commit()
    return 101 in seen


def intermediate_read_g1b(begin: Begin) -> bool:
    one, two = begin(), begin()
    one.write(1, 101)
    seen = [two.read(1)]
    one.write(1, 11)
    assert one.commit() == ""
    seen.append(two.read(1))
    two.commit()
    return 101 in seen


def circular_information_flow_g1c(begin: Begin) -> bool:
    one, two = begin(), begin()
    one.write(1, 11)
    two.write(2, 22)
    seen = one.read(2), two.read(1)
    one.commit()
    two.commit()
    return seen == (22, 11)


def observed_vanishes_otv(begin: Begin) -> bool:
    one, two, three = begin(), begin(), begin()
    one.write(1, 11)
    one.write(2, 19)
    waiting = two.write_blocked(1, 12)
    assert one.commit() == ""
    seen = [three.read(1)]
    with suppress(DatabaseError):
        waiting.result(PATIENCE_SECONDS)
        two.write(2, 18)
    seen.append(three.read(2))
    two.commit()
    seen += [three.read(2), three.read(1)]
    three.commit()
    return seen not in ([11, 19, 18, 12], [11, 19, 19, 11])


def predicate_many_preceders_pmp(begin: Begin) -> bool:
    one, two = begin(), begin()
    assert one.thirds() == []
    two.insert(3, 30)
    assert two.commit() == ""
    seen = one.thirds()
    one.commit()
    return seen == [30]


def lost_update_p4(begin: Begin) -> bool:
    one, two = begin(), begin()
    assert one.read(1) == two.read(1) == 10
    one.write(1, 11)
    waiting = two.write_blocked(1, 11)
    assert one.commit() == ""
    with suppress(DatabaseError):
        waiting.result(PATIENCE_SECONDS)
    return two.commit() == ""


def read_skew_g_single(begin: Begin) -> bool:
    one, two = begin(), begin()
    assert one.read(1) == 10
    assert (two.read(1), two.read(2)) == (10, 20)
    two.write(1, 12)
    two.write(2, 18)
    assert two.commit() == ""
    seen = one.read(2)
    one.commit()
    return seen == 18


def write_skew_g2_item(begin: Begin) -> bool:
    one, two = begin(), begin()
    for each in (one, two):
        assert (each.read(1), each.read(2)) == (10, 20)
    one.write(1, 11)
    two.write(2, 21)
    ends = [one.commit(), two.commit()]
    assert set(ends) <= {"", "40001"}
    return ends == ["", ""]


def anti_dependency_cycle_g2(begin: Begin) -> bool:
    one, two = begin(), begin()
    assert one.thirds() == two.thirds() == []
    one.insert(3, 30)
    two.insert(4, 42)
    ends = [one.commit(), two.commit()]
    assert set(ends) <= {"", "40001"}
    return ends == ["", ""]


NEVER: list[Isolation] = []
COMMITTED = [Isolation.READ_COMMITTED]
BELOW_SERIALIZABLE = [Isolation.READ_COMMITTED, Isolation.REPEATABLE_READ]
SEEN_AT: dict[Callable[[Begin], bool], list[Isolation]] = {
    dirty_write_g0: NEVER,
    aborted_read_g1a: NEVER,
    intermediate_read_g1b: NEVER,
    circular_information_flow_g1c: NEVER,
    observed_vanishes_otv: NEVER,
    predicate_many_preceders_pmp: COMMITTED,
    lost_update_p4: COMMITTED,
    read_skew_g_single: COMMITTED,
    write_skew_g2_item: BELOW_SERIALIZABLE,
    anti_dependency_cycle_g2: BELOW_SERIALIZABLE,
}


@pytest.mark.parametrize("isolation", Isolation)
@pytest.mark.parametrize("scenario", SEEN_AT, ids=lambda each: each.__name__)
def test_an_anomaly_is_seen_at_these_levels_only(
    scenario: Callable[[Begin], bool], isolation: Isolation
) -> None:
    Purse.objects.bulk_create([Purse(pk=1, balance=10), Purse(pk=2, balance=20)])
    with threads() as pool:
        seen = scenario(lambda: Stepped(pool, isolation))
    assert seen == (isolation in SEEN_AT[scenario])
