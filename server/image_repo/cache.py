"""What is kept of derived images, in levels that may forget, asked nearest first.

Everything is kept under (tag, canonical name), so that nothing here is ever wrong, only
missing: losing a level, or all of them, costs time and is never an error.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections import Counter, OrderedDict, defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from image_repo.errors import StoreError
from image_repo.names import (
    ImageName,
    MadeName,
    Tag,
    derived_prefix,
    stored_key,
)
from image_repo.options import option
from image_repo.stores.store import Store

logger = logging.getLogger(__name__)

ENTRY_BYTES: Final = 1024
"""What an entry in memory takes besides its body: the longest name, and dicts."""

PENDING: Final = 64
"""Writes to slow levels under way at once; each holds a body in memory."""

PENDING_BYTES: Final = 64 * 2**20
"""Bytes of bodies in such writes; one body may be larger."""

PATIENCE: Final = 10.0
"""Seconds after which a level that does not answer counts as a miss."""

QUIET: Final = 60.0
"""Seconds between two lines in the log about one level that fails."""

DELETES: Final = 8
"""Deletes at once in one store; Swift takes about 20 ms for each."""


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """The level in the server's memory."""

    max_size: int = option(
        64 * 2**20, "Most memory for derived images; 0: none is used.", low=0, size=True
    )
    max_elements: int = option(10_000, "Most derived images in memory; 0: none.", low=0)


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived image."""

    body: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Hit:
    """A derived image that was found, and the name of the level that had it."""

    derived: Derived
    level: str


class Level(Protocol):
    """Keeps derived images, and may forget them; StoreError when it can do neither."""

    @property
    def name(self) -> str:
        """One word for logs and headers."""
        ...

    @property
    def instant(self) -> bool:
        """Whether a put takes no time worth speaking of."""
        ...

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        """Return what was put, whole; None: it is not here."""
        ...

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        """Keep *derived* for as long as suits the level."""
        ...

    async def forget(self, image: ImageName) -> None:
        """Forget everything made from *image*, under whatever tag."""
        ...

    def names(self, image: ImageName) -> AsyncIterator[str]:
        """Yield the stored keys of what is kept of *image*."""
        ...


class MemoryLevel:
    """A `Level` in memory that forgets what was not asked for the longest time."""

    name = "memory"
    instant = True

    def __init__(self, options: MemoryOptions) -> None:
        self._options = options
        self._entries: OrderedDict[tuple[Tag, MadeName], Derived] = OrderedDict()
        self._images: defaultdict[ImageName, set[tuple[Tag, MadeName]]]
        self._images = defaultdict(set)
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        found = self._entries.get((tag, name))
        if found is not None:
            self._entries.move_to_end((tag, name))
        return found

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        key = (tag, name)
        self._remove(key)
        if len(derived.body) + ENTRY_BYTES > self._options.max_size:
            return  # it would push out all others and not fit even so
        self._entries[key] = derived
        self._images[name.image].add(key)
        self.size += len(derived.body) + ENTRY_BYTES
        while (
            self.size > self._options.max_size
            or len(self._entries) > self._options.max_elements
        ):
            self._remove(next(iter(self._entries)))

    async def forget(self, image: ImageName) -> None:
        for key in tuple(self._images.get(image, ())):
            self._remove(key)

    async def names(self, image: ImageName) -> AsyncIterator[str]:
        for tag, name in tuple(self._images.get(image, ())):
            yield stored_key(name, tag)

    def _remove(self, key: tuple[Tag, MadeName]) -> None:
        derived = self._entries.pop(key, None)
        if derived is None:
            return
        self.size -= len(derived.body) + ENTRY_BYTES
        image = key[1].image
        self._images[image].discard(key)
        if not self._images[image]:
            del self._images[image]


class StoreLevel:
    """A `Level` in a store.

    Args:
        store: Where.
        name: One word for logs and headers.
        lifetime: Seconds after which the store may forget what was put; None: it keeps
            everything until it is told to forget it.

    Attributes:
        lifetime: As given; what is put later has another if it is changed.
    """

    instant = False

    def __init__(
        self, store: Store, name: str = "store", lifetime: int | None = None
    ) -> None:
        self._store = store
        self.lifetime = lifetime
        self.name = name

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        found = await self._store.fetch(stored_key(name, tag))
        if found is None:
            return None
        with found:
            return Derived(await found.read(), found.stored.media_type)

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        await self._store.put(
            stored_key(name, tag),
            io.BytesIO(derived.body),
            media_type=derived.media_type,
            lifetime=self.lifetime,
        )

    async def forget(self, image: ImageName) -> None:
        keys = [key async for key in self.names(image)]
        at_once = asyncio.Semaphore(DELETES)

        async def delete(key: str) -> None:
            async with at_once:
                await self._store.delete(key)

        outcomes = await asyncio.gather(*map(delete, keys), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def names(self, image: ImageName) -> AsyncIterator[str]:
        return self._store.list(derived_prefix(image))


class Cache:
    """Levels as one, the nearest first; a level that fails is passed by.

    Levels whose writes take time get theirs in the background, after the answer; when
    the cache is left, they are finished.

    Args:
        levels: The nearest first.
        patience: Seconds to wait for an answer of one level, and for the last writes.
        clock: Seconds that never go back.

    Attributes:
        found: How often each level had what was asked for; `none`: no level had it.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        patience: float = PATIENCE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._levels = tuple(levels)
        self._patience = patience
        self._clock = clock
        self._pending: dict[asyncio.Task[None], ImageName] = {}
        self._pending_bytes = 0
        self._quiet: dict[str, float] = {}
        self._forgets = 0
        self.found: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pending:
            _, late = await asyncio.wait(self._pending, timeout=self._patience)
            await _cancel(late)

    async def get(self, tag: Tag, name: MadeName) -> Hit | None:
        """Return the derived image from the nearest level that has it.

        The levels nearer than that one get it too.
        """
        forgets = self._forgets
        for position, level in enumerate(self._levels):
            derived: Derived | None = None
            with self._passed_by(level, f"cannot read {name}"):
                async with asyncio.timeout(self._patience):
                    derived = await level.get(tag, name)
            if derived is not None:
                self.found[level.name] += 1
                # What was read before a purge must not come back by it.
                if forgets == self._forgets:
                    await self._fill(self._levels[:position], tag, name, derived)
                return Hit(derived, level.name)
        self.found["none"] += 1
        return None

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        """Give the derived image to all levels; never waits for a slow one."""
        await self._fill(self._levels, tag, name, derived)

    async def forget(self, image: ImageName) -> list[str]:
        """Forget everything made from *image*, and drop what is still to be written.

        Returns the stored keys of all that was kept, each once; of a level that fails,
        those it could tell.
        """
        self._forgets += 1
        await _cancel([task for task, of in self._pending.items() if of == image])
        found: dict[str, None] = {}
        for level in self._levels:
            with self._passed_by(level, f"cannot list what is made from {image}"):
                async with asyncio.timeout(self._patience):
                    async for key in level.names(image):
                        found[key] = None
            with self._passed_by(level, f"cannot forget what is made from {image}"):
                async with asyncio.timeout(self._patience):
                    await level.forget(image)
        return list(found)

    async def _fill(
        self, levels: Sequence[Level], tag: Tag, name: MadeName, derived: Derived
    ) -> None:
        for level in levels:
            work = self._put(level, tag, name, derived)
            if level.instant:
                await work
            else:
                self._later(level, name, len(derived.body), work)

    async def _put(
        self, level: Level, tag: Tag, name: MadeName, derived: Derived
    ) -> None:
        with self._passed_by(level, f"cannot keep {name}"):
            async with asyncio.timeout(self._patience):
                await level.put(tag, name, derived)

    def _later(
        self,
        level: Level,
        name: MadeName,
        size: int,
        work: Coroutine[None, None, None],
    ) -> None:
        full = bool(self._pending) and self._pending_bytes + size > PENDING_BYTES
        if full or len(self._pending) >= PENDING:
            work.close()
            self._log(level, f"cannot keep {name}: too much waits to be written")
            return
        task = asyncio.create_task(work)
        self._pending[task] = name.image
        self._pending_bytes += size
        task.add_done_callback(lambda done: self._written(done, size))

    def _written(self, task: asyncio.Task[None], size: int) -> None:
        del self._pending[task]
        self._pending_bytes -= size

    @contextmanager
    def _passed_by(self, level: Level, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self._log(level, f"{what}: no answer in {self._patience:g} s")
        except StoreError as error:
            self._log(level, f"{what}: {error}")

    def _log(self, level: Level, sentence: str) -> None:
        now = self._clock()
        if now >= self._quiet.get(level.name, now):
            self._quiet[level.name] = now + QUIET
            logger.warning("cache level %s: %s", level.name, sentence)


async def _cancel(
    tasks: Sequence[asyncio.Task[None]] | set[asyncio.Task[None]],
) -> None:
    """Cancel tasks, and wait until they have really ended."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
