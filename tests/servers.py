"""What fixtures give to tests of the whole server."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.test_utils import TestClient

from image_repo.config import Config

Client = TestClient[web.Request, web.Application]
Start = Callable[[Config], Awaitable[Client]]

CONFINED = not any(name.startswith("COVERAGE") for name in os.environ)
"""Whether tests confine workers, who then can't write down what was covered."""
