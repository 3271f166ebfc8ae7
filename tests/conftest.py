"""Workers that tests of the whole server share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
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
