"""Doing a thing once for all who ask at once, and remembering things for a while."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Flights(Generic[K, V]):
    """Single flight: callers that ask for one key at once share one piece of work.

    The work belongs to none of them: it goes on when a caller leaves, even the first
    or the last, and is never cancelled from here. Whoever gives it bounds its time.
    """

    def __init__(self) -> None:
        self._flying: dict[K, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        """How many pieces of work are under way."""
        return len(self._flying)

    async def do(self, key: K, make: Callable[[], Coroutine[None, None, V]]) -> V:
        """Return what *make* returns, or raise what it raises.

        It is called only if no work for *key* is under way, and what comes of it is
        given to all who asked meanwhile. Nothing is kept for those who ask later.
        """
        task = self._flying.get(key)
        if task is None:
            task = self._flying[key] = asyncio.create_task(make())
            task.add_done_callback(lambda done: self._land(key, done))
        return await asyncio.shield(task)

    async def landed(self, which: Callable[[K], bool]) -> None:
        """Wait until all work has ended that is under way now for keys like *which*."""
        tasks = [task for key, task in self._flying.items() if which(key)]
        if tasks:
            await asyncio.wait(tasks)

    def _land(self, key: K, task: asyncio.Task[V]) -> None:
        del self._flying[key]
        if not task.cancelled():
            # Not an error of ours if all who asked have left.
            task.exception()


class Remembered(Generic[K, V]):
    """A small map whose values are forgotten after a while, the oldest first.

    Args:
        lifetime: Seconds for which a value is remembered; 0 or less: not at all.
        most: How many values at once.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        lifetime: float,
        most: int = 10_000,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lifetime = lifetime
        self._most = most
        self._clock = clock
        self._values: OrderedDict[K, tuple[V, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many values take up room, whether or not their time is over."""
        return len(self._values)

    def get(self, key: K) -> V | None:
        """Return the value; None: there is none, or its time is over."""
        found = self._values.get(key)
        if found is None:
            return None
        value, until = found
        if self._clock() < until:
            return value
        del self._values[key]
        return None

    def put(self, key: K, value: V, *, lifetime: float | None = None) -> None:
        """Remember *value* from now on, instead of any other.

        Args:
            key: What to find it by.
            value: Anything but None, which `get` says when there is nothing.
            lifetime: Seconds; None: those of all values.
        """
        until = self._clock() + (self._lifetime if lifetime is None else lifetime)
        self._values[key] = (value, until)
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)

    def forget(self, key: K) -> None:
        """Forget the value, if there is one."""
        self._values.pop(key, None)

    def forget_where(self, which: Callable[[K], bool]) -> None:
        """Forget the values of all keys like *which*; it looks at each of them."""
        for key in [key for key in self._values if which(key)]:
            del self._values[key]
