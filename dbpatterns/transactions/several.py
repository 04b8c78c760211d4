"""One block on several databases, which is a transaction on each and no two-phase commit."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from django.db import transaction

__all__ = ["atomic_on"]


@contextmanager
def atomic_on(aliases: Iterable[str]) -> Iterator[None]:
    """Hold a transaction on each database; they commit together at the end, or are undone together.

    A server that is lost between two of the commits leaves a part.
    """
    with ExitStack() as stack:
        for alias in aliases:
            stack.enter_context(transaction.atomic(using=alias))
        yield
