"""Pages of a long table: by keyset, by offset, and by hand."""

import base64
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from django.core.paginator import Paginator
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from benchmarks.alchemy import Alchemy
from benchmarks.articles import ROWS, TABLE
from benchmarks.comparing import COLUMNS, DATABASE, PEERS, PLAIN, Row, fetch, queries_of
from benchmarks.measuring import Bar, Work, row, significant, take_turns
from dbpatterns.repositories import Repository
from dbpatterns.repositories.keyset import Keyset
from tests.testapp.models import Article

__all__ = ["pages"]

SIZE = 50
LAST = ROWS // SIZE
DEEP = min(1_000, LAST // 2)
PAGES = (1, DEEP, LAST)


def pages(alchemy: Alchemy, order: tuple[str, str]) -> list[Row]:
    """Return a row for the first page, page 1,000 and the last."""
    quick: dict[str, Work] = {}
    slow: dict[str, Work] = {}
    for number in PAGES:
        before = _row_before(order, number)
        quick[f"ours {number}"] = _page(order, before)
        quick[f"limit {number}"] = _raw_page(order, before)
        slow[f"Django {number}"] = _django_page(order, number)
        slow[f"alchemy {number}"] = _alchemy_page(alchemy, order, number)
    if order[0] != "rating":  # DRF's loses rows where that many tie
        quick[f"DRF {DEEP}"] = _drf_page(order, _row_before(order, DEEP))
    slow[f"count {DEEP}"] = lambda: alchemy.page_and_count(order, size=SIZE, offset=_offset(DEEP))
    for number in PAGES:
        _check_same(quick[f"ours {number}"], slow[f"Django {number}"])
    queries = {name: queries_of(work, alchemy) for name, work in (quick | slow).items()}
    timings = take_turns(quick, rounds=40, calls=2) | take_turns(slow, rounds=3)
    made = []
    for number in PAGES:
        peers = {name: f"{name} {number}" for name in PEERS}
        first = "Django 1" if number == 1 else "ours 1"
        is_paired = number > 1
        others = {f"DRF {number}": "DRF's cursor", f"count {number}": "alchemy with its total"}
        also = ", ".join(
            f"{words} {significant(timings.seconds(name) * 1e3):,} ms"
            for name, words in others.items()
            if name in timings.samples
        )
        made.append(
            row(
                DATABASE,
                f"page {number:,} of {SIZE} by {', '.join(order)}",
                unit="ms",
                figures={name: timings.seconds(each) * 1e3 for name, each in peers.items()},
                spread=timings.spread(peers["ours"]),
                ratio=timings.ratio(peers["ours"], first),
                cpu_ratio=timings.cpu_ratio(peers["ours"], first) if is_paired else None,
                queries="/".join(str(queries[peers[name]]) for name in PEERS[:3]),
                bar=Bar(2, "of page 1") if is_paired else None,
                also=also,
                detail=timings.only(peers.values()).as_json(),
            )
        )
    return made


def _offset(number: int) -> int:
    return (number - 1) * SIZE


def _row_before(order: Sequence[str], number: int) -> Article | None:
    if number == 1:
        return None
    before: Article = PLAIN.objects.order_by(*order)[_offset(number) - 1]
    return before


def _page(order: Sequence[str], before: Article | None) -> Callable[[], list[Article]]:
    articles = Repository.for_model(Article)
    keyset = Keyset.of(Article, order)
    cursor = None if before is None else keyset.cursor(before, is_backward=False)
    return lambda: articles.page(size=SIZE, order_by=order, cursor=cursor).object_list


def _django_page(order: Sequence[str], number: int) -> Callable[[], list[Article]]:
    def page() -> list[Article]:
        return list(Paginator(PLAIN.objects.order_by(*order), SIZE).page(number).object_list)

    return page


def _alchemy_page(alchemy: Alchemy, order: Sequence[str], number: int) -> Work:
    return lambda: alchemy.page(order, size=SIZE, offset=_offset(number))


def _drf_page(order: tuple[str, str], before: Article | None) -> Work:
    position = urlencode({"p": str(getattr(before, order[0].removeprefix("-")))})
    token = base64.b64encode(position.encode()).decode()
    request = Request(APIRequestFactory().get("/", {"cursor": token}))

    def page() -> object:
        paginator = CursorPagination()
        paginator.ordering = order
        paginator.page_size = SIZE
        return paginator.paginate_queryset(PLAIN.objects.all(), request)

    return page


def _raw_page(order: Sequence[str], before: Article | None) -> Work:
    column = order[0].removeprefix("-")
    way, beyond = (" DESC", "<") if order[0].startswith("-") else ("", ">")
    value = getattr(before, column, None)
    if before is None:
        where, values = "", []
    elif value is None:
        where, values = f" WHERE {column} IS NULL AND id {beyond} %s", [before.pk]
    else:
        where, values = f" WHERE ({column}, id) {beyond} (%s, %s)", [value, before.pk]
    sql = f"SELECT {COLUMNS} FROM {TABLE}{where} ORDER BY {column}{way}, id{way} LIMIT {SIZE + 1}"
    return lambda: fetch(sql, values)


def _check_same(ours: Callable[[], Any], theirs: Callable[[], Any]) -> None:
    if ours() != theirs():
        raise SystemExit("The page by keyset is not the page by offset: nothing to compare.")
