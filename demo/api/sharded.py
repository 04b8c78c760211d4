"""What every list of the bank has in common: the user's reach, on one shard or on all."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import Http404
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from demo.api.filters import Filters
from demo.api.paging import OldestFirst
from demo.api.reach import HasReach, Reach
from demo.banking.repositories import Listing

__all__ = ["ShardedViewSet"]

_M = TypeVar("_M", bound=Model)


class ShardedViewSet(GenericViewSet[_M], ABC):
    """List and show the rows in the user's reach.

    List: one query for a customer, for staff one a shard, all at once. One row: one query, but for
    staff and an account: one a shard until it is found.
    """

    permission_classes = [HasReach]
    pagination_class: type[OldestFirst]
    model: ClassVar[type[Any]]
    filters: ClassVar[type[Filters]]

    @abstractmethod
    def visible(self, condition: Q) -> "Listing[_M]":
        """Return the rows that the user may see and that meet the condition; not asked yet."""

    @abstractmethod
    def one(self, wanted: str, /) -> _M | None:
        """Return the row that the address names, if the user may see it."""

    @property
    def reach(self) -> Reach:
        """Return the reach of the user who asks."""
        return Reach.of(self.request.user)

    def list(self, request: Request) -> Response:
        """Return one page, merged from the shards."""
        pagination = self.pagination_class()
        page = pagination.paginate_queryset(self.visible(self.filters.read(request)), request)
        return pagination.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, **kwargs: str) -> Response:
        """Return one row."""
        return Response(self.get_serializer(self.get_object()).data)

    def get_object(self) -> _M:
        """Return the row that the address names; a 404 if it is not in reach."""
        found = self.one(self.kwargs[self.lookup_field])
        if found is None:
            raise Http404("There is nothing here, or it is not yours.")
        return found

    def get_queryset(self) -> QuerySet[_M]:
        """Tell the schema which model it is; rows come from `visible`."""
        rows: QuerySet[_M] = self.model._default_manager.none()
        return rows
