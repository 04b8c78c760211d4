"""The web app."""

from django.apps import AppConfig


class WebConfig(AppConfig):
    """The pages and the `demo` command; no tables."""

    name = "demo.web"
