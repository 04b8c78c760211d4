"""The bank: customers see and move their own money, staff see all of it.

Whoever is neither gets a 403, whoever is not logged in a 401. What a user may not see is a 404,
as if it were not there. Logging in costs one query with a token, two with a session; the counts
below come on top.
"""

import re
from http import HTTPStatus

from django.db.models import Q
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    OpenApiResponse,
    extend_schema,
    extend_schema_view,
)
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.throttling import BaseThrottle, UserRateThrottle

from dbpatterns.services import resolve
from demo.api.filters import AccountFilters, StandingOrderFilters, TransferFilters
from demo.api.paging import NewestFirst, OldestFirst
from demo.api.problems import Problem
from demo.api.serializers import (
    AccountSerializer,
    NewStandingOrderSerializer,
    NewTransferSerializer,
    StandingOrderChangeSerializer,
    StandingOrderSerializer,
    TransferSerializer,
)
from demo.api.sharded import ShardedViewSet
from demo.banking.models import Account, StandingOrder, Transfer
from demo.banking.repositories import Listing
from demo.banking.services import PaymentService, UnknownBank

__all__ = ["AccountViewSet", "StandingOrderViewSet", "TransferThrottle", "TransferViewSet"]

_UUID = "[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"
_KEY = re.compile(r"[!-~]{1,100}")


class TransferThrottle(UserRateThrottle):
    """A tighter rate for moving money than for looking at it."""

    scope = "transfer"


@extend_schema_view(list=extend_schema(parameters=[AccountFilters]))
class AccountViewSet(ShardedViewSet[Account]):
    """Accounts, oldest first. Staff see the bank's own clearing and opening accounts too."""

    model = Account
    serializer_class = AccountSerializer
    pagination_class = OldestFirst
    filters = AccountFilters
    lookup_field = "number"
    lookup_value_regex = r"[^/\s\x00]{1,40}"

    def visible(self, condition: Q) -> "Listing[Account]":
        """Return the accounts in reach."""
        return self.reach.accounts(condition)

    def one(self, wanted: str, /) -> Account | None:
        """Return the account with this number."""
        return self.reach.account(wanted)


@extend_schema_view(list=extend_schema(parameters=[TransferFilters]))
class TransferViewSet(ShardedViewSet[Transfer]):
    """Transfers out of and into one's accounts, newest first."""

    model = Transfer
    serializer_class = TransferSerializer
    pagination_class = NewestFirst
    filters = TransferFilters
    lookup_field = "id"
    lookup_value_regex = _UUID

    def visible(self, condition: Q) -> "Listing[Transfer]":
        """Return the transfers in reach."""
        return self.reach.transfers(condition)

    def one(self, wanted: str, /) -> Transfer | None:
        """Return the transfer with this id."""
        return self.reach.transfer(wanted)

    def get_throttles(self) -> list[BaseThrottle]:
        """Count what moves money separately."""
        extra = [TransferThrottle()] if self.action == "create" else []
        return [*super().get_throttles(), *extra]

    @extend_schema(
        request=NewTransferSerializer,
        responses={
            201: OpenApiResponse(TransferSerializer, "The money moved now."),
            200: OpenApiResponse(TransferSerializer, "It moved when the key came first."),
        },
        parameters=[
            OpenApiParameter(
                "Idempotency-Key",
                {"type": "string", "pattern": "^[!-~]{1,100}$"},
                OpenApiParameter.HEADER,
                required=True,
                description="One per transfer, such as a UUID. Sent again with the same body, it "
                "moves nothing and returns the first transfer; while that one is under way, it "
                "waits for it. With another body it is refused.",
            ),
            OpenApiParameter("Location", OpenApiTypes.URI, OpenApiParameter.HEADER, response=[201]),
            OpenApiParameter(
                "Idempotency-Replayed",
                {"type": "string", "enum": ["true"]},
                OpenApiParameter.HEADER,
                response=[200],
            ),
        ],
    )
    def create(self, request: Request) -> Response:
        """Move money once per Idempotency-Key, all of it or none.

        Only between accounts on one shard until cross-shard transactions are built. Two queries
        to find the accounts (one more for each further shard), and one transaction.
        """
        key = request.headers.get("Idempotency-Key", "")
        if not _KEY.fullmatch(key):
            raise Problem(
                HTTPStatus.BAD_REQUEST,
                "Send an Idempotency-Key header of 1 to 100 printable ASCII characters without "
                "spaces, new for each transfer and the same when you try again.",
                slug="idempotency-key-missing",
            )
        wanted = NewTransferSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        values = wanted.validated_data
        payments = resolve(PaymentService)
        payer = payments.payer(values["payer"], reach=self.reach)
        booked, is_new = payments.pay(
            payer,
            values["payee"],
            reach=self.reach,
            amount=values["amount"],
            idempotency_key=key,
            memo=values["memo"],
            staff=request.user.pk if self.reach.customer_id is None else None,
        )
        return Response(
            TransferSerializer(booked).data,
            status=HTTPStatus.CREATED if is_new else HTTPStatus.OK,
            headers={"Location": reverse("api-transfer-detail", [booked.pk], request=request)}
            if is_new
            else {"Idempotency-Replayed": "true"},
        )


@extend_schema_view(list=extend_schema(parameters=[StandingOrderFilters]))
class StandingOrderViewSet(ShardedViewSet[StandingOrder]):
    """Standing orders, newest first; set `is_active` to false to end one."""

    model = StandingOrder
    serializer_class = StandingOrderSerializer
    pagination_class = NewestFirst
    filters = StandingOrderFilters
    lookup_field = "id"
    lookup_value_regex = _UUID

    def visible(self, condition: Q) -> "Listing[StandingOrder]":
        """Return the standing orders in reach."""
        return self.reach.standing_orders(condition)

    def one(self, wanted: str, /) -> StandingOrder | None:
        """Return the standing order with this id."""
        return self.reach.standing_order(wanted)

    @extend_schema(request=NewStandingOrderSerializer, responses={201: StandingOrderSerializer})
    def create(self, request: Request) -> Response:
        """Order a payment to an account at another bank. Three queries on the customer's shard."""
        wanted = NewStandingOrderSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            order = resolve(PaymentService).order(reach=self.reach, **wanted.validated_data)
        except UnknownBank as error:
            raise ValidationError({"bank_code": [str(error)]}) from error
        return Response(StandingOrderSerializer(order).data, status=HTTPStatus.CREATED)

    @extend_schema(request=StandingOrderChangeSerializer, responses=StandingOrderSerializer)
    def partial_update(self, request: Request, **kwargs: str) -> Response:
        """Change amount, category or is_active; one query to find it, one to write.

        Writes only the columns sent, so that two changes at once do not undo each other.
        """
        order = self.get_object()
        wanted = StandingOrderChangeSerializer(data=request.data)
        wanted.is_valid(raise_exception=True)
        resolve(PaymentService).change(order, **wanted.validated_data)
        return Response(StandingOrderSerializer(order).data)
