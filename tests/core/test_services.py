"""Services: built from their constructors' types, replaced in tests, kept as long as they may."""

import asyncio
import contextvars
import functools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import dishka
import pytest
import svcs
from asgiref.sync import async_to_sync, sync_to_async
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory

from dbpatterns import services as shared
from dbpatterns.errors import UsageError
from dbpatterns.services import Scope, Services, request_scope, request_scope_middleware


class Clock(ABC):
    @abstractmethod
    def now(self) -> str: ...


class SystemClock(Clock):
    def now(self) -> str:
        return "now"


class FakeClock(Clock):
    def now(self) -> str:
        return "then"


class Mailer(Protocol):
    def send(self, text: str) -> None: ...


class SilentMailer(Mailer):
    def send(self, text: str) -> None:
        pass


class Posts:
    def __init__(self, *, using: str | None = None) -> None:
        self.using = using


class PostService:
    def __init__(self, posts: Posts, clock: Clock, /, *, mailer: "Mailer | None" = None) -> None:
        self.posts, self.clock, self.mailer = posts, clock, mailer


class Session:
    pass


class Work:
    def __init__(self, session: Session) -> None:
        self.session = session


class Loop:
    def __init__(self, back: "Back") -> None:
        self.back = back


class Back:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop


class Holder:
    def __init__(self, work: Work) -> None:
        self.work = work


class Untyped:
    def __init__(self, posts, limit=10) -> None:  # type: ignore[no-untyped-def]
        pass


class Variadic:
    def __init__(self, *parts: Posts) -> None:
        pass


class Limited:
    def __init__(self, limit=10, size: int = 20, posts: Posts | None = None) -> None:  # type: ignore[no-untyped-def]
        self.limit, self.size, self.posts = limit, size, posts


class Unreadable:
    def __init__(self, posts: "Nowhere") -> None:  # type: ignore[name-defined]  # noqa: F821
        pass


class Either:
    def __init__(self, choice: Posts | Session) -> None:
        pass


@pytest.fixture
def services() -> Services:
    made = Services()
    made.bind(Clock, SystemClock)
    return made


def test_a_service_is_built_from_the_types_of_its_constructor(services: Services) -> None:
    service = services.resolve(PostService)
    assert type(service.posts) is Posts
    assert type(service.clock) is SystemClock
    assert services.resolve(PostService) is not service


def test_a_parameter_with_a_default_keeps_it_until_its_type_is_bound(services: Services) -> None:
    assert services.resolve(PostService).mailer is None
    services.bind(Mailer, SilentMailer)
    assert type(services.resolve(PostService).mailer) is SilentMailer
    limited = services.resolve(Limited)
    assert (limited.limit, limited.size, limited.posts) == (10, 20, None)


def test_a_function_is_a_factory_whose_parameters_are_injected(services: Services) -> None:
    def archive(posts: Posts, clock: Clock) -> Posts:
        posts.using = clock.now()
        return posts

    services.bind(PostService, lambda: PostService(Posts(using="x"), FakeClock()))
    assert services.resolve(PostService).posts.using == "x"
    other = Services()
    other.bind(Clock, FakeClock)
    other.bind(Session, archive)
    with pytest.raises(UsageError, match=r"its factory made <.*Posts object.*which is no Session"):
        other.resolve(Session)


def test_a_factory_that_forgets_to_return_is_named() -> None:
    services = Services()
    services.bind(Mailer, lambda: None)
    with pytest.raises(UsageError, match="Cannot build Mailer: its factory made None"):
        services.resolve(Mailer)


def test_a_later_binding_replaces_one_and_what_was_built_with_it(services: Services) -> None:
    services.bind(PostService, scope=Scope.SINGLETON)
    services.bind(Session, scope=Scope.SINGLETON)
    first, session = services.resolve(PostService), services.resolve(Session)
    services.bind(Clock, FakeClock)
    assert services.resolve(PostService) is not first
    assert services.resolve(PostService).clock.now() == "then"
    assert services.resolve(Session) is session


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (Mailer, "Cannot build Mailer: nothing that can be built is bound to it; say bind(Mailer"),
        (int, "Cannot build int: nothing"),
        (HttpRequest, "Cannot build HttpRequest: nothing"),
        (list[int], "Cannot build list[int]: nothing"),
        (Either, f"Cannot build Either -> {Posts | Session}: nothing"),
        (Loop, "Cannot build Loop -> Back -> Loop: it needs itself"),
        (Untyped, "Cannot build Untyped: its parameter 'posts' has no type to inject"),
        (Variadic, "Cannot build Variadic: its parameter 'parts' has no type to inject"),
        (Unreadable, "Cannot build Unreadable: name 'Nowhere' is not defined"),
        (Work, "Cannot build Work -> Session: it lives for one request, and none is active"),
        (Holder, "Cannot build Holder -> Work -> Session: a singleton would keep one request's"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_cannot_be_built_is_refused_with_the_chain(wanted: Any, message: str) -> None:
    services = Services()
    services.bind(Session, scope=Scope.REQUEST)
    services.bind(Holder, scope=Scope.SINGLETON)
    with pytest.raises(UsageError) as refused:
        services.resolve(wanted)
    assert str(refused.value).startswith(message)


def test_problems_finds_before_start_what_resolve_would_refuse() -> None:
    services = Services()
    services.bind(Session, scope=Scope.REQUEST)
    services.bind(Work)
    services.bind(Holder, scope=Scope.SINGLETON)
    services.bind(PostService)
    services.bind(Loop)
    services.bind(Limited)
    found = list(services.problems())
    assert [each.partition(":")[0] for each in found] == [
        "Cannot build Holder -> Work -> Session",
        "Cannot build PostService -> Clock",
        "Cannot build Loop -> Back -> Loop",
    ]
    services.bind(Clock, SystemClock)
    services.bind(Holder)
    services.bind(Loop, lambda: Loop(None))  # type: ignore[arg-type]
    assert list(services.problems()) == []


def test_problems_looks_into_a_default_whose_type_is_bound() -> None:
    services = Services()
    services.bind(Posts, lambda clock: Posts())
    services.bind(Limited)
    assert [each.partition(":")[0] for each in services.problems()] == [
        "Cannot build Posts",
        "Cannot build Limited -> Posts",
    ]


def test_a_shared_dependency_is_one_problem_below_one_binding() -> None:
    class Both:
        def __init__(self, one: Holder, other: Work) -> None:
            pass

    services = Services()
    services.bind(Session, lambda clock: Session())
    services.bind(Both)
    assert len(list(services.problems())) == 2


def test_a_factory_that_resolves_is_part_of_the_chain() -> None:
    services = Services()
    services.bind(Session, scope=Scope.REQUEST)
    services.bind(Clock, lambda: services.resolve(Session), scope=Scope.SINGLETON)
    with pytest.raises(UsageError, match="Clock -> Session: a singleton would keep"):
        services.resolve(Clock)
    services.bind(Clock, lambda: services.resolve(Clock))
    with pytest.raises(UsageError, match="Clock -> Clock: it needs itself"):
        services.resolve(Clock)
    services.bind(Clock, SystemClock)
    assert services.resolve(Clock).now() == "now"  # nothing is left over of the failures


def test_an_async_factory_is_refused() -> None:
    async def clock() -> Clock:
        return SystemClock()

    async def clocks() -> Any:
        yield SystemClock()

    for factory in (clock, clocks):
        with pytest.raises(UsageError, match="factory of Clock is async"):
            Services().bind(Clock, factory)


# Overrides


def test_a_patched_name_does_not_reach_what_was_built_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept = PostService(Posts(), SystemClock())
    monkeypatch.setattr(f"{__name__}.SystemClock", FakeClock)
    assert kept.clock.now() == "now"


def test_an_override_reaches_every_depth_and_ends_with_its_block(services: Services) -> None:
    fake, inner = FakeClock(), FakeClock()
    with services.override(Clock, fake):
        assert services.resolve(PostService).clock is fake
        with services.override(Clock, inner), services.override(Posts, "duck"):
            assert services.resolve(PostService).clock is inner
            assert services.resolve(PostService).posts == "duck"  # type: ignore[comparison-overlap]
        assert services.resolve(PostService).clock is fake
    assert type(services.resolve(PostService).clock) is SystemClock


def test_an_override_ends_with_an_error_too(services: Services) -> None:
    with pytest.raises(KeyError), services.override(Clock, FakeClock()):
        raise KeyError
    assert type(services.resolve(Clock)) is SystemClock


def test_an_override_needs_an_object(services: Services) -> None:
    with (
        pytest.raises(UsageError, match=r"given the class FakeClock: give an object"),
        services.override(Clock, FakeClock),
    ):
        pass  # never entered


def test_an_override_of_a_type_with_a_default_beats_the_default(services: Services) -> None:
    services.bind(PostService, scope=Scope.SINGLETON)
    kept = services.resolve(PostService)
    mailer = SilentMailer()
    with services.override(Mailer, mailer):
        assert services.resolve(PostService).mailer is mailer
    assert services.resolve(PostService) is kept


def test_an_override_beats_kept_objects_and_leaks_into_none(services: Services) -> None:
    services.bind(Clock, SystemClock, scope=Scope.SINGLETON)
    services.bind(PostService, scope=Scope.SINGLETON)
    services.bind(Session, scope=Scope.SINGLETON)
    fake, kept, session = FakeClock(), services.resolve(PostService), services.resolve(Session)
    with services.override(Clock, fake):
        faked = services.resolve(PostService)
        assert faked.clock is fake
        assert services.resolve(PostService) is faked  # a singleton still
        assert services.resolve(Session) is session  # which no clock is in
    assert services.resolve(PostService) is kept


def test_a_singleton_first_built_under_an_override_keeps_no_fake(services: Services) -> None:
    services.bind(PostService, lambda: PostService(Posts(), services.resolve(Clock)))

    def holder(service: PostService) -> Holder:
        return Holder(service)  # type: ignore[arg-type]

    services.bind(Holder, holder, scope=Scope.SINGLETON)
    services.bind(Session, scope=Scope.SINGLETON)
    with services.override(Clock, FakeClock()):
        assert services.resolve(Holder).work.clock.now() == "then"  # type: ignore[attr-defined]
        session = services.resolve(Session)
    assert services.resolve(Holder).work.clock.now() == "now"  # type: ignore[attr-defined]
    assert services.resolve(Session) is session


def test_a_singleton_knows_its_graph_through_others_that_were_kept(services: Services) -> None:
    services.bind(PostService, scope=Scope.SINGLETON)
    services.resolve(PostService)

    def holder(service: PostService) -> Holder:
        return Holder(service)  # type: ignore[arg-type]

    services.bind(Holder, holder, scope=Scope.SINGLETON)
    services.resolve(Holder)
    with services.override(Clock, FakeClock()):
        assert services.resolve(Holder).work.clock.now() == "then"  # type: ignore[attr-defined]


def test_an_override_reaches_threads_and_tasks_of_its_context_only(services: Services) -> None:
    fake, both_inside = FakeClock(), threading.Barrier(2)

    def clock() -> Clock:
        return services.resolve(Clock)

    async def under_override() -> list[Clock]:
        with services.override(Clock, fake):
            task = asyncio.create_task(sync_to_async(clock)())
            thread = sync_to_async(clock, thread_sensitive=False)()
            return [clock(), await task, await thread]

    def other_thread() -> Clock:
        both_inside.wait(timeout=30)
        return clock()

    assert async_to_sync(under_override)() == [fake] * 3
    with ThreadPoolExecutor(1) as pool, services.override(Clock, fake):
        other = pool.submit(other_thread)
        both_inside.wait(timeout=30)
        assert type(other.result()) is SystemClock


def test_two_tasks_override_without_meeting(services: Services) -> None:
    async def main() -> list[bool]:
        both_inside = asyncio.Barrier(2)

        async def one(fake: Clock) -> bool:
            with services.override(Clock, fake):
                await both_inside.wait()
                return services.resolve(Clock) is fake

        return list(await asyncio.gather(one(FakeClock()), one(FakeClock())))

    assert asyncio.run(main()) == [True, True]


# Kept objects


THREADS = 8


def race(function: Callable[[], Any]) -> list[Any]:
    start = threading.Barrier(THREADS)

    def run() -> Any:
        start.wait(timeout=30)
        return function()

    with ThreadPoolExecutor(THREADS) as pool:
        return [each.result() for each in [pool.submit(run) for _ in range(THREADS)]]


class Turnstile:
    """A lock that counts who stands before it."""

    def __init__(self, lock: Any) -> None:
        self.lock, self.arrivals = lock, threading.Semaphore(0)

    def __enter__(self) -> None:
        self.arrivals.release()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def wait_for_all(self) -> None:
        for _ in range(THREADS):
            assert self.arrivals.acquire(timeout=30)


def test_a_cached_function_builds_many_under_a_race() -> None:
    all_inside = threading.Barrier(THREADS)

    @functools.cache
    def session() -> Session:
        all_inside.wait(timeout=30)
        return Session()

    assert len({id(each) for each in race(session)}) == THREADS


def test_a_singleton_is_one_under_a_race() -> None:
    services = Services()
    made: list[Session] = []

    def build() -> Session:
        lock.wait_for_all()
        made.append(Session())
        return made[-1]

    services.bind(Session, build, scope=Scope.SINGLETON)
    lock = services._singletons.lock = Turnstile(services._singletons.lock)  # type: ignore[assignment]
    assert len({id(each) for each in race(lambda: services.resolve(Session))}) == 1
    assert len(made) == 1


def test_a_singleton_whose_factory_fails_is_tried_again() -> None:
    services, attempts = Services(), []

    def build() -> Session:
        attempts.append(1)
        if len(attempts) == 1:
            raise OSError("not yet")
        return Session()

    services.bind(Session, build, scope=Scope.SINGLETON)
    with pytest.raises(OSError, match="not yet"):
        services.resolve(Session)
    assert services.resolve(Session) is services.resolve(Session)


def test_a_request_has_one_of_each_and_closes_it_last_first() -> None:
    services, closed = Services(), []

    def session() -> Iterator[Session]:
        yield Session()
        closed.append("session")

    def work(session: Session) -> Iterator[Work]:
        yield Work(session)
        closed.append("work")

    services.bind(Session, session, scope=Scope.REQUEST)
    services.bind(Work, work, scope=Scope.REQUEST)

    def one_request() -> None:
        with request_scope():
            use_and_fail()

    def use_and_fail() -> None:
        first = services.resolve(Work)
        assert services.resolve(Work) is first
        assert services.resolve(Session) is first.session
        with request_scope():
            assert services.resolve(Session) is not first.session
        assert closed == ["session"]
        raise KeyError

    with pytest.raises(KeyError):
        one_request()
    assert closed == ["session", "work", "session"]
    with pytest.raises(UsageError, match="none is active"):
        services.resolve(Work)
    with pytest.raises(UsageError, match=r"factory of Session yields: bind it with Scope\.REQUEST"):
        services.bind(Session, session)


def test_a_request_has_one_of_each_under_a_race() -> None:
    services = Services()
    made: list[Session] = []

    def build() -> Session:
        lock.wait_for_all()
        made.append(Session())
        return made[-1]

    services.bind(Session, build, scope=Scope.REQUEST)
    with request_scope():
        home = shared._request.get()
        lock = home.lock = Turnstile(home.lock)  # type: ignore[union-attr]
        context = contextvars.copy_context()
        found = race(lambda: context.copy().run(services.resolve, Session))
        assert len({id(each) for each in found}) == 1
    assert len(made) == 1


def test_a_task_that_outlives_its_request_gets_nothing_of_it() -> None:
    services = Services()
    services.bind(Session, scope=Scope.REQUEST)

    async def late(ended: asyncio.Event) -> Session:
        await ended.wait()
        return services.resolve(Session)

    async def main() -> None:
        ended = asyncio.Event()
        with request_scope():
            services.resolve(Session)
            task = asyncio.create_task(late(ended))
        ended.set()
        await task

    with pytest.raises(UsageError, match="none is active"):
        asyncio.run(main())


def test_what_an_override_had_built_for_a_request_ends_with_the_request() -> None:
    services = Services()
    services.bind(Work, scope=Scope.REQUEST)
    with services.override(Session, Session()):
        with request_scope():
            services.resolve(Work)
            context = contextvars.copy_context()
        with pytest.raises(UsageError, match="none is active"):
            context.run(services.resolve, Work)


def test_an_override_within_a_request_is_forgotten_with_its_block() -> None:
    services = Services()
    services.bind(Work, scope=Scope.REQUEST)
    fake = Session()
    with request_scope():
        with services.override(Session, fake):
            assert services.resolve(Work).session is fake
            with request_scope():
                assert services.resolve(Work).session is fake
        assert services.resolve(Work).session is not fake


def test_two_sets_of_services_share_a_request_but_no_objects() -> None:
    one, other = Services(), Services()
    one.bind(Session, scope=Scope.REQUEST)
    other.bind(Session, scope=Scope.REQUEST)
    with request_scope():
        assert one.resolve(Session) is not other.resolve(Session)


# The middleware


def counting() -> tuple[Services, list[str]]:
    services, events = Services(), []

    def session() -> Iterator[Session]:
        events.append("open")
        yield Session()
        events.append(f"close in {threading.current_thread().name}")

    services.bind(Session, session, scope=Scope.REQUEST)
    return services, events


def test_the_middleware_gives_each_request_its_own() -> None:
    services, events = counting()
    seen: list[Session] = []

    def view(request: HttpRequest) -> HttpResponse:
        seen.extend([services.resolve(Session), services.resolve(Session)])
        return HttpResponse(str(len(events)))

    respond = request_scope_middleware(view)
    for _ in range(2):
        assert respond(RequestFactory().get("/")).content
    assert seen[0] is seen[1] is not seen[2] is seen[3]
    assert [each.partition(" ")[0] for each in events] == ["open", "close", "open", "close"]


def test_the_async_middleware_keeps_one_over_its_threads_and_closes_in_django_s() -> None:
    services, events = counting()
    seen: list[Session] = []

    async def view(request: HttpRequest) -> HttpResponse:
        seen.append(services.resolve(Session))
        seen.append(await sync_to_async(services.resolve)(Session))
        if request.path == "/fail":
            raise KeyError
        return HttpResponse()

    respond = request_scope_middleware(view)
    assert asyncio.iscoroutinefunction(respond)

    async def main() -> str:
        get = AsyncRequestFactory().get
        await asyncio.gather(respond(get("/")), respond(get("/")))
        with pytest.raises(KeyError):
            await respond(get("/fail"))
        name: str = await sync_to_async(lambda: threading.current_thread().name)()
        return name

    thread = asyncio.run(main())
    assert len({id(each) for each in seen}) == 3
    assert events.count("open") == 3
    assert events.count(f"close in {thread}") == 3
    assert thread != threading.current_thread().name


# Other containers


def test_svcs_is_asked_for_what_is_not_bound_here(services: Services) -> None:
    registry = svcs.Registry()
    registry.register_factory(Posts, lambda: Posts(using="svcs"))
    with svcs.Container(registry) as container:
        services.bind(PostService)
        services.delegate(container.get)
        service = services.resolve(PostService)
        assert (service.posts.using, service.clock.now()) == ("svcs", "now")
        assert list(services.problems()) == []
        fake = Posts()
        with services.override(Posts, fake):
            assert services.resolve(PostService).posts is fake
        with pytest.raises(svcs.exceptions.ServiceNotFoundError):
            services.resolve(Session)
    services.delegate(None)
    assert services.resolve(PostService).posts.using is None


def test_dishka_is_asked_for_what_is_not_bound_here(services: Services) -> None:
    provider = dishka.Provider(scope=dishka.Scope.APP)
    provider.provide(lambda: Posts(using="dishka"), provides=Posts)
    container = dishka.make_container(provider)
    services.bind(PostService)
    services.delegate(container.get)
    assert services.resolve(PostService).posts.using == "dishka"
    container.close()


def test_two_containers_that_ask_each_other_are_a_cycle() -> None:
    services, registry = Services(), svcs.Registry()
    registry.register_factory(Posts, lambda: services.resolve(Posts))
    with svcs.Container(registry) as container:
        services.delegate(container.get)
        with pytest.raises(UsageError, match="Posts -> Posts: it needs itself"):
            services.resolve(Posts)


def test_the_module_s_functions_share_one_set_of_bindings() -> None:
    shared.bind(Clock, SystemClock)
    assert isinstance(shared.resolve(Clock), SystemClock)
    fake = FakeClock()
    with shared.override(Clock, fake):
        assert shared.resolve(PostService).clock is fake
    assert not any("Clock" in each for each in shared.problems())


def test_an_heir_of_a_protocol_needs_no_constructor() -> None:
    class Letters(Protocol):
        def send(self) -> str: ...

    class Pigeons(Letters):
        def send(self) -> str:
            return "coo"

    assert Services().resolve(Pigeons).send() == "coo"
