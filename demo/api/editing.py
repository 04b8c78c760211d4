"""Posts for those who edit them: a write says which version it is made from.

Not in the public schema, which says that the blog is to be read.
"""

import copy
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.mixins import DestroyModelMixin, RetrieveModelMixin, UpdateModelMixin
from rest_framework.permissions import DjangoModelPermissions
from rest_framework.viewsets import GenericViewSet

from dbpatterns.contrib.drf_versions import VersionedViewMixin
from dbpatterns.services import resolve
from demo.api.serializers import StrictSerializer
from demo.blog.markup import sanitize_html
from demo.blog.models import Post
from demo.blog.repositories import PostRepository

__all__ = ["PostEditingViewSet"]


class EditedPostSerializer(StrictSerializer, serializers.ModelSerializer[Post]):
    """What stands in a post, and its version; the address and the author stay."""

    class Meta:
        model = Post
        fields = ["slug", "title", "excerpt", "body", "status", "published_at", "version"]
        read_only_fields = ["slug", "version"]

    def validate_body(self, body: str) -> str:
        """Keep only HTML that cannot run anything."""
        return sanitize_html(body)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse what the database's own rules would."""
        wanted = copy.copy(self.instance)
        assert isinstance(wanted, Post), "there is no address to make one"
        for name, value in attrs.items():
            setattr(wanted, name, value)
        try:
            wanted.validate_constraints()
        except ValidationError as error:
            raise serializers.ValidationError(error.messages) from error
        return attrs


class MayEdit(DjangoModelPermissions):
    """Drafts are for those who may see or change them."""

    perms_map = {
        **DjangoModelPermissions.perms_map,
        "GET": ["%(app_label)s.view_%(model_name)s"],
        "HEAD": ["%(app_label)s.view_%(model_name)s"],
    }


class FromRepository:
    """Finds its post by the repository."""

    def get_object(self) -> Post:
        """Return the post of the address; one query."""
        view: Any = self
        found = resolve(PostRepository).find_one_by(slug=view.kwargs["slug"])
        if found is None:
            raise Http404("There is no such post.")
        view.check_object_permissions(view.request, found)
        return found

    def get_queryset(self) -> QuerySet[Post]:
        """Tell the permissions which model it is."""
        return Post._default_manager.none()


@extend_schema(exclude=True)
class PostEditingViewSet(
    VersionedViewMixin,
    FromRepository,
    RetrieveModelMixin,
    UpdateModelMixin,
    DestroyModelMixin,
    GenericViewSet[Post],
):
    """Any post, published or not. One query to read; one more to write, two to delete."""

    serializer_class = EditedPostSerializer
    permission_classes = [MayEdit]
    lookup_field = "slug"
    lookup_value_regex = r"[-\w]+"
