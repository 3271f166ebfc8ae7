from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

import pytest
import pytest_asyncio
from servers import CONFINED
from transform.samples import opened

from image_repo.modifiers import RenderOptions
from image_repo.transform.pool import Limits, Pool, WorkerOptions


class Derive(Protocol):
    """Derive from bytes with the module's worker."""

    def __call__(self, data: bytes, text: str = "full.png") -> Awaitable[bytes]: ...


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncIterator[Pool]:
    """One worker, so that every image of a module meets the one before it."""
    options = WorkerOptions(count=1)
    async with Pool(options, Limits(), RenderOptions(), confined=CONFINED) as made:
        yield made


@pytest.fixture
def derive(pool: Pool) -> Derive:
    async def derived(data: bytes, text: str = "full.png") -> bytes:
        with opened(data) as file:
            return (await pool.derive(file, len(data), text)).body

    return derived
