"""The version an object was read at, what it becomes, and what is told of a stale object."""

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import ref

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.models import QuerySet

from dbpatterns.optimistic.errors import StaleObjectError, UnknownVersion
from dbpatterns.transactions import after_rollback

if TYPE_CHECKING:
    from dbpatterns.optimistic.models import VersionedModel

__all__ = ["all_rows", "expected_version", "owner_of_version", "version_read"]
__all__ += ["restored_after_rollback", "set_version", "stale_row", "stale_rows", "stored_row"]

M = TypeVar("M", bound="VersionedModel")


def owner_of_version(model: "type[VersionedModel]") -> "type[VersionedModel]":
    """Return the model whose table has the column: this one, or one of its parents."""
    owner: Any = model._meta.get_field("version").model
    return cast("type[VersionedModel]", owner)


def all_rows(model: type[M], alias: str | None) -> "QuerySet[M]":
    """Return all the rows, with Django's own `update`, whatever the model's managers hide."""
    return QuerySet(model, using=alias)


def stored_row(row: M) -> M:
    """Read a row anew, as it is stored where the object came from; one query.

    Raises: DoesNotExist: it has been deleted.
    """
    return all_rows(type(row), row._state.db).get(pk=row.pk)


def expected_version(row: "VersionedModel") -> int:
    """Return the version an object was read at; never a query.

    Raises: UnknownVersion: it was deferred, or is no number.
    """
    version = row.__dict__.get("version")
    if type(version) is not int:
        why = "was deferred" if "version" not in row.__dict__ else f"is {version!r}"
        raise UnknownVersion(
            f"The version of this {row._meta.label} {row.pk!r} {why}, so nobody can tell whether "
            "the row has changed since. Read the object with its version."
        )
    return version


def version_read(row: "VersionedModel") -> int:
    """Return the version of an object whose row is to be written; never a query.

    Raises: UnknownVersion: it was never read or saved, was deferred, or is no number.
    """
    if row._state.adding:
        raise UnknownVersion(
            f"This {row._meta.label} {row.pk!r} was never read, so nobody can tell whether its row "
            "has changed. Read it, and write what you have read; or update() without an object."
        )
    return expected_version(row)


def set_version(row: "VersionedModel", version: int, alias: str | None) -> None:
    """Give an object its new version, and the old one again if that is rolled back."""
    if connections[alias or DEFAULT_DB_ALIAS].in_atomic_block:
        restored_after_rollback(row, alias, version=row.version)
    row.version = version


def restored_after_rollback(row: "VersionedModel", alias: str | None, **values: Any) -> None:
    """Have a rollback give an object these values, if it is still alive then."""
    after_rollback(partial(_restore, ref(row), values), using=alias)


def _restore(reference: "ref[VersionedModel]", values: dict[str, Any]) -> None:
    row = reference()
    if row is not None:
        for name, value in values.items():
            setattr(row, name, value)


def stale_row(row: "VersionedModel", alias: str | None, expected: int) -> StaleObjectError:
    """Make the error of a row that is not as expected; one query."""
    return stale_rows(type(row), alias, {row.pk: expected})


def stale_rows(
    model: "type[VersionedModel]",
    alias: str | None,
    expected: dict[Any, int],
    within: "QuerySet[Any] | None" = None,
) -> StaleObjectError:
    """Make the error of the rows that are not as expected, or not `within`; one query."""
    rows = all_rows(owner_of_version(model), alias) if within is None else within
    stored = dict(rows.filter(pk__in=list(expected)).values_list("pk", "version"))
    pks = [pk for pk, version in expected.items() if stored.get(pk) != version] or list(expected)
    version, now = expected[pks[0]], stored.get(pks[0])
    label = model._meta.label
    if len(expected) > 1:
        listed = ", ".join(map(repr, pks[:10])) + (", …" if len(pks) > 10 else "")
        what = f"{len(pks)} of {len(expected)} {label} are not as they were read: {listed}."
    elif now is None:
        what = f"{label} {pks[0]!r} was read at version {version}, and has been deleted since"
        what += "." if within is None else ", or is not among the rows of this queryset."
    elif now < version:
        what = (
            f"{label} {pks[0]!r} is at version {now}, and {version} was expected, which it never "
            "had, or had in a transaction that was rolled back."
        )
    else:
        what = f"{label} {pks[0]!r} was read at version {version}, and is at {now} by now."
    return StaleObjectError(
        f"{what} Nothing was written. Call refresh_from_db() and decide again.",
        model=label,
        pks=pks,
        expected_version=version,
        stored_version=now,
    )
