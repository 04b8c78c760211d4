"""The column that counts the writes of its row."""

from typing import TYPE_CHECKING, Any

from django.db import models

__all__ = ["VersionField"]

if TYPE_CHECKING:
    _Integer = models.PositiveBigIntegerField[int, int]
else:  # Django's own takes no parameters
    _Integer = models.PositiveBigIntegerField


class VersionField(_Integer):
    """A row's version: 1 when it is inserted, one more with each write. No form edits it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("default", 1)
        kwargs.setdefault("editable", False)
        super().__init__(*args, **kwargs)
