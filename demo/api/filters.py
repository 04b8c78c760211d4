"""What the lists can be narrowed to: parameters of the query string that become a condition.

Each `source` is a lookup of the model. A list of the bank is narrowed on each shard, before the
merge.
"""

from typing import Any

from django.db.models import Q
from rest_framework import serializers
from rest_framework.request import Request

from demo.banking.models import Account, Transfer

__all__ = [
    "AccountFilters",
    "CommentFilters",
    "Filters",
    "PostFilters",
    "StandingOrderFilters",
    "TransferFilters",
]


def _text(source: str) -> Any:
    return serializers.CharField(source=source, max_length=200, required=False)


def _moment(source: str) -> Any:
    return serializers.DateTimeField(source=source, required=False)


def _choice(choices: Any) -> Any:
    return serializers.ChoiceField(choices=choices, required=False)


class Filters(serializers.Serializer[Any]):
    """Parameters of one list; an empty one narrows nothing, as a form's empty field."""

    @classmethod
    def read(cls, request: Request) -> Q:
        """Return the condition that the query string asks for; no query.

        Raises: ValidationError: values that make no sense, by parameter.
        """
        sent = {name: value for name, value in request.query_params.items() if value}
        filters = cls(data=sent)
        filters.is_valid(raise_exception=True)
        return filters.condition(dict(filters.validated_data))

    def condition(self, asked: dict[str, Any]) -> Q:
        """Join lookups with their values."""
        return Q(*asked.items())


class PostFilters(Filters):
    """Posts by author, shelf, word and time; `search` looks into title and body."""

    author = _text("author__login")
    category = _text("categories__slug")
    tag = _text("tags__slug")
    published_after = _moment("published_at__gt")
    published_before = _moment("published_at__lt")
    search = _text("text")

    def condition(self, asked: dict[str, Any]) -> Q:
        """Keep the posts with this text in title or body; reads every candidate."""
        text = asked.pop("text", None)
        found = Q(title__icontains=text) | Q(body__icontains=text) if text else Q()
        return super().condition(asked) & found


class CommentFilters(Filters):
    """Comments under one post."""

    post = _text("post__slug")


class AccountFilters(Filters):
    """Accounts by status, and by kind, which only staff have more than one of."""

    status = _choice(Account.Status.choices)
    kind = _choice(Account.Kind.choices)


class TransferFilters(Filters):
    """Transfers out of or into one account, of a kind, in a time."""

    account = _text("number")
    created_after = _moment("created_at__gt")
    created_before = _moment("created_at__lt")
    kind = _choice(Transfer.Kind.choices)

    def condition(self, asked: dict[str, Any]) -> Q:
        """Keep the transfers on either side of the account."""
        number = asked.pop("number", None)
        found = Q(payer__number=number) | Q(payee__number=number) if number else Q()
        return super().condition(asked) & found


class StandingOrderFilters(Filters):
    """Standing orders by account, active or not."""

    account = _text("account__number")
    is_active = serializers.BooleanField(required=False)
