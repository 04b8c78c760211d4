"""The app of the tests' own models."""

from django.apps import AppConfig


class TestAppConfig(AppConfig):
    """Tables for the tests; Django makes them without migrations."""

    name = "tests.testapp"
    label = "testapp"
    default_auto_field = "django.db.models.BigAutoField"
