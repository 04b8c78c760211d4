"""The blog in the admin; each list is a fixed number of queries, and so is each action."""

from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest

from dbpatterns.optimistic.admin import VersionedAdmin
from demo.blog.models import Author, Category, Comment, Post, Tag


@admin.register(Author)
class AuthorAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Authors by name."""

    list_display = ("name", "login")
    search_fields = ("name", "login")


@admin.register(Category)
class CategoryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Categories, each with the one it stands in."""

    list_display = ("name", "slug", "parent")
    list_select_related = ("parent",)
    search_fields = ("name", "slug")
    autocomplete_fields = ("parent",)
    prepopulated_fields = {"slug": ("name",)}


@admin.register(Tag)
class TagAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Tags by name."""

    list_display = ("name", "slug")
    search_fields = ("name", "slug")
    prepopulated_fields = {"slug": ("name",)}


@admin.register(Post)
class PostAdmin(VersionedAdmin):
    """Posts, newest first; a list of many thousands stays quick, and no save undoes another."""

    list_display = ("__str__", "status", "author", "published_at", "version")
    list_filter = ("status", "published_at")
    list_select_related = ("author",)
    search_fields = ("title", "slug")
    autocomplete_fields = ("author", "categories", "tags")
    readonly_fields = ("version", "source_id")
    date_hierarchy = "published_at"
    show_full_result_count = False


@admin.register(Comment)
class CommentAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Comments, to approve or not.

    By actions, for any number of them two writes: `list_editable` would take two a comment.
    """

    actions = ("approve", "hide")
    list_display = ("author_name", "post", "is_approved", "created_at")
    list_filter = ("is_approved", "created_at")
    list_select_related = ("post",)
    search_fields = ("author_name", "body")
    raw_id_fields = ("post", "parent")
    readonly_fields = ("source_id",)
    show_full_result_count = False

    @admin.action(description="Approve selected comments", permissions=["change"])
    def approve(self, request: HttpRequest, chosen: QuerySet[Comment]) -> None:
        """Show them to readers."""
        self._mark(request, chosen, is_approved=True)

    @admin.action(description="Hide selected comments", permissions=["change"])
    def hide(self, request: HttpRequest, chosen: QuerySet[Comment]) -> None:
        """Show them to readers no more."""
        self._mark(request, chosen, is_approved=False)

    def _mark(self, request: HttpRequest, chosen: QuerySet[Comment], *, is_approved: bool) -> None:
        done = "approved" if is_approved else "hidden"
        changed = list(chosen.exclude(is_approved=is_approved))
        Comment.objects.filter(pk__in=[each.pk for each in changed]).update(is_approved=is_approved)
        assert request.user.pk is not None, "the admin is for people who are logged in"
        LogEntry.objects.log_actions(request.user.pk, changed, CHANGE, f"Marked as {done}.")
        self.message_user(request, f"Comments {done}: {len(changed)}.", messages.SUCCESS)
