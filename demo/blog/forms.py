"""The form of a post, for those who may edit it."""

from typing import ClassVar

from django import forms

from dbpatterns.optimistic.forms import VersionedModelForm
from demo.blog.markup import sanitize_html
from demo.blog.models import Post

__all__ = ["PostForm"]


class PostForm(VersionedModelForm[Post]):
    """Asks for what stands in a post; the address and the author stay."""

    class Meta:
        model = Post
        fields = ("title", "excerpt", "body", "status", "published_at", "categories", "tags")
        widgets: ClassVar[dict[str, forms.Widget]] = {
            "excerpt": forms.Textarea({"rows": 3}),
            "body": forms.Textarea({"rows": 14}),
            "published_at": forms.DateTimeInput({"autocomplete": "off"}),
        }
        help_texts: ClassVar[dict[str, str]] = {"published_at": "UTC, like 2026-03-01 12:00"}

    def clean_body(self) -> str:
        """Keep only HTML that cannot run anything."""
        return sanitize_html(self.cleaned_data["body"])
