"""The aiohttp application."""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from image_repo.web.errors import (
    Handler,
    TargetTooLongError,
    answer_errors,
    note_begun,
)
from image_repo.web.handlers import ROOM, Room, dispatch
from image_repo.web.negotiation import check_kinds

logger = logging.getLogger(__name__)

MAX_TARGET = 8 * 1024
"""Bytes of a path with its query; names are far shorter."""

MAX_LINE = 64 * 1024
"""Bytes of a request line that are read, so that what is too long can be refused."""

MAX_HEADER = 16 * 1024
"""Bytes of one header; as nginx's large_client_header_buffers."""


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


@web.middleware
async def refuse_long(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a target that is too long to be read with care."""
    if len(request.raw_path) > MAX_TARGET:
        raise TargetTooLongError(
            f"a path with its query has at most {MAX_TARGET} characters"
        )
    return await handler(request)


def make_app(room: Room) -> web.Application:
    """Return the application that serves from *room*."""
    app = web.Application(
        middlewares=[answer_errors, refuse_long],
        # An original is kept byte for byte: what is compressed is not unpacked.
        handler_args={
            "max_line_size": MAX_LINE,
            "max_field_size": MAX_HEADER,
            "auto_decompress": False,
        },
    )
    app[ROOM] = room
    check_kinds(room)
    app.on_response_prepare.append(note_begun)
    # Every path is read by `image_repo.urls`, from the raw request, and by nothing
    # else: two parsers that differ are how caches are poisoned.
    app.router.add_route("*", "/{path:(?s:.*)}", dispatch)
    app.router.add_route("*", "/", dispatch)
    return app
