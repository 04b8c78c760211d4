"""The blog's tables; the database refuses what the code may not do."""

from django.db import models
from django.db.models import F, Q
from django.urls import reverse

from dbpatterns.optimistic import VersionedModel

__all__ = ["Author", "Category", "Comment", "Post", "Tag"]


class Author(models.Model):
    """Who writes posts; an import knows them by `login`."""

    login = models.CharField(max_length=60, unique=True)
    name = models.CharField(max_length=200)

    class Meta:
        ordering = ["name", "pk"]

    def __str__(self) -> str:
        return self.name


class Category(models.Model):
    """A shelf; shelves stand inside shelves."""

    slug = models.SlugField(max_length=200, unique=True, allow_unicode=True)
    name = models.CharField(max_length=200)
    parent = models.ForeignKey(
        "self", models.SET_NULL, null=True, blank=True, related_name="children"
    )

    class Meta:
        ordering = ["name", "pk"]
        verbose_name_plural = "categories"
        constraints = [
            models.CheckConstraint(condition=~Q(parent=F("pk")), name="blog_category_own_parent")
        ]

    def __str__(self) -> str:
        return self.name


class Tag(models.Model):
    """A word that many posts share."""

    slug = models.SlugField(max_length=200, unique=True, allow_unicode=True)
    name = models.CharField(max_length=200)

    class Meta:
        ordering = ["name", "pk"]

    def __str__(self) -> str:
        return self.name


class Post(VersionedModel):
    """An article, with a version. `body` is sanitised HTML: who writes it passes it through nh3."""

    class Status(models.TextChoices):
        """Who may read it; the values are WordPress's meaning in our words."""

        DRAFT = "draft"
        SCHEDULED = "scheduled"
        PUBLISHED = "published"
        PRIVATE = "private"

    slug = models.SlugField(max_length=200, unique=True, allow_unicode=True)
    title = models.CharField(max_length=300, blank=True)
    excerpt = models.TextField(blank=True)
    body = models.TextField(blank=True)
    status = models.CharField(max_length=10, choices=Status, default=Status.DRAFT)
    published_at = models.DateTimeField(null=True, blank=True)
    author = models.ForeignKey(Author, models.PROTECT, related_name="posts")
    categories = models.ManyToManyField(Category, related_name="posts", blank=True)
    tags = models.ManyToManyField(Tag, related_name="posts", blank=True)
    source_id = models.BigIntegerField(null=True, blank=True, unique=True, editable=False)
    """The post's number in the export it came from."""

    class Meta:
        ordering = ["-published_at", "-pk"]
        indexes = [models.Index(fields=["status", "-published_at", "-id"], name="blog_post_list")]
        constraints = [
            models.CheckConstraint(
                condition=Q(status__in=["draft", "scheduled", "published", "private"]),
                name="blog_post_status_known",
            ),
            models.CheckConstraint(
                condition=Q(published_at__isnull=False) | Q(status__in=["draft", "private"]),
                name="blog_post_published_has_date",
                violation_error_message="What is published or scheduled needs a date.",
            ),
            models.CheckConstraint(condition=Q(version__gte=1), name="blog_post_version_positive"),
        ]

    def __str__(self) -> str:
        return self.title or self.slug

    def get_absolute_url(self) -> str:
        """Return the page of the post."""
        return reverse("post", args=[self.slug])


class Comment(models.Model):
    """What a reader said; an answer has a `parent` under the same post."""

    post = models.ForeignKey(Post, models.CASCADE, related_name="comments")
    parent = models.ForeignKey(
        "self", models.CASCADE, null=True, blank=True, related_name="replies"
    )
    author_name = models.CharField(max_length=200, blank=True)
    body = models.TextField()
    is_approved = models.BooleanField(default=False)
    created_at = models.DateTimeField()
    source_id = models.BigIntegerField(null=True, blank=True, unique=True, editable=False)

    class Meta:
        ordering = ["created_at", "pk"]
        indexes = [models.Index(fields=["post", "created_at", "id"], name="blog_comment_thread")]
        constraints = [
            models.CheckConstraint(condition=~Q(parent=F("pk")), name="blog_comment_own_parent")
        ]

    def __str__(self) -> str:
        return f"{self.author_name or 'Anonymous'} on {self.post_id}"
