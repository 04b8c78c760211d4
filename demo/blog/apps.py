"""The blog app."""

from django.apps import AppConfig


class BlogConfig(AppConfig):
    """A blog on the default database."""

    name = "demo.blog"
