"""Batches: one request's work on many images, behind which no other has to wait."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Callable,
    Coroutine,
    Iterator,
    Sequence,
)
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self, TypeVar

from image_repo.errors import BusyError, ImageRepoError, StoreError

if TYPE_CHECKING:
    from image_repo.names import ImageName

T = TypeVar("T")

logger = logging.getLogger(__name__)

AHEAD: Final = 2
"""What a batch makes while what came before is sent: it may hold as many in memory."""

BUSY_TRIES: Final = 5
"""How often an image is tried for which the server is too busy."""

BUSY_SECONDS: Final = 10
"""Longest wait between two such tries."""

STORE_ERRORS: Final = 5
"""Failures of the store in a row after which the rest of a batch isn't tried."""

RETRY_AFTER: Final = 10
"""Seconds; small batches take about as long."""


class Batches:
    """Bounds on all batches together; an async context manager.

    Half of the workers at most are busy for batches, so that a single image never
    waits for more than it would without them, plus one derivation. They take turns.

    Args:
        workers: How many there are.
        most: How many batches there may be at once.
    """

    def __init__(self, workers: int, most: int) -> None:
        self._turns = asyncio.Semaphore(max(1, workers // 2))
        self._free = most
        self._working: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is under way."""
        if self._working:
            await asyncio.wait(self._working)

    @contextmanager
    def begun(self) -> Iterator[None]:
        """Count as a batch.

        Raises:
            BusyError: There are as many as there may be.
        """
        if self._free <= 0:
            raise BusyError("too many selections of images are sent", RETRY_AFTER)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def each(
        self,
        images: Sequence[ImageName],
        make: Callable[[ImageName], Coroutine[None, None, T]],
    ) -> AsyncGenerator[tuple[ImageName, T | ImageRepoError], None]:
        """Yield each image with what *make* makes of it, or why it could not, in order.

        Whoever leaves early closes this; what is under way then goes on by itself.
        """
        todo = iter(images)
        ahead: deque[tuple[ImageName, asyncio.Task[T | ImageRepoError]]] = deque()
        failures = 0
        try:
            while failures < STORE_ERRORS:
                for image in islice(todo, AHEAD - len(ahead)):
                    work = asyncio.create_task(self._tried(image, make))
                    ahead.append((image, work))
                if not ahead:
                    return
                made = await ahead[0][1]
                failures = failures + 1 if isinstance(made, StoreError) else 0
                image, _ = ahead.popleft()
                yield image, made
        finally:
            await _cancel([task for _, task in ahead])
        for image in (*(image for image, _ in ahead), *todo):
            yield image, StoreError("not tried, for the store has failed before")

    async def _tried(
        self, image: ImageName, make: Callable[[ImageName], Coroutine[None, None, T]]
    ) -> T | ImageRepoError:
        for _ in range(BUSY_TRIES - 1):
            made = await self._once(image, make)
            if not isinstance(made, BusyError):
                return made
            # Without its turn, so that others have theirs.
            await asyncio.sleep(min(made.retry_after, BUSY_SECONDS))
        return await self._once(image, make)

    async def _once(
        self, image: ImageName, make: Callable[[ImageName], Coroutine[None, None, T]]
    ) -> T | ImageRepoError:
        await self._turns.acquire()
        work = asyncio.create_task(make(image))
        self._working.add(work)
        work.add_done_callback(self._done)
        try:
            # A worker can't be called back: the turn ends when the work does.
            return await asyncio.shield(work)
        except ImageRepoError as error:
            return error
        except Exception:
            logger.exception("cannot make what is asked of %s", image)
            return ImageRepoError("the server failed; the log says why")

    def _done(self, work: asyncio.Task[object]) -> None:
        self._working.discard(work)
        self._turns.release()
        if not work.cancelled():
            # Not an error of ours if the batch has ended.
            work.exception()


async def _cancel(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
