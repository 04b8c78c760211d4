"""The Idempotency-Key header on a view of DRF."""

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from rest_framework.exceptions import ValidationError
from rest_framework.generics import CreateAPIView
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.permissions import AllowAny, IsAuthenticated
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import ModelSerializer
from rest_framework.test import APIRequestFactory, force_authenticate
from rest_framework.views import APIView, exception_handler
from rest_framework.viewsets import ViewSet

from dbpatterns.contrib.drf_idempotency import IdempotencyMixin
from tests.processes import in_threads
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
    **kwargs: Any,
) -> Response:
    headers = {} if key is None else {"Idempotency-Key": key}
    make = getattr(APIRequestFactory(), method)
    request = make(path, body or {"key": "a"}, format=format, headers=headers)
    force_authenticate(request, user=user)
    answer: Response = (view.as_view() if isinstance(view, type) else view)(request, **kwargs)
    answer.render()
    return answer


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
    assert send(Free, eva).data == send(Free, eva).data
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
    assert first.data == send(Reading, eva, format="multipart").data
    assert send(Reading, eva, format="multipart", body={"key": "b"}).status_code == 422
    assert Effect.objects.count() == 1


class Slow(Pay):
    running, may_end = threading.Event(), threading.Event()

    def post(self, request: Request, **kwargs: Any) -> Response:
        self.running.set()
        assert self.may_end.wait(timeout=30)
        return super().post(request, **kwargs)


@pytest.mark.django_db(transaction=True)
def test_a_running_request_is_409_with_a_time_to_wait(eva: Any) -> None:
    Slow.running.clear(), Slow.may_end.clear()

    def ask() -> Response:
        assert Slow.running.wait(timeout=30)
        try:
            return send(Slow, eva)
        finally:
            Slow.may_end.set()

    first, second = in_threads([lambda: send(Slow, eva), ask])
    assert (first.status_code, second.status_code) == (201, 409)
    assert second["Retry-After"] == "1"
    assert Effect.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_or_it_is_waited_for(eva: Any) -> None:
    class Patient(Pay):
        idempotency_waits = True

    answers = in_threads([lambda: send(Patient, eva)] * 3)
    assert [each.status_code for each in answers] == [201] * 3
    assert len({each.content for each in answers}) == 1
