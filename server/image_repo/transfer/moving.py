"""What copying and importing share: many at once, each checked, none in the way."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from image_repo.errors import (
    BadImageError,
    BusyError,
    ConfigError,
    ImageRepoError,
    StoreError,
)
from image_repo.stores.store import CHUNK, Store, Stored
from image_repo.transfer.progress import Outcome, Progress, Result

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")

JOBS: Final = 8
"""Objects moved at once: most of the time of each is waiting for a disk or network."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How objects are moved.

    Attributes:
        jobs: How many at once, at least 1.
        replace: Whether an object that is different in the target is overwritten.
        dry_run: Whether nothing is put, only said.
    """

    jobs: int = JOBS
    replace: bool = False
    dry_run: bool = False

    def __post_init__(self) -> None:
        if self.jobs < 1:
            raise ConfigError(f"option --jobs is {self.jobs}: it must be at least 1")


@dataclass(frozen=True, slots=True)
class Incoming:
    """An object before it is put.

    Attributes:
        label: What it is called in its result.
        key: Where it goes.
        body: A file that can seek.
        size: Bytes in it.
        revision: What the target's revision of it must be.
        media_type: As in Content-Type.
        metadata: As `Store.put` takes it.
    """

    label: str
    key: str
    body: BinaryIO
    size: int
    revision: str
    media_type: str
    metadata: Mapping[str, str]


async def each(
    listing: Callable[[], AsyncGenerator[T, None]],
    work: Callable[[T], Awaitable[None]],
    progress: Progress,
    jobs: int,
) -> None:
    """Do *work* with every item, *jobs* at once, until progress is told to stop.

    Items are taken from the listing as they are needed. A second listing counts them.
    """
    turn = asyncio.Lock()

    async def following() -> T | None:
        async with turn:
            if progress.summary.stopped:
                return None
            try:
                return await anext(items, None)
            except StoreError as error:
                progress.stop(str(error))
                return None

    async def worker() -> None:
        while (item := await following()) is not None:
            await work(item)
            progress.step()

    async with aclosing(listing()) as items, asyncio.TaskGroup() as group:
        counting = group.create_task(_count(listing, progress))
        await asyncio.wait([group.create_task(worker()) for _ in range(jobs)])
        counting.cancel()


async def _count(
    listing: Callable[[], AsyncGenerator[T, None]], progress: Progress
) -> None:
    total = 0
    with suppress(StoreError):  # who does the work says it
        async with aclosing(listing()) as items:
            async for _ in items:
                total += 1
        progress.expect(total)


async def attempted(label: str, attempt: Awaitable[Result]) -> Result:
    """Return the result of *attempt*, or that which its error means."""
    try:
        return await attempt
    except BadImageError as error:
        return Result(label, Outcome.NOT_IMAGE, reason=str(error))
    except (StoreError, BusyError) as error:
        return Result(label, Outcome.FAILED, reason=str(error), systemic=True)
    except FileNotFoundError:
        return Result(label, Outcome.GONE)
    except OSError as error:
        return Result(label, Outcome.FAILED, reason=f"cannot read it: {error.strerror}")
    except (ImageRepoError, ValueError) as error:  # ValueError: a store can't hold it
        return Result(label, Outcome.FAILED, reason=str(error))


async def keep(
    target: Store, given: Incoming, there: Stored | None, rules: Rules
) -> Result:
    """Put an object unless other bytes are *there*, and check what was stored.

    Raises:
        StoreError: It was not stored, or not as it was sent.
    """
    if there is not None and not rules.replace:
        reason = f"{given.key!r} has other bytes; --replace overwrites them"
        return Result(given.label, Outcome.CONFLICT, reason=reason)
    if rules.dry_run:
        reason = "" if there is None else f"over other bytes of {given.key!r}"
        return Result(given.label, Outcome.WOULD, given.size, reason)
    stored = await target.put(
        given.key, given.body, media_type=given.media_type, metadata=given.metadata
    )
    if (stored.revision, stored.size) != (given.revision, given.size):
        # Or the next run would take it for what it should be.
        await target.delete(given.key)
        raise StoreError(f"{given.key!r} was stored as other bytes, and removed again")
    return Result(given.label, Outcome.COPIED, given.size)


def body_of(descriptor: int, size: int) -> BinaryIO:
    """Return the first *size* bytes of an open file as a file of their own.

    It leaves the position of that file alone, and does not close it.
    """
    return io.BufferedReader(_Part(descriptor, size), CHUNK)


class _Part(io.RawIOBase):
    def __init__(self, descriptor: int, size: int) -> None:
        self._descriptor = descriptor
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}
        self._at = max(0, start[whence] + offset)
        return self._at

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self._size - self._at)]
        got = os.preadv(self._descriptor, [view], self._at) if view else 0
        if view and not got:
            raise StoreError("the file ends before its last byte")
        self._at += got
        return got
