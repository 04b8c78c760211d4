"""`ShardMiddleware`: a request's code works on the shard of the request's key, sync and async."""

from collections.abc import Awaitable, Callable
from functools import partial
from inspect import iscoroutinefunction as is_async
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import Http404, HttpRequest, HttpResponseBase
from django.utils.module_loading import import_string

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.context import shard
from dbpatterns.sharding.errors import UnplacedKey
from dbpatterns.sharding.hashing import Key
from dbpatterns.sharding.shard_map import shard_for
from dbpatterns.sharding.streaming import parts_within

__all__ = ["ShardMiddleware"]

Handler = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class ShardMiddleware:
    """Answer each request within `shard(key)`, by the key that `REQUEST_KEY` tells; no query.

    Put it after what `REQUEST_KEY` reads, such as the user. A request without a key is answered
    outside any block; one whose key the map has on no shard is answered 404. A streaming response
    makes each part in the block too. Under ASGI the function runs in a thread, as it may query.

    Raises: ConfigurationError: at start, when `REQUEST_KEY` names no function.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Handler) -> None:
        self._get_response = get_response
        self._key_of = _request_key()
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Answer a request on its shard."""
        if iscoroutinefunction(self):
            return self._answer(request)
        key = _placed(self._key_of(request))
        if key is None:
            return self._get_response(request)
        with _block(key):
            response = self._get_response(request)
        return parts_within(cast(HttpResponseBase, response), partial(_block, key))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        answer = cast(Callable[[HttpRequest], Awaitable[HttpResponseBase]], self._get_response)
        key = _placed(await sync_to_async(self._key_of)(request))
        if key is None:
            return await answer(request)
        with _block(key):
            response = await answer(request)
        return parts_within(response, partial(_block, key))


def _request_key() -> Callable[[HttpRequest], Key | None]:
    path = ShardingSettings.load().request_key
    try:
        found = import_string(path)
    except ImportError as error:
        raise ConfigurationError(
            f"ShardMiddleware finds no function at {path!r}: name one that takes a request and "
            'returns its shard key or None in DBPATTERNS["SHARDING"]["REQUEST_KEY"].'
        ) from error
    if not callable(found) or is_async(found):
        raise ConfigurationError(
            f'DBPATTERNS["SHARDING"]["REQUEST_KEY"] is {path!r}, which is no plain function: name '
            "one that takes a request and returns its shard key or None."
        )
    return cast(Callable[[HttpRequest], Key | None], found)


def _placed(key: Key | None) -> Key | None:
    """Return a key that has a shard; None stays None.

    Raises: Http404: the map has none for it.
    """
    if key is None:
        return None
    try:
        shard_for(key)
    except UnplacedKey as error:
        raise Http404(str(error)) from error
    return key


def _block(key: Key) -> Any:
    return shard(key, lock=ShardingSettings.load().request_lock)
