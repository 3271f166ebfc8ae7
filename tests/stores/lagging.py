"""A store that lags, as a replica of an eventually consistent one does."""

from __future__ import annotations

import asyncio

from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Object, Stored

State = dict[str, tuple[Stored, bytes]]

ALWAYS = 10**9


class LaggingStore(MemoryStore):
    """Answers some heads and fetches with what was there before.

    Every answer is whole: bytes and `Stored` of one put, or nothing.

    Attributes:
        gate: Heads wait while it is not set.
    """

    def __init__(self) -> None:
        super().__init__()
        self._old = MemoryStore()
        self._heads = 0
        self._fetches = 0
        self.gate = asyncio.Event()
        self.gate.set()

    def state(self) -> State:
        """Return all that is there now."""
        return dict(self._objects)

    def lag(self, old: State, *, heads: int = ALWAYS, fetches: int = ALWAYS) -> None:
        """Answer the next *heads* and *fetches* with the state *old*."""
        self._old._objects = old
        self._heads = heads
        self._fetches = fetches

    def catch_up(self) -> None:
        """Answer with what is there now."""
        self.lag({}, heads=0, fetches=0)

    async def head(self, key: str) -> Stored | None:
        await self.gate.wait()
        if self._heads:
            self._heads -= 1
            return await self._old.head(key)
        return await super().head(key)

    async def fetch(self, key: str) -> Object | None:
        if self._fetches:
            self._fetches -= 1
            return await self._old.fetch(key)
        return await super().fetch(key)
