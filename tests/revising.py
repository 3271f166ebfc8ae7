"""What tests of revisions share: revisions over a store that lags, or is away."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from stores.lagging import LaggingStore

from image_repo import names
from image_repo.errors import StoreError
from image_repo.lastknown import LastKnown
from image_repo.originals import Originals
from image_repo.revisions import Revisions
from image_repo.stores.store import Stored

X = names.image_name("x")
LIFETIME = 5.0
MISSING = 3.0
PATIENCE = 0.05


class AwayStore(LaggingStore):
    """May fail as well as lag, and hangs while its gate is not set.

    Attributes:
        asked: How many heads there were.
        failing: Whether each of them fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.failing = False

    async def head(self, key: str) -> Stored | None:
        self.asked += 1
        if self.failing:
            raise StoreError("away")
        return await super().head(key)


class Bench:
    """Revisions over a store that lags, with a clock to set.

    `put` and `delete` are our own; those of `store` are another server's.
    """

    def __init__(
        self, last_known: LastKnown | None = None, lifetime: float = LIFETIME
    ) -> None:
        self.now = 1000.0
        self.store = AwayStore()
        self.store._now = lambda: next(self._times)
        self._times = self._ticks()
        self.originals = Originals(self.store, lambda: self.now)
        self.last_known = last_known
        self.lifetime = lifetime
        self.restart()

    def restart(self, last_known: LastKnown | None = None) -> None:
        """Forget all that is only in memory, but what *last_known* has."""
        self.last_known = last_known or self.last_known
        self.revisions = Revisions(
            self.originals,
            names.recipe("test"),
            self.lifetime,
            lambda: self.now,
            missing_lifetime=MISSING,
            store_patience=PATIENCE,
            last_known=self.last_known,
        )

    def _ticks(self) -> Iterator[datetime]:
        at = datetime(2024, 1, 1, tzinfo=UTC)
        while True:
            at += timedelta(seconds=1)
            yield at

    async def put(self, body: bytes) -> str:
        before = await self.revisions.look(X)
        stored = await self.originals.put(X, io.BytesIO(body), media_type="x/y")
        self.revisions.replaced(X, stored, () if before is None else (before,))
        return stored.revision

    async def delete(self) -> None:
        every = await self.originals.every(X)
        await self.originals.delete(X)
        self.revisions.deleted(X, every)

    async def other(self, body: bytes) -> str:
        stored = await self.store.put(X, io.BytesIO(body), media_type="x/y")
        return stored.revision

    async def current(self) -> str | None:
        """Ask after what was remembered is over."""
        self.now += LIFETIME
        return await self.revisions.current(X)

    async def told(self) -> str | None:
        """Ask now, and wait a second at most."""
        async with asyncio.timeout(1):
            return await self.revisions.current(X)


async def come_back(bench: Bench) -> None:
    """Let the store answer, and what was asked of it meanwhile end."""
    bench.store.failing = False
    bench.store.gate.set()
    async with asyncio.timeout(1):
        await bench.revisions._asking.landed(lambda _: True)
