"""The banking app."""

from django.apps import AppConfig


class BankingConfig(AppConfig):
    """A bank on the shards."""

    name = "demo.banking"
