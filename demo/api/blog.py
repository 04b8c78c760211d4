"""The blog, public and read-only: what is published, and nothing else."""

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from django.db.models import Model, Q, QuerySet
from django.http import Http404
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.permissions import AllowAny
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from dbpatterns.contrib.drf import KeysetPagination
from dbpatterns.repositories import Repository, Spec
from dbpatterns.services import resolve
from demo.api.filters import CommentFilters, Filters, PostFilters
from demo.api.searching import SEARCH, SEARCH_PARAMETERS
from demo.blog.models import Author, Category, Comment, Post, Tag
from demo.blog.repositories import (
    NEWEST_FIRST,
    AuthorRepository,
    CommentRepository,
    PostRepository,
    public,
    published,
)

__all__ = ["AuthorViewSet", "CommentViewSet", "PostViewSet"]

_M = TypeVar("_M", bound=Model)


class BlogPagination(KeysetPagination):
    """Twenty a page, or as many as asked for up to a hundred."""

    page_size = 20
    page_size_query_param = "page_size"
    max_page_size = 100


class LatestPostsFirst(BlogPagination):
    """Posts, newest first."""

    ordering = NEWEST_FIRST


class ByLogin(BlogPagination):
    """Authors by their login."""

    ordering = "login"


class EarliestCommentsFirst(BlogPagination):
    """Comments in the order they were said."""

    ordering = ("created_at", "id")


class AuthorSerializer(serializers.ModelSerializer[Author]):
    """Who writes."""

    class Meta:
        model = Author
        fields = ["login", "name"]


class CategorySerializer(serializers.ModelSerializer[Category]):
    """A shelf."""

    class Meta:
        model = Category
        fields = ["slug", "name"]


class TagSerializer(serializers.ModelSerializer[Tag]):
    """A word."""

    class Meta:
        model = Tag
        fields = ["slug", "name"]


class PostSummarySerializer(serializers.ModelSerializer[Post]):
    """A post in a list."""

    author = AuthorSerializer()
    categories = CategorySerializer(many=True)
    tags = TagSerializer(many=True)

    class Meta:
        model = Post
        fields = ["slug", "title", "excerpt", "published_at", "author", "categories", "tags"]
        read_only_fields = fields


class PostSerializer(PostSummarySerializer):
    """A post to read; `body` is sanitised HTML."""

    class Meta(PostSummarySerializer.Meta):
        fields = [*PostSummarySerializer.Meta.fields, "body"]
        read_only_fields = fields


class CommentSerializer(serializers.ModelSerializer[Comment]):
    """What a reader said, under which post, in answer to what."""

    post = serializers.CharField(source="post.slug", read_only=True)

    class Meta:
        model = Comment
        fields = ["id", "post", "parent", "author_name", "body", "created_at"]
        read_only_fields = fields


class BlogViewSet(GenericViewSet[_M]):
    """List and show the rows of a repository that everyone may read."""

    permission_classes = [AllowAny]
    pagination_class: type[BlogPagination]
    repository_class: ClassVar[type[Repository[Any]]]
    readable: ClassVar[Spec[Any]] = Spec("everything")
    load: ClassVar[Sequence[str]] = ()
    """The relations that the serializer shows."""
    filters: ClassVar[type[Filters]] = Filters

    def list(self, request: Request) -> Response:
        """Return one page."""
        return self.paged(request, self.filters.read(request))

    def paged(self, request: Request, asked: Q, *, order_by: Sequence[str] = ()) -> Response:
        """Return one page of what is asked for and may be read."""
        pagination = self.pagination_class()
        page = pagination.paginate_repository(
            resolve(self.repository_class),
            request,
            self.readable & asked,
            load=self.load,
            order_by=order_by,
        )
        return pagination.get_paginated_response(self.get_serializer(page, many=True).data)

    def retrieve(self, request: Request, **kwargs: str) -> Response:
        """Return one row."""
        wanted = {self.lookup_field: self.kwargs[self.lookup_field]}
        found = resolve(self.repository_class).find_one_by(self.readable, load=self.load, **wanted)
        if found is None:
            raise Http404("There is nothing here, or it is not for everyone.")
        return Response(self.get_serializer(found).data)

    def get_queryset(self) -> QuerySet[_M]:
        """Tell the schema which model it is; rows come from the repository."""
        rows: QuerySet[_M] = self.repository_class.model._default_manager.none()
        return rows


@extend_schema_view(list=extend_schema(parameters=[PostFilters]))
class PostViewSet(BlogViewSet[Post]):
    """Published posts, newest first. Three queries a page, three a post."""

    repository_class = PostRepository
    readable = published
    load = ["author", "categories", "tags"]
    serializer_class = PostSerializer
    filters = PostFilters
    pagination_class = LatestPostsFirst
    lookup_field = "slug"
    lookup_value_regex = r"[-\w]+"

    def get_serializer_class(self) -> type[PostSummarySerializer]:
        """Leave the body out of lists."""
        return PostSerializer if self.action == "retrieve" else PostSummarySerializer

    @extend_schema(parameters=SEARCH_PARAMETERS, responses=PostSummarySerializer(many=True))
    @action(detail=False)
    def search(self, request: Request) -> Response:
        """Find published posts by criteria on their fields; three queries a page.

        A criterion that is not listed here is refused, never ignored. A post whose slug is
        `search` is shown by no address of the API.
        """
        asked = SEARCH.parse(request.query_params, ignore=("cursor", "page_size", "format"))
        return self.paged(request, asked.q, order_by=asked.order_by)


class AuthorViewSet(BlogViewSet[Author]):
    """Authors, by login. One query."""

    repository_class = AuthorRepository
    serializer_class = AuthorSerializer
    pagination_class = ByLogin
    lookup_field = "login"
    lookup_value_regex = r"[^/\x00]+"


@extend_schema_view(list=extend_schema(parameters=[CommentFilters]))
class CommentViewSet(BlogViewSet[Comment]):
    """Approved comments of published posts, oldest first. One query."""

    repository_class = CommentRepository
    readable = public
    load = ["post"]
    serializer_class = CommentSerializer
    filters = CommentFilters
    pagination_class = EarliestCommentsFirst
    lookup_value_regex = "[0-9]{1,18}"
