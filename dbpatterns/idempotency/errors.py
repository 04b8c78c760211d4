"""What can be wrong with a key."""

from dbpatterns.errors import DBPatternsError

__all__ = [
    "IdempotencyConflict",
    "IdempotencyError",
    "IdempotencyInProgress",
    "InvalidIdempotencyKey",
]


class IdempotencyError(DBPatternsError):
    """A key that cannot be used as it was. Nothing was written."""

    def __init__(self, message: str, *, scope: str, key: str) -> None:
        super().__init__(message)
        self.scope = scope
        self.key = key


class IdempotencyConflict(IdempotencyError):
    """The key was used before, for another request: HTTP 422. Asking again cannot help."""

    def __init__(self, *, scope: str, key: str) -> None:
        super().__init__(
            f"Key {key!r} of {scope!r} was used for another request, whose answer is kept. "
            "Send the same request again to get it, or take a new key.",
            scope=scope,
            key=key,
        )


class IdempotencyInProgress(IdempotencyError):
    """The first request with the key has not ended yet: HTTP 409. Ask again in a moment."""

    def __init__(self, *, scope: str, key: str) -> None:
        super().__init__(
            f"A request with key {key!r} of {scope!r} is running. Ask again in a moment, with "
            "the same key.",
            scope=scope,
            key=key,
        )


class InvalidIdempotencyKey(IdempotencyError, ValueError):
    """The key or its scope is empty, too long, has a NUL in it or is no Unicode: HTTP 400."""

    def __init__(self, *, scope: str, key: str, longest: int) -> None:
        super().__init__(
            f"Key {key[:40]!r} of {scope[:40]!r} cannot be stored: both need 1 to {longest} "
            "characters of Unicode and no NUL. A UUID is a good key.",
            scope=scope,
            key=key,
        )
