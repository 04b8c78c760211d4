"""One key, one effect: work that is done once however often it is asked for.

    outcome = run_once(
        f"user:{user.pk}",
        request.headers["Idempotency-Key"],
        fingerprint=[source, destination, amount],
        work=lambda: {"transfer": transfer(source, destination, amount).pk},
    )
    outcome.value, outcome.is_replay

The key is claimed, the work done and the answer stored in one transaction, so that a crash
leaves all of it or nothing: there is no "claimed" state to get stuck in, and no lease to time
out. Who comes second waits on the unique index, as for any other row.

Source: Brandur Leach, "Implementing Stripe-like Idempotency Keys in Postgres"; PostgreSQL
documentation, "INSERT", on ON CONFLICT DO NOTHING.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, TypeVar

from django.db import connections, router, transaction
from django.utils import timezone

from dbpatterns import telemetry
from dbpatterns.errors import UsageError
from dbpatterns.exact_json import exact_json
from dbpatterns.idempotency._waiting import Busy, claiming
from dbpatterns.idempotency.conf import IdempotencySettings
from dbpatterns.idempotency.errors import (
    IdempotencyConflict,
    IdempotencyInProgress,
    InvalidIdempotencyKey,
)
from dbpatterns.idempotency.models import IdempotencyKey

__all__ = ["Outcome", "purge", "run_once"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[T]):
    """The answer, and whether it is an earlier one's."""

    value: T
    is_replay: bool


def run_once(
    scope: str,
    key: str,
    fingerprint: object,
    work: Callable[[], T],
    *,
    wait: bool = True,
    expires_in: timedelta | None = None,
    using: str | None = None,
) -> Outcome[T]:
    """Run `work` in a transaction and keep its answer, or return the answer kept before.

    If `work` raises, nothing is kept, and the next request with the key runs it again. Three
    statements in a transaction the first time, two for a replay; no lock but the key's own row.
    Inside an outer transaction all is kept when that one commits. What `work` writes elsewhere (a
    second database, a mail) is not undone: give those a key of their own.

    Args:
        scope: whose keys these are, such as a user's; the same key in two scopes is two keys.
        fingerprint: what makes two requests the same, as JSON values; a hash of it is kept.
        work: returns JSON values; the caller gets them as JSON gives them back, the first time
            too, so that a tuple is a list.
        wait: for a running request with the key. On SQLite without, any other writer counts as
            one, since it has one lock for all.
        expires_in: how long to remember the answer; `EXPIRES_SECONDS` if not given.
        using: the database that `work` writes to.
    Raises: IdempotencyConflict: the key was used with another fingerprint.
        IdempotencyInProgress: a request with the key is running, and `wait` is false or the
            session's `lock_timeout` (on SQLite its busy timeout) has passed.
        InvalidIdempotencyKey: empty, too long, with a NUL, or no Unicode. UsageError: `work`
            returned what is no JSON (NaN and keys that are not text are none), or used its own
            key.
    """
    if not all(map(_is_storable, (scope, key))):
        raise InvalidIdempotencyKey(scope=scope, key=key, longest=IdempotencyKey.LONGEST)
    alias = using or router.db_for_write(IdempotencyKey)
    expected = _hash(fingerprint)
    lifetime = expires_in
    if lifetime is None:
        lifetime = timedelta(seconds=IdempotencySettings.load().expires_seconds)
    try:
        with claiming(alias, wait=wait) as claim, transaction.atomic(using=alias):
            while True:
                with claim():
                    row = _claim(alias, scope, key, expected, timezone.now() + lifetime)
                if row is not None:
                    text = _encode(work())
                    IdempotencyKey.objects.using(alias).filter(pk=row).update(
                        response=text,
                        expires_at=timezone.now() + lifetime,  # from now: the work may be long
                    )
                    return Outcome(json.loads(text), is_replay=False)
                if found := _stored(alias, scope, key, expected):
                    return found
                with claim():
                    _forget_expired(alias, scope, key)
    except Busy as error:
        if found := _stored(alias, scope, key, expected):
            return found
        raise IdempotencyInProgress(scope=scope, key=key) from error


def purge(*, using: str | None = None, batch_size: int = 500) -> int:
    """Delete up to `batch_size` expired keys, the oldest first, and return how many.

    Two statements. Call it until it returns 0, or run `purge_idempotency_keys`. Waits for nobody:
    keys that another purge deletes, or a request uses anew, are left to them.
    """
    alias = using or router.db_for_write(IdempotencyKey)
    expired = IdempotencyKey.objects.using(alias).filter(expires_at__lte=timezone.now())
    oldest = expired.order_by("expires_at").values_list("pk", flat=True)
    # SQLite has no row locks, and one that reads before it writes may not wait for its lock.
    has_locks = connections[alias].features.has_select_for_update_skip_locked
    with transaction.atomic(using=alias) if has_locks else nullcontext():
        found = list(oldest.select_for_update(skip_locked=has_locks)[:batch_size])
        return expired.filter(pk__in=found).delete()[0]


def _is_storable(text: str) -> bool:
    if not 0 < len(text) <= IdempotencyKey.LONGEST or "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _claim(alias: str, scope: str, key: str, fingerprint: str, expires_at: Any) -> int | None:
    """Insert the key and return its row, or None when another transaction has committed it.

    One whose transaction is still open is waited for: by the unique index, or SQLite's lock.
    """
    connection = connections[alias]
    table = connection.ops.quote_name(IdempotencyKey._meta.db_table)
    values = (scope, key, fingerprint, connection.ops.adapt_datetimefield_value(expires_at))
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO {table} (scope, key, fingerprint, response, expires_at) "
            "VALUES (%s, %s, %s, '', %s) ON CONFLICT (scope, key) DO NOTHING RETURNING id",
            values,
        )
        row = cursor.fetchone()
    return row[0] if row else None


def _stored(alias: str, scope: str, key: str, fingerprint: str) -> Outcome[Any] | None:
    """Return the answer kept for the key; None when there is none, or no longer. Only reads."""
    row = IdempotencyKey.objects.using(alias).filter(scope=scope, key=key).first()
    if row is None or row.expires_at <= timezone.now():
        return None  # or purged a moment ago, or the request that held it failed
    if row.fingerprint != fingerprint:
        raise IdempotencyConflict(scope=scope, key=key)
    if not row.response:
        raise UsageError(
            f"The work of key {key!r} of {scope!r} ran it again, inside its own transaction: "
            "its answer does not exist yet. Give the inner work another scope."
        )
    if telemetry.is_heard():
        telemetry.emit(
            telemetry.Event("idempotency.replayed", database=alias, facts={"scope": scope})
        )
    return Outcome(json.loads(row.response), is_replay=True)


def _forget_expired(alias: str, scope: str, key: str) -> None:
    """Delete the key if it is past its time; of two who do so, one then inserts it."""
    keys = IdempotencyKey.objects.using(alias).filter(scope=scope, key=key)
    keys.filter(expires_at__lte=timezone.now()).delete()


def _hash(fingerprint: object) -> str:
    return hashlib.sha256(_encode(fingerprint, sort_keys=True).encode()).hexdigest()


def _encode(value: object, *, sort_keys: bool = False) -> str:
    try:
        return exact_json(value, sort_keys=sort_keys)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{type(value).__name__} is no JSON ({error}): the answer is kept as JSON, and so is "
            "what it is the answer to. Return dicts, lists, text and numbers."
        ) from error
