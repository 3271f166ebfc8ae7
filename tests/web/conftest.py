"""A real server on a plain directory, with real workers that the tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from blockbuster import blockbuster_ctx
from servers import Client, Start

from image_repo import assemble
from image_repo.config import Config
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app


@pytest.fixture(autouse=True)
def event_loop_that_must_not_block() -> Iterator[None]:
    """Fail a test in which our code blocks the event loop."""
    with blockbuster_ctx("image_repo"):
        yield


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return replace(Config(), data=str(tmp_path / "data"))


@pytest_asyncio.fixture
async def start(pool: Pool) -> AsyncIterator[Start]:
    """Start the whole application, with the shared workers."""
    async with AsyncExitStack() as stack:

        async def run(config: Config) -> Client:
            room = await stack.enter_async_context(assemble.open_room(config, pool))
            server = TestServer(make_app(room), skip_url_asserts=True)
            return await stack.enter_async_context(TestClient(server))

        yield run


@pytest_asyncio.fixture
async def client(start: Start, config: Config) -> Client:
    return await start(config)
