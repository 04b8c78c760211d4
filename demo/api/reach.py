"""Who may come in, before anything is read."""

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from demo.banking.reach import Reach
from demo.users.models import User

__all__ = ["HasReach", "Reach"]


class HasReach(BasePermission):
    """Let in the bank's customers and its staff; anyone else logged in gets a 403."""

    message = "This login is no customer of the bank and none of its staff."

    def has_permission(self, request: Request, view: Any) -> bool:
        """Tell from the user alone; no query."""
        user = request.user
        return isinstance(user, User) and (user.is_staff or user.customer_id is not None)
