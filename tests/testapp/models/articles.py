"""What repositories are tried on: every kind of column, nullable and not, and relations."""

from django.db import models

__all__ = ["Article", "Remark", "Topic", "Writer"]


class Writer(models.Model):
    """Writes articles."""

    name = models.CharField(max_length=100, unique=True)
    born = models.DateField(null=True)

    def __str__(self) -> str:
        return self.name


class Topic(models.Model):
    """What an article is about."""

    name = models.CharField(max_length=100)

    def __str__(self) -> str:
        return self.name


class Article(models.Model):
    """A row with a column of every common kind."""

    slug = models.SlugField(max_length=100, unique=True)
    title = models.CharField(max_length=100, default="")
    body = models.TextField(null=True)  # noqa: DJ001  # NULL text is what some probes are about
    rating = models.IntegerField(null=True)
    price = models.DecimalField(max_digits=10, decimal_places=2, null=True)
    score = models.FloatField(default=0.0)
    is_live = models.BooleanField(default=True)
    token = models.UUIDField(null=True)
    published_at = models.DateTimeField(null=True)
    day = models.DateField(null=True)
    reading_time = models.DurationField(null=True)
    language = models.CharField(max_length=5, default="en")
    number = models.IntegerField(null=True)
    writer = models.ForeignKey(Writer, models.CASCADE, null=True, related_name="articles")
    topics = models.ManyToManyField(Topic, related_name="articles")

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["language", "number"], name="testapp_article_edition")
        ]

    def __str__(self) -> str:
        return self.slug


class Remark(models.Model):
    """What a reader said about an article."""

    article = models.ForeignKey(Article, models.CASCADE, related_name="remarks")
    text = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.text
