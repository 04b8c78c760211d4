"""More of the catalogue: ways to loop, places a query hides in, async code, threads and writes."""

import asyncio
import csv
import functools
import io
import itertools
import logging
import operator
import re
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from asgiref.sync import async_to_sync, sync_to_async
from django.db import connection, connections, transaction
from django.db.models import F, aprefetch_related_objects
from django.db.models.signals import post_delete, post_init, pre_save

from tests.queries.guilty import in_async, marked, name_of, path_of, shape
from tests.testapp.models import (
    Branch,
    Critique,
    Frigate,
    Genre,
    Nation,
    Novel,
    Novelist,
    Port,
    Ship,
    Sticky,
    Synopsis,
)

NOVELIST = ("Novel.novelist", '.select_related("novelist")')

# Functions that loop


@shape(*NOVELIST)
def reduce() -> None:
    functools.reduce(lambda text, novel: text + novel.novelist.name, Novel.objects.all(), "")  # N+1


@shape(*NOVELIST)
def filter_by_a_relation() -> None:
    list(filter(lambda novel: novel.novelist.name, Novel.objects.all()))  # N+1


@shape(*NOVELIST)
def groups() -> None:
    rows = Novel.objects.all()
    for _, group in itertools.groupby(rows, key=lambda novel: novel.novelist.name):  # N+1
        list(group)


@shape(*NOVELIST)
def greatest_by_a_relation() -> None:
    max(Novel.objects.all(), key=lambda novel: novel.novelist.name)  # N+1


@shape(*NOVELIST)
def attribute_getter() -> None:
    list(map(operator.attrgetter("novelist.name"), Novel.objects.all()))  # N+1


@shape(*NOVELIST)
def all_of_them() -> None:
    all(novel.novelist.name for novel in Novel.objects.all())  # N+1


@shape(*NOVELIST)
def set_of_names() -> None:
    {novel.novelist.name for novel in Novel.objects.all()}  # N+1


@shape(*NOVELIST)
def dict_of_names() -> None:
    {novel.pk: novel.novelist.name for novel in Novel.objects.all()}  # N+1


@shape(*NOVELIST)
def condition_of_a_comprehension() -> None:
    [novel.pk for novel in Novel.objects.all() if novel.novelist.name]  # N+1


@shape(*NOVELIST)
def nested_comprehension() -> None:
    [[novel.novelist.name for novel in rows] for rows in (Novel.objects.all(),)]  # N+1


@shape(*NOVELIST)
def joined_text() -> None:
    ", ".join(novel.novelist.name for novel in Novel.objects.all())  # N+1


@shape(*NOVELIST)
def format_of_an_attribute() -> None:
    for novel in Novel.objects.all():
        f"{novel.novelist.name}"  # N+1


@shape(*NOVELIST, line=marked(Novel.__str__, "# mark: str"))
def rows_of_a_csv_file() -> None:
    csv.writer(io.StringIO()).writerows([novel.pk, novel] for novel in Novel.objects.all())


@shape(*NOVELIST, line=marked(Novel.__str__, "# mark: str"))
def lines_of_a_log() -> None:
    logger = logging.getLogger("tests.queries")
    logger.addHandler(handler := logging.StreamHandler(io.StringIO()))
    try:
        for novel in Novel.objects.all():
            logger.warning("read %s", novel)
    finally:
        logger.removeHandler(handler)


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def replacement_in_a_text() -> None:
    text = " ".join(str(novel.pk) for novel in Novel.objects.all())
    re.sub(r"\d+", lambda match: Novel.objects.get(pk=match[0]).title, text)  # N+1


@shape(*NOVELIST)
def starmap_and_chain() -> None:
    pairs = zip(Novel.objects.all(), itertools.count(), strict=False)
    list(itertools.starmap(lambda novel, _: novel.novelist.name, pairs))  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def cache_of_a_function() -> None:
    @functools.lru_cache
    def novel_of(pk: int) -> Novel:
        return Novel.objects.get(pk=pk)  # N+1

    for synopsis in Synopsis.objects.all():
        novel_of(synopsis.novel_id)  # type: ignore[attr-defined]


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        return function(*args)

    return wrapped


@logged
def inner(novel: Novel) -> str:
    return novel.novelist.name  # N+1


def outer(novel: Novel) -> str:
    return str(inner(novel))


@shape(*NOVELIST, line=marked(inner))
def helper_two_deep_behind_a_decorator() -> None:
    for each in map(functools.partial(outer), Novel.objects.all()):
        str(each)


class Catalogue:
    """Loops in a class of its own."""

    def __init__(self) -> None:
        self.rows = list(Novel.objects.all())

    def __getitem__(self, number: int) -> str:
        return self.rows[number].novelist.name  # N+1


@shape(*NOVELIST, line=marked(Catalogue))
def sequence_of_ones_own() -> None:
    list(Catalogue())  # type: ignore[call-overload]


@shape(*NOVELIST)
def error_expected_in_a_loop() -> None:
    for novel in Novel.objects.all():
        try:
            _ = novel.novelist.name  # N+1
        except Novelist.DoesNotExist:
            continue


@shape(*NOVELIST)
def savepoint_for_each_row() -> None:
    for novel in Novel.objects.all():
        with transaction.atomic():
            _ = novel.novelist.name  # N+1


@shape(*NOVELIST)
def queue_in_memory() -> None:
    rows = {novel.pk: novel for novel in Novel.objects.all()}
    while rows:
        _, novel = rows.popitem()
        _ = novel.novelist.name  # N+1


def descend(branch: Branch) -> Iterator[Branch]:
    yield branch
    for child in branch.children.all():  # N+1
        yield from descend(child)


@shape("Branch.children", '.prefetch_related("children__children")', line=marked(descend))
def recursion_of_generators() -> None:
    list(descend(Branch.objects.get(parent=None)))


@shape("Branch.children", '.prefetch_related("children__children")')
def tree_by_a_stack() -> None:
    stack = [Branch.objects.get(parent=None)]
    while stack:
        stack.extend(stack.pop().children.all())  # N+1


@shape("Branch.parent", '.select_related("parent")')
def ancestors_by_a_loop() -> None:
    branch = Branch.objects.filter(name="leaf 0").order_by("pk")[0]
    while branch.parent:  # N+1
        branch = branch.parent


def level(parents: list[Branch]) -> None:
    for parent in parents:
        level(list(Branch.objects.filter(parent=parent)))  # N+1


@shape("Branch.objects.filter()", "Branch.objects.filter(parent_id__in=…)", line=marked(level))
def recursion_by_a_queryset_of_its_own() -> None:
    level(list(Branch.objects.filter(parent=None)))


@shape("Branch.parent", '.select_related("parent__parent")', line=marked(path_of))
def paths_of_all_leaves() -> None:
    [path_of(branch) for branch in Branch.objects.filter(name="leaf 0")]


# Where a query hides


@shape(
    "Ship.berths.count()",
    '.annotate(berths_count=Count("berths", distinct=True))',
    line=marked(Ship, "# mark: crew"),
)
def cached_property_of_each_row() -> None:
    for ship in Ship.objects.all():
        _ = ship.crew


@shape("Ship.home", '.select_related("home")', line=marked(Ship, "# mark: url"))
def address_of_each_row() -> None:
    [ship.get_absolute_url() for ship in Ship.objects.all()]


@shape("Frigate.home", '.select_related("home")', line=marked(Frigate, "# mark: save"))
def save_that_reads() -> None:
    for frigate in Frigate.objects.filter(kind="f"):
        frigate.save()


def on_init(instance: Ship, **_: object) -> None:
    _ = instance.home  # type: ignore[assignment]  # N+1


@shape("Ship.home", "follow home later", line=marked(on_init))
def signal_of_each_row_read() -> None:
    post_init.connect(on_init, sender=Ship)
    try:
        list(Ship.objects.all())
    finally:
        post_init.disconnect(on_init, sender=Ship)


def on_init_of_another(novels: list[Novel]) -> None:
    def follow(**_: object) -> None:
        _ = novels.pop().novelist  # N+1

    post_init.connect(follow, sender=Genre)
    try:
        list(Genre.objects.all()[: len(novels)])
    finally:
        post_init.disconnect(follow, sender=Genre)


@shape(*NOVELIST, line=marked(on_init_of_another))
def signal_that_follows_another_row() -> None:
    on_init_of_another(list(Novel.objects.all()))


def on_pre_save(instance: Critique, **_: object) -> None:
    Critique.objects.filter(pk=instance.pk).values("stars").first()  # N+1


@shape("Critique.objects.first()", "Critique.objects.in_bulk(ids)", line=marked(on_pre_save))
def signal_that_reads_the_old_row() -> None:
    pre_save.connect(on_pre_save, sender=Critique)
    try:
        for critique in Critique.objects.all():
            critique.save()
    finally:
        pre_save.disconnect(on_pre_save, sender=Critique)


def on_delete(instance: Critique, **_: object) -> None:
    _ = instance.novel.title  # N+1


@shape("Critique.novel", '.prefetch_related("novel")', line=marked(on_delete))
def signal_of_a_bulk_delete() -> None:
    post_delete.connect(on_delete, sender=Critique)
    try:
        Critique.objects.all().delete()
    finally:
        post_delete.disconnect(on_delete, sender=Critique)


@shape("Critique.novel", '.select_related("novel")')
def callbacks_after_a_commit() -> None:
    callbacks = [lambda c=c: c.novel.title for c in Critique.objects.all()]  # N+1
    for callback in callbacks:
        callback()


@shape(*NOVELIST)
def rows_pickled_and_back() -> None:
    import pickle

    for novel in pickle.loads(pickle.dumps(list(Novel.objects.all()))):
        _ = novel.novelist.name  # N+1


# Async and threads


@shape(*NOVELIST)
@in_async
async def sync_to_async_of_a_lambda() -> None:
    async for novel in Novel.objects.all():
        await sync_to_async(lambda novel=novel: novel.novelist.name)()  # N+1


@shape("Novel.critiques.first()", '.prefetch_related("critiques")')
@in_async
async def async_first() -> None:
    async for novel in Novel.objects.all():
        await novel.critiques.afirst()  # N+1


@shape("Novel.critiques", '.prefetch_related("critiques")')
@in_async
async def async_comprehension() -> None:
    [[c async for c in novel.critiques.all()] async for novel in Novel.objects.all()]  # N+1


@shape("Genre.objects.exists()", "set(Genre.objects.filter(name__in=…)")
@in_async
async def async_exists() -> None:
    for name in "abc":
        await Genre.objects.filter(name=name).aexists()  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def group_of_tasks_of_methods() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]
    async with asyncio.TaskGroup() as group:  # N+1
        for pk in pks:
            group.create_task(Novel.objects.aget(pk=pk))


async def look_up(pk: int) -> Novel:
    novel = await Novel.objects.filter(pk=pk).afirst()  # N+1
    assert novel is not None
    return novel


@shape("Novel.objects.first()", "Novel.objects.in_bulk(ids)", line=marked(look_up))
@in_async
async def group_of_tasks() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]
    async with asyncio.TaskGroup() as group:
        for pk in pks:
            group.create_task(look_up(pk))


@shape("Novel.objects.first()", "Novel.objects.in_bulk(ids)", line=marked(look_up))
@in_async
async def tasks_as_they_are_done() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]
    for each in asyncio.as_completed([look_up(pk) for pk in pks]):
        await each


@shape("Novel.novelist", '.select_related("novelist")', line=marked(name_of))
@in_async
async def gather_of_sync_to_async() -> None:
    rows = [novel async for novel in Novel.objects.all()]
    await asyncio.gather(*(sync_to_async(name_of)(novel) for novel in rows))


@shape(*NOVELIST, line=marked(name_of))
@in_async
async def loop_in_a_gather_of_two() -> None:
    async def names() -> None:
        async for novel in Novel.objects.all():
            await sync_to_async(name_of)(novel)

    await asyncio.gather(names(), Genre.objects.acount())


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def pairs_gathered_in_a_loop() -> None:
    pks = [novel.pk async for novel in Novel.objects.all()]
    for one, other in itertools.pairwise(pks):
        await asyncio.gather(  # N+1
            Novel.objects.aget(pk=one),
            Novel.objects.aget(pk=other),
        )


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def lookup_with_a_time_limit() -> None:
    async for synopsis in Synopsis.objects.all():
        await asyncio.wait_for(Novel.objects.aget(pk=synopsis.novel_id), 60)  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def lookup_that_is_shielded() -> None:
    async for synopsis in Synopsis.objects.all():
        await asyncio.shield(Novel.objects.aget(pk=synopsis.novel_id))  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def tasks_awaited_one_by_one() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]
    tasks = [asyncio.create_task(Novel.objects.aget(pk=pk)) for pk in pks]
    try:
        for task in tasks:
            await task  # N+1
    finally:
        [task.exception() for task in tasks if task.done()]


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def tasks_waited_for() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]
    tasks = [asyncio.create_task(Novel.objects.aget(pk=pk)) for pk in pks]
    done, _ = await asyncio.wait(tasks)  # N+1
    [task.exception() for task in done]


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def methods_as_they_are_done() -> None:
    pks = [each.novel_id async for each in Synopsis.objects.all()]
    for each in asyncio.as_completed([Novel.objects.aget(pk=pk) for pk in pks]):
        await each  # N+1


@shape("Novel.critiques.count()", '.annotate(critiques_count=Count("critiques", distinct=True))')
@in_async
async def group_of_tasks_of_threads() -> None:
    rows = [novel async for novel in Novel.objects.all()]
    async with asyncio.TaskGroup() as group:  # N+1
        for novel in rows:
            group.create_task(sync_to_async(novel.critiques.count)())


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
@in_async
async def workers_of_a_queue() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    async for synopsis in Synopsis.objects.all():
        queue.put_nowait(synopsis.novel_id)

    async def work() -> None:
        while not queue.empty():
            await Novel.objects.aget(pk=await queue.get())  # N+1

    async with asyncio.TaskGroup() as group:
        group.create_task(work())
        group.create_task(work())


async def names_of_all() -> AsyncIterator[str]:
    async for novel in Novel.objects.all():
        yield (await sync_to_async(getattr)(novel, "novelist")).name  # N+1


@shape(*NOVELIST, line=marked(names_of_all))
@in_async
async def async_generator() -> None:
    [name async for name in names_of_all()]


@shape("Novel.critiques.prefetch()", "prefetch_related_objects(rows")
@in_async
async def async_prefetch_one_by_one() -> None:
    async for novel in Novel.objects.all():
        await aprefetch_related_objects([novel], "critiques")  # N+1


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)")
def coroutine_run_for_each_row() -> None:
    async def title_of(pk: int) -> str:
        return (await Novel.objects.aget(pk=pk)).title  # N+1

    for novel in Novel.objects.all():
        async_to_sync(title_of)(novel.pk)


class Titles(dict[int, str]):
    """A cache that fills itself."""

    def __missing__(self, pk: int) -> str:
        self[pk] = Novel.objects.get(pk=pk).title  # N+1
        return self[pk]


@shape("Novel.objects.get()", "Novel.objects.in_bulk(ids)", line=marked(Titles))
def dict_that_fills_itself() -> None:
    titles = Titles()
    [titles[each.novel_id] for each in Synopsis.objects.all()]


@shape("Novel.refresh_from_db()", "Novel.objects.filter(pk__in=…)")
@in_async
async def async_refresh() -> None:
    async for novel in Novel.objects.all():
        await novel.arefresh_from_db()  # N+1


def in_thread(pk: int) -> None:
    try:
        Novel.objects.filter(pk=pk).first()  # N+1
    finally:
        connections.close_all()


@shape("Novel.objects.first()", "Novel.objects.in_bulk(ids)", line=marked(in_thread))
def threads_that_work_in_this_context() -> None:
    with ThreadPoolExecutor(2) as pool:
        pks = [novel.pk for novel in Novel.objects.all()]
        for job in [pool.submit(copy_context().run, in_thread, pk) for pk in pks]:
            job.result()


# Writes


@shape("Novel.save()", "Novel.objects.bulk_update(rows, [fields])", is_write=True)
def save_of_one_field() -> None:
    for novel in Novel.objects.all():
        novel.save(update_fields=["title"])  # N+1


@shape("Novel.save()", "Novel.objects.bulk_update(rows, [fields])", is_write=True)
def save_of_an_expression() -> None:
    for novel in Novel.objects.all():
        novel.title = F("body")
        novel.save()  # N+1


@shape(
    "Genre.objects.bulk_create()",
    "one Genre.objects.bulk_create(rows)",
    is_write=True,
    fixed=lambda: Genre.objects.bulk_create([Genre(name=name) for name in "abc"]),
)
def bulk_create_of_one_row() -> None:
    for name in "abc":
        Genre.objects.bulk_create([Genre(name=name)])  # N+1


@shape("Novel.genres.remove()", "Novel.genres.through", is_write=True)
def remove_in_a_loop() -> None:
    genre = Genre.objects.order_by("pk")[1]
    for novel in Novel.objects.all():
        novel.genres.remove(genre)  # N+1


@shape(
    "Novel.genres.clear()",
    "one Novel.genres.through.objects.filter(",
    is_write=True,
    fixed=lambda: Novel.genres.through.objects.filter(novel__in=Novel.objects.all()).delete(),
)
def clear_in_a_loop() -> None:
    for novel in Novel.objects.all():
        novel.genres.clear()  # N+1


@shape(
    "Port.ships.clear()",
    "one Ship.objects.filter(pk__in=ids).update(home=None)",
    is_write=True,
    fixed=lambda: Ship.objects.filter(home__in=Port.objects.all()).update(home=None),
)
def clear_of_rows_that_refer_here() -> None:
    for port in Port.objects.all():
        port.ships.clear()  # N+1


@shape("Sticky.objects.delete()", "Sticky.objects.filter(pk__in=ids).delete()", is_write=True)
def delete_of_querysets() -> None:
    for pk in [sticky.pk for sticky in Sticky.objects.all()]:
        Sticky.objects.filter(pk=pk).delete()  # N+1


@shape("Novel.critiques.update()", "Critique.objects.filter(", is_write=True)
def update_of_related_rows() -> None:
    for novel in Novel.objects.all():
        novel.critiques.update(stars=F("stars") + 1)  # N+1


@shape(
    "Novel.critiques.delete()",
    "one Critique.objects.filter(novel__in=…).delete()",
    is_write=True,
    fixed=lambda: Critique.objects.filter(novel__in=Novel.objects.all()).delete(),
)
def delete_of_related_rows() -> None:
    for novel in Novel.objects.all():
        novel.critiques.filter(stars=1).delete()  # N+1


@shape("Port.objects.get_or_create()", "Port.objects.filter(name__in=…)")
def get_or_create_of_new_rows() -> None:
    for name in "abc":
        Port.objects.get_or_create(name=name, defaults={"code": name})  # N+1


@shape("Nation.save()", "Nation.objects.bulk_create(rows)", is_write=True)
@in_async
async def async_save() -> None:
    for name in "abc":
        await Nation(name=name).asave()  # N+1


@shape("Nation.objects.create()", "Nation.objects.bulk_create(rows)", is_write=True)
@in_async
async def async_create() -> None:
    for name in "abc":
        await Nation.objects.acreate(name=name)  # N+1


@shape("raw SQL", "executemany()", is_write=True)
def insert_that_returns_its_key() -> None:
    with connection.cursor() as cursor:
        for name in "abc":
            sql = "INSERT INTO testapp_genre (name) VALUES (%s) RETURNING id"
            cursor.execute(sql, [name])  # N+1


@shape(
    "Frigate.save()",
    "Frigate.objects.bulk_update(rows, [fields])",
    is_write=True,
    line=marked(Frigate, "super().save"),
)
def save_of_an_overridden_model() -> None:
    for frigate in Frigate.objects.select_related("home").filter(kind="f"):
        frigate.save()
