"""The Idempotency-Key header on a view of DRF."""

import errno
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.http import HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.template.response import TemplateResponse
from django.test import override_settings
from django.urls import path
from rest_framework.exceptions import ValidationError
from rest_framework.generics import CreateAPIView
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.renderers import BaseRenderer, JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView, exception_handler
from rest_framework.viewsets import ViewSet

from dbpatterns.contrib.drf_idempotency import IdempotencyMixin
from dbpatterns.errors import UsageError
from tests.http import Answer, post, serving
from tests.processes import in_threads, locks_waited_for, until
from tests.testapp.models import Effect

pytestmark = pytest.mark.django_db


class Plain:
    permission_classes: Any = [AllowAny]
    throttle_classes: Any = []
    renderer_classes: Any = [JSONRenderer]
    parser_classes: Any = [JSONParser, MultiPartParser]
    authentication_classes: Any = []

    def get_exception_handler(self) -> Any:
        return exception_handler


class Pay(IdempotencyMixin, Plain, APIView):
    def post(self, request: Request, **kwargs: Any) -> Response:
        number = Effect.objects.create(key=request.data["key"]).pk
        at = datetime(2026, 1, 2, 3, 4, 5, 678912, tzinfo=UTC)
        headers = {"Location": f"/effects/{number}/"}
        return Response({"number": number, "at": at}, status=201, headers=headers)

    def get(self, request: Request) -> Response:
        return Response({"effects": Effect.objects.count()})


@pytest.fixture
def eva() -> Any:
    return get_user_model().objects.create(username="eva")


def send(
    view: Any,
    user: Any,
    *,
    key: str | None = "k",
    body: Any = None,
    method: str = "post",
    path: str = "/",
    format: str = "json",
    headers: dict[str, str] | None = None,
    **kwargs: Any,
) -> Any:
    headers = {**(headers or {}), **({} if key is None else {"Idempotency-Key": key})}
    make = getattr(APIRequestFactory(), method)
    request = make(path, body or {"key": "a"}, format=format, headers=headers)
    return call(view, request, user, **kwargs)


def call(view: Any, request: Any, user: Any, **kwargs: Any) -> Any:
    force_authenticate(request, user=user)
    answer = (view.as_view() if isinstance(view, type) else view)(request, **kwargs)
    return answer.render() if isinstance(answer, Response) else answer


def test_without_the_mixin_a_repeated_request_pays_twice(eva: Any) -> None:
    class Bare(Plain, APIView):
        post = Pay.post

    first, second = send(Bare, eva), send(Bare, eva)
    assert first.data != second.data
    assert Effect.objects.count() == 2


def test_a_repeated_request_gets_the_same_status_headers_and_bytes(eva: Any) -> None:
    first, second = send(Pay, eva), send(Pay, eva)
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.content == second.content
    assert b"678912" in first.content
    assert first["Location"] == second["Location"]
    assert "Idempotency-Replayed" not in first
    assert second["Idempotency-Replayed"] == "true"
    assert Effect.objects.count() == 1


def test_another_body_under_the_key_is_422(eva: Any) -> None:
    send(Pay, eva)
    assert send(Pay, eva, body={"key": "b"}).status_code == 422
    assert send(Pay, eva, path="/?dry=1").status_code == 422
    assert Effect.objects.count() == 1


def test_nobody_is_given_another_s_answer(eva: Any) -> None:
    ben = get_user_model().objects.create(username="ben")
    first, second = send(Pay, eva), send(Pay, ben)
    assert first.data["number"] != second.data["number"]
    assert Effect.objects.count() == 2


@pytest.mark.parametrize("user", [None, AnonymousUser()])
def test_a_stranger_has_no_keys(user: Any) -> None:
    answer = send(Pay, user)
    assert answer.status_code in (401, 403)
    assert not Effect.objects.exists()


def test_a_replay_needs_the_permission_too(eva: Any) -> None:
    class Guarded(Pay):
        permission_classes = [IsAuthenticated]

    send(Guarded, eva)
    assert send(Guarded, None).status_code in (401, 403)


def test_a_missing_key_is_400_and_does_nothing(eva: Any) -> None:
    answer = send(Pay, eva, key=None)
    assert answer.status_code == 400
    assert "Idempotency-Key" in str(answer.data)
    assert send(Pay, eva, key="").status_code == 400
    assert not Effect.objects.exists()


def test_a_key_too_long_is_400(eva: Any) -> None:
    assert send(Pay, eva, key="k" * 256).status_code == 400
    assert not Effect.objects.exists()


def test_a_key_may_be_left_out_where_it_is_not_required(eva: Any) -> None:
    class Free(Pay):
        idempotency_key_required = False

    send(Free, eva, key=None)
    send(Free, eva, key=None)
    assert Effect.objects.count() == 2
    assert send(Free, eva).content == send(Free, eva).content
    assert Effect.objects.count() == 3


def test_methods_that_only_read_need_no_key(eva: Any) -> None:
    assert send(Pay, eva, key=None, method="get").status_code == 200
    assert send(Pay, eva, method="get").data == {"effects": 0}


def test_a_method_that_is_not_there_is_405(eva: Any) -> None:
    class Reading(IdempotencyMixin, Plain, APIView):
        get = Pay.get

    assert send(Reading, eva).status_code == 405


def test_a_raised_error_undoes_the_work_and_frees_the_key(eva: Any) -> None:
    class Failing(Pay):
        fails = True

        def post(self, request: Request, **kwargs: Any) -> Response:
            answer = super().post(request, **kwargs)
            if self.fails:
                raise ValidationError("too poor")
            return answer

    assert send(Failing, eva).status_code == 400
    assert not Effect.objects.exists()
    Failing.fails = False
    assert send(Failing, eva).status_code == 201


def test_an_answer_that_is_an_error_undoes_the_work_and_frees_the_key(eva: Any) -> None:
    class Refusing(Pay):
        def post(self, request: Request, **kwargs: Any) -> Response:
            super().post(request, **kwargs)
            return Response({"detail": "too poor"}, status=409)

    answer = send(Refusing, eva)
    assert (answer.status_code, answer.data) == (409, {"detail": "too poor"})
    assert not Effect.objects.exists()
    assert send(Pay, eva).status_code == 201


def test_generic_views_and_viewsets_take_it_as_it_is(eva: Any) -> None:
    class EffectSerializer(ModelSerializer[Effect]):
        class Meta:
            model = Effect
            fields = ["id", "key"]

    class Create(IdempotencyMixin, Plain, CreateAPIView[Effect]):
        queryset = Effect.objects.all()
        serializer_class = EffectSerializer

    class Effects(IdempotencyMixin, Plain, ViewSet):
        def create(self, request: Request, **kwargs: Any) -> Response:
            return Response({"id": Effect.objects.create(key="b").pk, **kwargs})

    assert send(Create, eva).data == send(Create, eva).data
    viewset = Effects.as_view({"post": "create"})
    first = send(viewset, eva, key="v", kind="x")
    assert first.data == send(viewset, eva, key="v", kind="x").data
    assert first.data["kind"] == "x"
    assert Effect.objects.count() == 2


def test_a_form_that_authentication_reads_as_a_stream_is_told_apart_too(eva: Any) -> None:
    class Reading(Pay):
        def perform_authentication(self, request: Request) -> None:
            assert request._request.POST  # as session authentication does, for its CSRF token

    first = send(Reading, eva, format="multipart")
    assert first.status_code == 201, first.data
    assert first.content == send(Reading, eva, format="multipart").content
    assert send(Reading, eva, format="multipart", body={"key": "b"}).status_code == 422
    assert Effect.objects.count() == 1


class Echo(BaseRenderer):
    """Says what it was given, as no other renderer would."""

    media_type, format, charset = "text/plain", "txt", "utf-8"

    def render(self, data: Any, media_type: Any = None, context: Any = None) -> str:
        response = context["response"]
        return f"{sorted(data)} {response.template_name} {response.status_code}"


def answering(*answers: Any) -> type[APIView]:
    """A view that writes, and gives its one answer: a second call of its handler is an error."""
    left = list(answers)

    class Answering(Pay):
        renderer_classes = [JSONRenderer, Echo]

        def post(self, request: Request, **kwargs: Any) -> Any:
            Effect.objects.create(key="a")
            return left.pop()

    return Answering


def with_cookies(answer: Any) -> Any:
    answer.set_cookie("seen", "a b;ü", max_age=60, httponly=True, samesite="Lax", secure=True)
    answer.set_cookie("plain", "1", expires=datetime(2030, 1, 2, tzinfo=UTC))
    answer.delete_cookie("gone")
    return answer


@pytest.mark.parametrize(
    ("answer", "content_type"),
    [
        (
            lambda: Response({"a": 1}, 202, content_type="application/hal+json"),
            "application/hal+json",
        ),
        (lambda: Response({"b": 1}, 201, "page.html"), "application/json"),
        (lambda: Response(status=204), None),
        (lambda: JsonResponse({"c": "ü"}, status=201), "application/json"),
        (
            lambda: HttpResponse(b"\xff\0", content_type="image/png", headers={"X-A": "1"}),
            "image/png",
        ),
        (lambda: HttpResponseRedirect("/there/"), "text/html; charset=utf-8"),
    ],
    ids=["content type", "template", "nothing", "JSON", "bytes", "redirect"],
)
def test_the_first_answer_goes_out_as_it_is_and_so_does_a_replay(
    eva: Any, answer: Callable[[], Any], content_type: str | None
) -> None:
    given = with_cookies(answer())
    view = answering(given)
    first, second = send(view, eva), send(view, eva)
    assert first is given
    assert first.get("Content-Type") == content_type
    assert dict(second.items()) == {**dict(first.items()), "Idempotency-Replayed": "true"}
    assert (second.status_code, second.content) == (first.status_code, first.content)
    assert len(first.cookies) == 3
    assert second.cookies.output() == first.cookies.output()
    assert Effect.objects.count() == 1


def test_a_replay_is_rendered_as_the_second_request_asks_with_the_template_of_the_first(
    eva: Any,
) -> None:
    view = answering(Response({"b": 1}, 201, "page.html"))
    assert send(view, eva).content == b'{"b":1}'
    again = send(view, eva, headers={"Accept": "text/plain"})
    assert again.content == b"['b'] page.html 201"


@pytest.mark.parametrize(
    "answer",
    [
        StreamingHttpResponse([b"a"]),
        TemplateResponse(APIRequestFactory().get("/"), "page.html"),
        None,
        Response({"a": object()}),
        Response({"a": float("nan")}),
        Response({"a": "\ud800"}),
        Response({"a": iter([1, 2])}),
    ],
    ids=["stream", "template", "None", "object", "NaN", "surrogate", "iterator"],
)
@pytest.mark.django_db(transaction=True)
def test_what_cannot_be_kept_is_told_and_undoes_the_work(eva: Any, answer: Any) -> None:
    with pytest.raises(UsageError, match=r"kept|no JSON"):
        send(answering(answer), eva)
    assert not Effect.objects.exists()
    assert send(Pay, eva).status_code == 201


def test_a_plain_answer_that_is_an_error_undoes_the_work_too(eva: Any) -> None:
    answer = send(answering(StreamingHttpResponse([b"full"], status=409)), eva)
    assert (answer.status_code, b"".join(answer)) == (409, b"full")
    assert not Effect.objects.exists()
    assert send(Pay, eva).status_code == 201


FORM = (
    '--{0}\r\nContent-Disposition: form-data; name="key"\r\n\r\na\r\n'
    '--{0}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\n'
    "Content-Type: text/plain\r\n\r\n{1}\r\n--{0}--\r\n"
)


class Upload(Pay):
    def post(self, request: Request, **kwargs: Any) -> Response:
        Effect.objects.create(key=request.data["key"])
        return Response({"bytes": len(request.data["file"].read())})


def upload(eva: Any, text: str, boundary: str = "one") -> Any:
    body = FORM.format(boundary, text).encode()
    make = APIRequestFactory().generic
    form = f"multipart/form-data; boundary={boundary}"
    request = make("POST", "/", body, form, headers={"Idempotency-Key": "k"})
    try:
        return call(Upload, request, eva)
    finally:
        request.close()  # and with it the file, as a server does


def test_a_file_may_be_larger_than_what_is_held_in_memory(eva: Any) -> None:
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=50, FILE_UPLOAD_MAX_MEMORY_SIZE=50):
        assert [upload(eva, "x" * 5_000).data for _ in range(2)] == [{"bytes": 5_000}] * 2
        assert upload(eva, "x" * 4_999 + "y").status_code == 422
    assert Effect.objects.count() == 1


def test_a_form_that_is_made_anew_is_the_same_request(eva: Any) -> None:
    assert upload(eva, "text", "one").status_code == 200
    assert upload(eva, "text", "another").headers["Idempotency-Replayed"] == "true"
    assert upload(eva, "other", "one").status_code == 422
    assert Effect.objects.count() == 1


def test_a_form_that_is_none_is_400(eva: Any) -> None:
    make = APIRequestFactory().generic
    headers = {"Idempotency-Key": "k"}
    request = make("POST", "/", b"nothing", "multipart/form-data", headers=headers)
    assert call(Upload, request, eva).status_code == 400
    assert not Effect.objects.exists()


class Nested(MultiPartParser):
    """A parser that makes other things of a form than a QueryDict, as some do."""

    def parse(self, *args: Any, **kwargs: Any) -> Any:
        parsed: Any = super().parse(*args, **kwargs)
        return {"key": "a", "files": [{"file": parsed.files["file"]}, ("b", 1)]}


def test_parts_are_told_apart_whatever_a_parser_makes_of_them(
    eva: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Upload, "parser_classes", [Nested])
    monkeypatch.setattr(Upload, "post", Pay.post)
    assert upload(eva, "text", "one").status_code == 201
    assert upload(eva, "text", "another").status_code == 201
    assert upload(eva, "other").status_code == 422
    assert Effect.objects.count() == 1


def test_another_body_that_is_too_large_is_413_and_does_nothing(eva: Any) -> None:
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=50):
        answer = send(Pay, eva, body={"key": "a" * 50})
        assert answer.status_code == 413
        assert "more than 50 bytes" in str(answer.data)
        assert send(Pay, None, body={"key": "a" * 50}).status_code in (401, 403)
    assert not Effect.objects.exists()


class Slow(Pay):
    gate = ""  # a named pipe: the work waits until the test has opened and closed it

    def get_idempotency_scope(self, request: Request) -> str:
        return "the only client"

    def post(self, request: Request, **kwargs: Any) -> Response:
        Path(self.gate).read_bytes()
        return super().post(request, **kwargs)


class SlowAndPatient(Slow):
    idempotency_waits = True


urlpatterns = [
    path("impatient/", Slow.as_view()),
    path("patient/", SlowAndPatient.as_view()),
]


@dataclass(frozen=True)
class Race:
    """A request that one process works at, and what sends it to another process."""

    first: Future[Answer]
    send_again: Callable[[], Future[Answer]]
    may_end: Callable[[], None]


@pytest.fixture
def race(tmp_path: Path) -> Iterator[Callable[[str], Race]]:
    """Start two processes, each of which serves one request at a time."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    code = f"from {__name__} import Slow; Slow.gate = {str(gate)!r}"
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(__name__, code)) for _ in range(2)]
        pool = stack.enter_context(ThreadPoolExecutor(2))

        def start(name: str) -> Race:
            def send(url: str) -> Future[Answer]:
                headers = {"Idempotency-Key": "k"}
                return pool.submit(post, f"{url}/{name}/", {"key": "a"}, headers)

            first = send(urls[0])
            opened = until(lambda: open_for_writing(gate))  # once the work reads
            stack.callback(opened.close)
            return Race(first, lambda: send(urls[1]), opened.close)

        yield start


def open_for_writing(pipe: Path) -> IO[bytes] | None:
    try:
        return open(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK), "wb")
    except OSError as error:
        if error.errno != errno.ENXIO:  # nobody reads
            raise
        return None


@pytest.mark.django_db(transaction=True)
def test_what_another_process_works_at_is_409_with_a_time_to_wait(
    race: Callable[[str], Race],
) -> None:
    running = race("impatient")
    second = running.send_again().result(timeout=60)
    assert not running.first.done()
    running.may_end()
    assert (running.first.result(timeout=60).status, second.status) == (201, 409)
    assert second.headers["Retry-After"] == "1"
    third = running.send_again().result(timeout=60)
    assert (third.status, third.content) == (201, running.first.result().content)
    assert Effect.objects.count() == 1


@pytest.mark.postgresql  # where the wait can be seen
@pytest.mark.django_db(transaction=True)
def test_what_another_process_works_at_is_waited_for_by_who_is_patient(
    race: Callable[[str], Race],
) -> None:
    running = race("patient")
    waiting = running.send_again()
    until(locks_waited_for)
    assert [running.first.done(), waiting.done()] == [False, False]
    running.may_end()
    first, second = running.first.result(timeout=60), waiting.result(timeout=60)
    assert (first.status, second.status) == (201, 201)
    assert second.content == first.content
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert Effect.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_three_at_once_are_answered_alike_by_who_is_patient(eva: Any) -> None:
    class Patient(Pay):
        idempotency_waits = True

    answers = in_threads([lambda: send(Patient, eva)] * 3)
    assert [each.status_code for each in answers] == [201] * 3
    assert len({each.content for each in answers}) == 1
