"""The api app."""

from django.apps import AppConfig


class APIConfig(AppConfig):
    """The REST API; no tables."""

    name = "demo.api"
