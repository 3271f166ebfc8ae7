"""What is kept of derived images, in levels that may forget, asked nearest first.

Losing a level, or all of them, costs time and is never an error.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from image_repo.errors import StoreError
from image_repo.levels import Derived, Level
from image_repo.names import ImageName, MadeName, Tag

logger = logging.getLogger(__name__)

PENDING: Final = 64
"""Writes to one slow level under way at once; each holds a body in memory. One that
fails waits to be tried again, and must not take the places of another level's."""

PENDING_BYTES: Final = 64 * 2**20
"""Bytes of bodies in such writes; one body may be larger."""

PATIENCE: Final = 10.0
"""Seconds after which a level that does not answer counts as a miss."""

RESTING: Final = 10.0
"""Seconds for which a level that did not answer is not asked again."""

PAUSES: Final = (1.0, 5.0)
"""Seconds between a write that has failed and the next try."""

QUIET: Final = 60.0
"""Seconds between two lines in the log about one level that fails."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A derived image that was found, and the name of the level that had it."""

    derived: Derived
    level: str


@dataclass(frozen=True, slots=True)
class _Write:
    """A write to a slow level that is still to come, or under way."""

    level: str
    tag: Tag
    name: MadeName


class Cache:
    """Levels as one, the nearest first; a level that fails is passed by.

    Levels whose writes take time get theirs in the background, after the answer; a
    write that fails is tried again; when the cache is left, all are finished.

    Args:
        levels: The nearest first.
        patience: Seconds to wait for an answer of one level, and for the last writes.
        pauses: Seconds before each further try of a write.
        clock: Seconds that never go back.

    Attributes:
        found: How often each level had what was asked for; `none`: no level had it.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        *,
        patience: float = PATIENCE,
        pauses: Sequence[float] = PAUSES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._levels = tuple(levels)
        self._patience = patience
        self._pauses = tuple(pauses)
        self._clock = clock
        self._pending: dict[_Write, asyncio.Task[None]] = {}
        self._pending_bytes: Counter[str] = Counter()
        self._quiet: dict[str, float] = {}
        self._resting: dict[str, float] = {}
        self._forgets = 0
        self._closing = asyncio.Event()
        self.found: Counter[str] = Counter()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        if self._pending:
            _, late = await asyncio.wait(self._pending.values(), timeout=self._patience)
            await _cancel(late)

    async def near(self, tag: Tag, name: MadeName) -> Hit | None:
        """Return the derived image if a level has it that is asked in no time."""
        for level in self._levels:
            derived = await level.get(tag, name) if level.instant else None
            if derived is not None:
                self.found[level.name] += 1
                return Hit(derived, level.name)
        return None

    async def get(self, tag: Tag, name: MadeName) -> Hit | None:
        """Return the derived image from the nearest level that has it.

        The levels nearer than that one get it too.
        """
        forgets = self._forgets
        for position, level in enumerate(self._levels):
            if self._rests(level):
                continue
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

    async def where(self, tag: Tag, name: MadeName) -> dict[str, bool | None]:
        """Return which levels have a derived image; None: that one can't tell."""
        return {level.name: await self._has(level, tag, name) for level in self._levels}

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        """Give the derived image to all levels; never waits for a slow one."""
        await self._fill(self._levels, tag, name, derived)

    async def forget(self, image: ImageName, *, shared: bool = True) -> list[str]:
        """Forget everything made from *image*, and drop what is still to be written.

        Args:
            image: Whose.
            shared: Whether levels are meant, too, that other machines share.

        Returns the stored keys of all that was kept, each once; of a level that fails,
        those it could tell.
        """
        self._forgets += 1
        await _cancel([t for w, t in self._pending.items() if w.name.image == image])
        found: dict[str, None] = {}
        for level in self._levels:
            with self._passed_by(level, f"cannot list what is made from {image}"):
                async with asyncio.timeout(self._patience):
                    async for key in level.names(image):
                        found[key] = None
            if level.shared and not shared:
                continue
            with self._passed_by(level, f"cannot forget what is made from {image}"):
                async with asyncio.timeout(self._patience):
                    await level.forget(image)
        return list(found)

    async def _has(self, level: Level, tag: Tag, name: MadeName) -> bool | None:
        found: bool | None = None
        with self._passed_by(level, f"cannot look for {name}"):
            async with asyncio.timeout(self._patience):
                found = await level.has(tag, name)
        return found

    async def _fill(
        self, levels: Sequence[Level], tag: Tag, name: MadeName, derived: Derived
    ) -> None:
        for level in levels:
            if level.instant:
                with self._passed_by(level, f"cannot keep {name}"):
                    await level.put(tag, name, derived)
            else:
                self._later(level, _Write(level.name, tag, name), derived)

    def _later(self, level: Level, write: _Write, derived: Derived) -> None:
        if write in self._pending:
            return
        size = len(derived.body)
        count = sum(other.level == level.name for other in self._pending)
        taken = self._pending_bytes[level.name]
        if count >= PENDING or (count and taken + size > PENDING_BYTES):
            self._log(level, f"cannot keep {write.name}: too much waits to be written")
            return
        task = asyncio.create_task(self._write(level, write, derived))
        self._pending[write] = task
        self._pending_bytes[level.name] += size
        task.add_done_callback(lambda _: self._written(write, size))

    async def _write(self, level: Level, write: _Write, derived: Derived) -> None:
        pauses, written = list(self._pauses), False
        while True:
            with self._passed_by(level, f"cannot keep {write.name}"):
                async with asyncio.timeout(self._patience):
                    await level.put(write.tag, write.name, derived)
                written = True
            # One that hangs would hold its place for three times as long.
            if written or self._rests(level) or not pauses or self._closing.is_set():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pauses.pop(0)):
                    await self._closing.wait()

    def _written(self, write: _Write, size: int) -> None:
        del self._pending[write]
        self._pending_bytes[write.level] -= size

    @contextmanager
    def _passed_by(self, level: Level, what: str) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self._resting[level.name] = self._clock() + RESTING
            self._log(level, f"{what}: no answer in {self._patience:g} s")
        except StoreError as error:
            self._log(level, f"{what}: {error}")

    def _rests(self, level: Level) -> bool:
        return self._clock() < self._resting.get(level.name, 0.0)

    def _log(self, level: Level, sentence: str) -> None:
        now = self._clock()
        if now >= self._quiet.get(level.name, now):
            self._quiet[level.name] = now + QUIET
            logger.warning("cache level %s: %s", level.name, sentence)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and wait until they have really ended."""
    cancelled = tuple(tasks)
    for task in cancelled:
        task.cancel()
    if cancelled:
        await asyncio.wait(cancelled)
