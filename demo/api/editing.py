"""Posts for those who edit them: a write says which version it is made from.

Not in the public schema, which says that the blog is to be read.
"""

import copy
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.mixins import DestroyModelMixin, RetrieveModelMixin, UpdateModelMixin
from rest_framework.permissions import DjangoModelPermissions
from rest_framework.viewsets import GenericViewSet

from dbpatterns.contrib.drf_versions import VersionedViewMixin
from demo.api.serializers import StrictSerializer
from demo.blog.markup import sanitize_html
from demo.blog.models import Post

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


@extend_schema(exclude=True)
class PostEditingViewSet(
    VersionedViewMixin,
    RetrieveModelMixin,
    UpdateModelMixin,
    DestroyModelMixin,
    GenericViewSet[Post],
):
    """Any post, published or not. One query to read; one more to write, two to delete."""

    queryset = Post.objects.all()
    serializer_class = EditedPostSerializer
    permission_classes = [MayEdit]
    lookup_field = "slug"
    lookup_value_regex = r"[-\w]+"
