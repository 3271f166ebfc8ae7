"""What a service says at most, and must not say, over a store that lags, at random.

Changes of our own, of other servers and of other tools happen in any order and at the
same time, replicas tell of any state that there was lately, and the store is away.
"""

from __future__ import annotations

import asyncio
import io
import random
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import BinaryIO

import pytest
from services import RECIPE, X, derived, plain, seen
from stores.lagging import LaggingStore, State

from image_repo import names
from image_repo.answered import Answered
from image_repo.cache import Cache
from image_repo.errors import StoreError, UnknownImageError
from image_repo.lastknown import LastKnown
from image_repo.levels import MemoryLevel, MemoryOptions, StoreLevel
from image_repo.originals import Originals
from image_repo.purge import NoPurge, Purger
from image_repo.revisions import NEW_SECONDS
from image_repo.service import Service, ServiceOptions
from image_repo.stores.memory import MemoryStore
from image_repo.stores.spool import Spool
from image_repo.stores.store import Stored
from image_repo.transform.pool import Pool

STEPS = 120
PATIENCE = 0.02
ADOPTED = "x.png"
SHADES = [(r, g, b) for r in (0, 120, 240) for g in (0, 120, 240) for b in (0, 120)]
BODIES = {shade: plain(f"rgb{shade}", 6) for shade in SHADES}

Shade = tuple[int, ...]

CHANGING = ContextVar("CHANGING", default=False)
"""Whether a change of ours asks."""


class Replicas(LaggingStore):
    """Notes all that ever was, loses answers to writes, and is away at times.

    `put` and `delete` are our own; `other_put` and `other_delete` are other servers'.

    Attributes:
        states: All states there were, the first first.
        shown: For each of them what answers to the image; None: nothing.
        ours: The last of them that we have made.
        newest: Of each key the latest time that a change of ours was told, or made.
        lost: How many answers to our next writes are lost, after they were done.
        refused: How many of them are not done.
        away: How many of the next questions fail.
    """

    def __init__(self, bodies: Mapping[bytes, Shade]) -> None:
        super().__init__()
        self._now = self._tick
        self._at = datetime(2024, 1, 1, tzinfo=UTC)
        self._bodies = bodies
        self.states: list[State] = [{}]
        self.shown: list[set[Shade | None]] = [{None}]
        self.ours = 0
        self.newest: dict[str, datetime] = {X: self._at, ADOPTED: self._at}
        self.lost = 0
        self.refused = 0
        self.away = 0

    def _tick(self) -> datetime:
        self._at += timedelta(seconds=1)
        return self._at

    def _note(self) -> None:
        self.states.append(self.state())
        there = [self._bodies[data] for _, data in self._objects.values()]
        self.shown.append(set(there) or {None})

    async def head(self, key: str) -> Stored | None:
        if self.away:
            self.away -= 1
            raise StoreError("away")
        found = await super().head(key)
        if found is not None and key in self.newest and CHANGING.get():
            self._tell(found)
        return found

    def _tell(self, stored: Stored) -> None:
        latest = max(self.newest[stored.key], stored.modified)
        self.newest = {**self.newest, stored.key: latest}

    def unseen(self) -> set[Shade | None]:
        """Return what there was that nothing tells from a later change of others.

        It was put before our last change and not seen then: as an image of another
        server, or beside the image by another tool.
        """
        return {
            self._bodies[data]
            for state in self.states
            for key, (stored, data) in state.items()
            if stored.modified > self.newest[key]
        }

    async def put(self, key: str, body: BinaryIO, **_: object) -> Stored:
        await asyncio.sleep(0)
        if self.refused:
            self.refused -= 1
            raise StoreError("refused")
        stored = await self.other_put(key, body)
        self.ours = len(self.states) - 1
        if self.lost:
            self.lost -= 1
            raise StoreError("lost")
        self._tell(stored)
        return stored

    async def delete(self, key: str) -> bool:
        found = await self.other_delete(key)
        self.ours = len(self.states) - 1
        return found

    async def other_put(self, key: str, body: BinaryIO) -> Stored:
        stored = self._put(key, body, "image/png", {})  # no thread: one at a time
        self._note()
        return stored

    async def other_delete(self, key: str) -> bool:
        found = await super().delete(key)
        if found:
            self._note()
        return found


@dataclass
class Model:
    """A service, and what may be believed of it.

    Attributes:
        sure: The state that our last change has left.
        since: The clock's time of that.
        excused: What was there before it, and could not be known to have been.
        clock: Its only item is the time.
        counted: How often each thing was seen, so that the test tests something.
    """

    service: Service
    memory: MemoryLevel
    store: Replicas
    kept: MemoryStore
    random: random.Random
    clock: list[float]
    sure: int = 0
    since: float = 0.0
    excused: set[Shade | None] = field(default_factory=set)
    counted: Counter[str] = field(default_factory=Counter)

    async def put(self) -> None:
        body = BODIES[self.random.choice(SHADES)]
        async with Spool(10**6) as spool:
            await spool.write(body)
            await self._change(self.service.upload(X, spool, lambda _: None))

    async def delete(self) -> None:
        await self._change(self.service.delete(X, lambda _: None))

    async def _change(self, work: Coroutine[None, None, object]) -> None:
        CHANGING.set(True)
        before = self.store.newest
        try:
            await work
        except (StoreError, UnknownImageError):
            self.store.newest = before  # what it saw it has not superseded
        else:
            self.sure, self.since = self.store.ours, self.clock[0]
            self.excused = self.store.unseen()

    async def other_put(self) -> None:
        body = BODIES[self.random.choice(SHADES)]
        key = self.random.choice([X, X, ADOPTED])
        await self.store.other_put(key, io.BytesIO(body))

    async def other_delete(self) -> None:
        for key in (ADOPTED, X):
            await self.store.other_delete(key)

    async def get(self) -> None:
        sure, since, excused = self.sure, self.since, self.excused
        try:
            answer = await self.service.derivations.get(derived(4 + self._small(2)))
        except StoreError:
            self.counted["failed"] += 1
            return
        except UnknownImageError:
            self.counted["unknown"] += 1
            new = self.clock[0] < since + NEW_SECONDS
            assert not new or None in set().union(*self.store.shown[sure:])
            return
        self.counted["assumed"] += self.service.assumed(X)
        if answer.lasting:
            self.counted["lasting"] += 1
            shade = seen(answer.derived.body)
            assert shade in excused.union(*self.store.shown[sure:])
        else:
            self.counted["passing"] += 1

    async def lag(self) -> None:
        states = self.store.states[-6:]
        self.store.lag(
            self.random.choice(states), heads=self._small(4), fetches=self._small(4)
        )

    async def catch_up(self) -> None:
        self.store.catch_up()

    async def lose(self) -> None:
        self.store.lost, self.store.refused = self.random.choice([(1, 0), (0, 1)])

    async def leave(self) -> None:
        self.store.away = self._small(6)
        if self._small(2):
            self.store.gate.clear()
            await asyncio.sleep(2 * PATIENCE)
            self.store.gate.set()

    async def wait(self) -> None:
        self.clock[0] += self.random.choice([0.5, 3, 6, 30])

    def _small(self, below: int) -> int:
        return self.random.randrange(below)

    async def step(self) -> None:
        ours = [self.put, self.delete]
        others = [self.other_put, self.other_put, self.other_delete]
        faults = [self.lag, self.lag, self.catch_up, self.lose, self.leave]
        faults += [self.wait, self.wait]
        at_once = self.random.choices(
            [*ours, *others, *faults, *[self.get] * 8], k=1 + self._small(3)
        )
        async with asyncio.timeout(10):
            await asyncio.gather(*(do() for do in at_once))

    async def check_cached(self) -> None:
        """All that is kept under a tag was made from the bytes that it is of."""
        tags = {
            self.service.revisions.tag_of(names.Revision(stored.revision)): data
            for state in self.store.states
            for stored, data in state.values()
        }
        for (tag, _), kept in tuple(self.memory._entries.items()):
            assert seen(kept.body) == seen(tags[tag])
        for key, (_, body) in tuple(self.kept._objects.items()):
            tag = names.Tag(key.split("/_/")[1].split("/")[0])
            assert seen(body) == seen(tags[tag])


@asynccontextmanager
async def open_model(pool: Pool, seed: int) -> AsyncIterator[Model]:
    clock = [1000.0]
    async with AsyncExitStack() as stack:
        store = Replicas({body: shade for shade, body in BODIES.items()})
        kept, memory = MemoryStore(), MemoryLevel(MemoryOptions())
        cache = await stack.enter_async_context(Cache((memory, StoreLevel(kept))))
        service = await stack.enter_async_context(
            Service(
                originals=Originals(store, lambda: clock[0]),
                cache=cache,
                pool=pool,
                purger=Purger(NoPurge(), Answered(60)),
                recipe=RECIPE,
                options=ServiceOptions(store_patience=PATIENCE),
                last_known=LastKnown(),
                clock=lambda: clock[0],
            )
        )
        yield Model(service, memory, store, kept, random.Random(seed), clock)


@pytest.mark.parametrize("seed", range(10))
async def test_no_interleaving_with_a_store_that_lags_shows_what_we_have_replaced(
    pool: Pool, seed: int
) -> None:
    async with open_model(pool, seed) as model:
        for _ in range(STEPS):
            await model.step()
        await model.check_cached()
        assert model.counted["lasting"] > 3
        # When all replicas agree, so does the service.
        model.store.catch_up()
        model.store.away = 0
        model.clock[0] += 1000
        now = model.store.shown[-1]
        try:
            answer = await model.service.derivations.get(derived(5))
        except UnknownImageError:
            assert None in now
        else:
            assert answer.lasting
            assert seen(answer.derived.body) in now
