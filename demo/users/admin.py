"""Users in the admin, with their customer number."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from demo.users.models import User


@admin.register(User)
class CustomerUserAdmin(UserAdmin):  # type: ignore[type-arg]  # generic in stubs only
    """Django's own, and one column."""

    list_display = ("username", "customer_id", "is_staff", "is_active", "last_login")
    search_fields = ("username", "=customer_id")
