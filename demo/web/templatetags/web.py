"""How the pages write money and stored HTML."""

from django import template
from django.db.models import Model
from django.utils.safestring import SafeString, mark_safe

from demo.banking.money import format_amount
from demo.web.prose import as_excerpt, as_page

__all__ = ["excerpt", "money", "prose", "shard"]

register = template.Library()


@register.filter
def money(minor_units: int, currency: str = "") -> str:
    """Return minor units as people read them: `1,245.20 CZK`, unbroken, with a real minus sign."""
    whole, fraction = format_amount(abs(minor_units)).split(".")
    sign = "\N{MINUS SIGN}" if minor_units < 0 else ""
    return f"{sign}{int(whole):,}.{fraction}\N{NO-BREAK SPACE}{currency}".rstrip()


@register.filter
def prose(stored: str) -> SafeString:
    """Return a stored body as HTML, sanitised here whatever the database holds."""
    return mark_safe(as_page(stored))


@register.filter
def excerpt(stored: str) -> str:
    """Return the first words of a stored body, as text."""
    return as_excerpt(stored)


@register.filter
def shard(row: Model) -> str | None:
    """Return the alias of the database a row was read from."""
    return row._state.db
