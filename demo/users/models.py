"""Users: Django's own, with the number of the bank customer they are."""

from django.contrib.auth.models import AbstractUser
from django.db import models

__all__ = ["User"]


class User(AbstractUser):
    """Someone who logs in; a bank customer when `customer_id` is set.

    Customers live on the shards and users on `default`, so this is a number and no foreign
    key: databases do not check across servers.
    """

    customer_id = models.BigIntegerField(
        "customer number", null=True, blank=True, unique=True, editable=False
    )
