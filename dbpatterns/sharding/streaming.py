"""Streaming responses: their parts are made after the middleware, in the block they belong to."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

from django.http import FileResponse, HttpResponseBase, StreamingHttpResponse

__all__ = ["parts_within"]

Block = Callable[[], AbstractContextManager[Any]]


def parts_within(response: HttpResponseBase, block: Block) -> HttpResponseBase:
    """Return the response, whose later parts are made in a block too; a file has no rows."""
    if isinstance(response, StreamingHttpResponse) and not isinstance(response, FileResponse):
        content: Any = response.streaming_content
        parts = _parts_later if response.is_async else _parts
        response.streaming_content = parts(content, block)
    return response


def _parts(content: Iterator[bytes], block: Block) -> Iterator[bytes]:
    """Enter the block for each part: one held open would be the server's too, between them."""
    while True:
        with block():
            part = next(content, None)
        if part is None:
            return
        yield part


async def _parts_later(content: AsyncIterator[bytes], block: Block) -> AsyncIterator[bytes]:
    while True:
        with block():
            part = await anext(content, None)
        if part is None:
            return
        yield part
