"""Streams: answers that are sent while they are made."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final

from aiohttp import web

LOOKS: Final = 0.5
"""Seconds between two looks whether the client is still there."""

PIECE: Final = 2**18
"""Bytes given to the connection at a time."""

PATIENCE: Final = 60.0
"""Seconds that a client may take for such a piece; as long as nginx's send_timeout."""


async def send(
    request: web.Request,
    media_type: str,
    pieces: AsyncGenerator[bytes, None],
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send *pieces* as they come, as fast as the client takes them and no faster."""
    response = web.StreamResponse(
        headers={
            "Cache-Control": "no-store",
            # nginx passes on what there is, and waits as the client does.
            "X-Accel-Buffering": "no",
            **(headers or {}),
        }
    )
    response.headers["Content-Type"] = media_type
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    async with while_there(request), aclosing(pieces):
        async for piece in pieces:
            for at in range(0, len(piece), PIECE):
                async with asyncio.timeout(PATIENCE):
                    await response.write(memoryview(piece)[at : at + PIECE])
    return response


@asynccontextmanager
async def while_there(request: web.Request) -> AsyncIterator[None]:
    """Stop what is done inside soon after the client has gone.

    Raises:
        TimeoutError: It has.
    """

    async def watch(scope: asyncio.Timeout) -> None:
        # aiohttp has no event that tells it.
        while request.transport is not None:  # noqa: ASYNC110
            await asyncio.sleep(LOOKS)
        scope.reschedule(asyncio.get_running_loop().time())

    async with asyncio.timeout(None) as scope:
        watching = asyncio.create_task(watch(scope))
        try:
            yield
        finally:
            watching.cancel()
