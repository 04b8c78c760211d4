"""The users app."""

from django.apps import AppConfig


class UsersConfig(AppConfig):
    """Custom from the start: Django cannot swap the user model later."""

    name = "demo.users"
