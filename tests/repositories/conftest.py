"""Articles to find; models are imported late, since pytest reads this before Django is set up."""

from __future__ import annotations

import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.testapp.models import Article

UTC = datetime.UTC


@pytest.fixture
def articles(db: None) -> list[Article]:
    """Forty articles with ties and NULLs in most columns, by two writers and nobody."""
    from tests.testapp.models import Article, Writer

    writers = [None, Writer.objects.create(name="Ada"), Writer.objects.create(name="Ben")]
    return Article.objects.bulk_create(
        Article(
            slug=f"article-{number:02}",
            title=["", "One", "two", "Three"][number % 4],
            rating=None if number % 5 == 0 else number % 3,
            price=None if number % 7 == 0 else Decimal(number) / 4,
            published_at=None
            if number % 3 == 0
            else datetime.datetime(2024, 1, 1 + number % 9, 12, 30, 15, 123456, tzinfo=UTC),
            number=number,
            writer=writers[number % 3],
        )
        for number in range(40)
    )
