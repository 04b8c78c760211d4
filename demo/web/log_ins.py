"""Log-ins for people who try the demo; never made outside DEBUG."""

from django.conf import settings

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard_for
from demo.banking.models import Account
from demo.banking.repositories import Shards, of_customers
from demo.users.models import User

__all__ = ["make_log_ins"]


def make_log_ins(password: str) -> dict[str, object]:
    """Make or mend a customer's and a staff log-in; return what to print about them.

    The customer is the one with the lowest number who has an account. One query a shard; the rest
    on `default`.
    Raises: UsageError: DEBUG is off, so the password would be known to everyone.
    """
    if not settings.DEBUG:
        raise UsageError("Demo log-ins have a public password: they are made in DEBUG only.")
    _save("staff", password, is_staff=True)
    told: dict[str, object] = {"staff": f"log in as staff / {password}"}
    accounts = [
        account
        for shard in Shards()
        for account in shard.accounts.find_by(
            of_customers, status=Account.Status.OPEN, order_by=["customer_id"], limit=2
        )
    ]
    if not accounts:
        return told
    own = min(accounts, key=lambda each: each.customer_id or 0)
    assert own.customer_id is not None  # the database checks it
    _save("customer", password, customer_id=own.customer_id)
    told["customer"] = f"log in as customer / {password}, with account {own.number}"
    home = shard_for(own.customer_id)
    near = [each.number for each in accounts if each._state.db == home and each.pk != own.pk]
    far = [each.number for each in accounts if each._state.db != home]
    if near:
        told["try"] = f"pay from {own.number} to {near[0]}, on the same shard"
    if far:
        told["and"] = f"pay {far[0]}, on another shard: refused, never two loose commits"
    return told


def _save(
    username: str, password: str, *, customer_id: int | None = None, is_staff: bool = False
) -> None:
    if customer_id is not None:
        others = User.objects.filter(customer_id=customer_id).exclude(username=username)
        others.update(customer_id=None)
    user, _ = User.objects.update_or_create(
        username=username,
        defaults={"customer_id": customer_id, "is_staff": is_staff, "is_superuser": is_staff},
    )
    user.set_password(password)
    user.save(update_fields=["password"])
