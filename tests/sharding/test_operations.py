"""Every operation gives what one database would give, or is refused; nothing goes astray."""

import pytest

from tests.plainshop import models as plain
from tests.sharding.operations import OPERATIONS, Operation
from tests.sharding.support import contents
from tests.shop import models as shop

pytestmark = [pytest.mark.django_db(databases="__all__"), pytest.mark.usefixtures("filled")]

ROUTED = [each for each in OPERATIONS if each.refused is None]
REFUSED = [each for each in OPERATIONS if each.refused is not None]


def name(operation: Operation) -> str:
    return operation.name


@pytest.mark.parametrize("operation", ROUTED, ids=name)
def test_an_operation_does_what_it_does_on_one_database(operation: Operation) -> None:
    expected = operation.run(plain)
    assert operation.run(shop) == expected
    assert contents(shop) == contents(plain)


@pytest.mark.parametrize("operation", REFUSED, ids=name)
def test_an_operation_that_one_shard_would_do_wrong_is_refused(operation: Operation) -> None:
    before = contents(shop)
    assert operation.refused is not None
    with pytest.raises(operation.refused, match=r"shop\.|shop_") as caught:
        operation.run(shop)
    assert type(caught.value) in (operation.refused, *operation.refused.__subclasses__())
    assert contents(shop) == before


def test_there_are_operations_enough() -> None:
    assert len(ROUTED) >= 60
    assert len(OPERATIONS) == len({each.name for each in OPERATIONS})
