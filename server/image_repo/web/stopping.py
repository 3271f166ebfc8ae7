"""The end of a server: requests under way are finished, and no other is taken."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from aiohttp import hdrs, web

from image_repo.purge import REFRESH_HEADER
from image_repo.web.errors import Handler, problem

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

logger = logging.getLogger(__name__)

LOOKS: Final = 0.05
"""Seconds between two looks whether something is under way."""

TURNS: Final = 10
"""Turns of the event loop in which a request that has come by then is begun."""

CUT_SECONDS: Final = 0.5
"""What aiohttp's `shutdown_timeout` is to be: the time, twice, in which handlers end.

aiohttp itself can't let uploads end: it begins by ignoring what comes of their bodies.
"""


class Stopping:
    """Lets the requests of an application end.

    Args:
        app: It has not been started.
        refreshed: Whether nginx may ask this server, so that a change is purged.
    """

    def __init__(self, app: web.Application, *, refreshed: bool) -> None:
        self._refreshed = refreshed
        self._begun = False
        self._closed = False
        self._changes = 0
        app.on_response_prepare.append(self._part)
        app.middlewares.append(self._count)

    async def finish(
        self, runner: web.AppRunner, leave: Callable[[], None], seconds: float
    ) -> None:
        """Return once all has been answered and sent, or the time has passed.

        Args:
            runner: It runs the application.
            leave: Called as soon as nobody listens any more.
            seconds: For how long requests under way may go on.
        """
        server = runner.server
        if server is None:
            return
        until = asyncio.get_running_loop().time() + seconds
        self._begun = True
        if self._refreshed:
            await _turns()
            self._closed = True
            await _waited(lambda: not self._changes, until)
        for site in runner.sites:
            await site.stop()
        leave()
        await _turns()
        await _waited(partial(_ended, server), until)
        if left := len(server.connections):
            logger.warning("requests cut off, because they took too long: %d", left)

    async def _part(self, _: web.Request, response: web.StreamResponse) -> None:
        """Tell who asks that its connection takes no other request."""
        if self._begun:
            response.force_close()
            response.headers[hdrs.CONNECTION] = "close"

    @web.middleware
    async def _count(
        self, request: web.Request, handler: Handler
    ) -> web.StreamResponse:
        """Count changes; take nothing but refreshes while they are waited for."""
        if self._closed and REFRESH_HEADER not in request.headers:
            # As if nobody listened: nginx then asks another server, if it has one.
            if request.transport is not None:
                request.transport.abort()
            return problem(503, "the server is being stopped")
        if request.method in {"GET", "HEAD"}:
            return await handler(request)
        self._changes += 1
        try:
            return await handler(request)
        finally:
            self._changes -= 1


async def _turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _waited(done: Callable[[], bool], until: float) -> None:
    """Return once it is *done*, or at a time of the event loop."""
    with suppress(TimeoutError):
        async with asyncio.timeout_at(until):
            # aiohttp has no event for the last byte.
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(LOOKS)


def _ended(server: web.Server) -> bool:
    """Close the connections without a request; return whether none is left.

    An answer is not at its end before its connection: until then some of it may wait
    for a client that is slow to take it.
    """
    for connection in server.connections:
        if _is_idle(connection):
            connection.force_close()
    return not server.connections


def _is_idle(connection: RequestHandler) -> bool:
    """Return whether it waits for the first byte, or the rest, of a request's head.

    The application can't know: a request gets to it later than to the connection, and
    from there on aiohttp still sends the answer and takes what is left of the body.
    """
    waiter = connection._waiter  # noqa: SLF001 - aiohttp tells it nowhere else
    return waiter is not None and not waiter.done()
