"""The aiohttp application."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from image_repo.web.errors import answer_errors
from image_repo.web.handlers import ROOM, Room, dispatch

logger = logging.getLogger(__name__)


class AccessLogger(AbstractAccessLogger):
    """A line a request, without its query, which may hold a link's signature."""

    @property
    def enabled(self) -> bool:
        """Whether such lines are written at all."""
        return self.logger.isEnabledFor(logging.INFO)

    def log(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float
    ) -> None:
        self.logger.info(
            "%s %s %d %d B %.1f ms",
            request.method,
            request.raw_path.partition("?")[0][:1000],
            response.status,
            response.body_length,
            1000 * time,
        )


def make_app(room: Room) -> web.Application:
    """Return the application that serves from *room*."""
    app = web.Application(middlewares=[answer_errors])
    app[ROOM] = room
    # Every path is read by `image_repo.urls`, from the raw request, and by nothing
    # else: two parsers that differ are how caches are poisoned.
    app.router.add_route("*", "/{path:(?s:.*)}", dispatch)
    app.router.add_route("*", "/", dispatch)
    return app
