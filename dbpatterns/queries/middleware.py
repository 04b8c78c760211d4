"""`NPlusOneMiddleware`: a guard around each request, sync and async."""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from dbpatterns.queries.capture import current_scope
from dbpatterns.queries.guard import guard

__all__ = ["NPlusOneMiddleware"]

Handler = Callable[[HttpRequest], HttpResponseBase | Awaitable[HttpResponseBase]]


class NPlusOneMiddleware:
    """Guard each request as `DBPATTERNS["QUERIES"]` says; put it first, to see other middleware.

    Leaves a request alone that a guard watches already, as under the pytest plugin. The rows a
    streaming response reads after it was returned are not seen.

    Raises: ConfigurationError: at start, when the settings, allow-list or baseline are broken.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Handler) -> None:
        self._get_response = get_response
        self._guard = guard()
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Answer a request under the guard."""
        if iscoroutinefunction(self):
            return self._answer(request)
        if current_scope() is not None:
            return self._get_response(request)
        with self._guard.copy():
            return self._get_response(request)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        answer = cast(Callable[[HttpRequest], Awaitable[HttpResponseBase]], self._get_response)
        if current_scope() is not None:
            return await answer(request)
        with self._guard.copy():
            return await answer(request)
