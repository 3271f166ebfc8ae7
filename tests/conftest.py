"""What tests share because it is slow to start: workers, a cloud."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from cloud import cluster
from servers import CONFINED

from image_repo.config import Config
from image_repo.transform.pool import Pool

pytest.register_assert_rewrite("stores.conformance")


@pytest_asyncio.fixture(scope="session")
async def pool() -> AsyncIterator[Pool]:
    config = Config()
    async with Pool(
        config.workers, config.limits, config.render, confined=CONFINED
    ) as pool:
        yield pool


@pytest.fixture(scope="session")
def cloud() -> Iterator[cluster.Cloud]:
    """A real Swift and a real Keystone; whoever does harm to them calls `heal`."""
    with cluster.scratch() as directory, cluster.start(directory) as cloud:
        yield cloud
