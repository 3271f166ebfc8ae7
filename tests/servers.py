"""What fixtures give to tests of the whole server."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from secrets import token_hex

from aiohttp import web
from aiohttp.test_utils import TestClient

from image_repo.config import Config

Client = TestClient[web.Request, web.Application]
Start = Callable[[Config], Awaitable[Client]]


def on_swift(config: Config, originals: str = "", derived: str = "") -> Config:
    """Return the configuration with two containers, new ones where none is named."""
    first, second = (
        config.persistent_store_configuration,
        config.swift_cache_configuration,
    )
    unique = token_hex(8)
    return replace(
        config,
        store="swift",
        persistent_store_configuration=replace(
            first, container=originals or f"images-{unique}"
        ),
        swift_cache_configuration=replace(
            second, container=derived or f"derived-{unique}"
        ),
    )


CONFINED = not any(name.startswith("COVERAGE") for name in os.environ)
"""Whether tests confine workers, who then can't write down what was covered."""
