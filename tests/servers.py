"""What fixtures give to tests of the whole server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestClient

from image_repo.config import Config

Client = TestClient[web.Request, web.Application]
Start = Callable[[Config], Awaitable[Client]]
