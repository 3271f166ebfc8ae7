"""The last revision of each image that the store has confirmed.

What was made of it can be served while the store is away, after a restart as well.
"""

from __future__ import annotations

import asyncio
import io
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import BinaryIO, Final, Protocol, Self

from image_repo.errors import StoreError
from image_repo.flights import Remembered
from image_repo.names import MARK, ImageName, Revision
from image_repo.stores.store import Stored

logger = logging.getLogger(__name__)

PENDING: Final = 256
"""Records being written at once; what is noted beyond that is not written."""

REWRITE_SECONDS: Final = 600.0
"""How long a record is taken to be on the disk, which may forget it at any time."""

READ_SECONDS: Final = 2.0
"""Longest wait for a record on the disk."""

FINISH_SECONDS: Final = 5.0
"""Longest wait for records being written."""

QUIET: Final = 60.0
"""Seconds between two lines in the log about a disk that fails."""

_NONE: Final = Revision("")
"""Stands for no revision, where what was known before must not be believed."""


class Records(Protocol):
    """What keeps records on a disk: a `Shelf`; its methods raise StoreError."""

    async def read(self, image: str, key: str) -> tuple[Stored, bytes] | None:
        """Return what was put, with all of its body; None: there is nothing."""
        ...

    async def put(self, image: str, key: str, body: BinaryIO) -> None:
        """Keep *body* in place of any other; a reader never sees a part of it."""
        ...

    async def forget(self, image: str) -> object:
        """Remove all that was put for *image*."""
        ...


class LastKnown:
    """The last known revision of each image; an async context manager.

    A record on the disk lies under a name of its own, so that it outlives what is made
    from its image, and goes when it is no longer true. Writes go on in the background,
    one at a time for each image, and the newest wins.

    Args:
        records: Where they are kept; None: only in memory.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        records: Records | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records = records
        self._clock = clock
        self._known: Remembered[ImageName, Revision] = Remembered(
            float("inf"), clock=clock
        )
        self._written: Remembered[ImageName, Revision] = Remembered(
            REWRITE_SECONDS, clock=clock
        )
        self._wanted: dict[ImageName, Revision] = {}
        self._writing: dict[ImageName, asyncio.Task[None]] = {}
        self._quiet_until = clock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is being written, and write nothing any more."""
        self._records = None
        if self._writing:
            # Who is cancelled waits for the disk: nobody waits for one that hangs.
            _, late = await asyncio.wait(self._writing.values(), timeout=FINISH_SECONDS)
            for task in late:
                task.cancel()

    async def recall(self, image: ImageName) -> Revision | None:
        """Return the last known revision; None: none is known.

        It is never one from before it was void, whatever comes meanwhile.
        """
        known = self._nearest(image)
        if known is None and self._records is not None:
            read = await self._read(self._records, image)
            # What was noted meanwhile is newer.
            known = self._nearest(image)
            if known is None and read is not None:
                self._known.put(image, read)
                self._written.put(image, read)
                known = read
        return known or None

    def note(self, image: ImageName, revision: Revision | None) -> None:
        """Take note of what the store has confirmed; None: there is nothing."""
        said = revision or _NONE
        self._known.put(image, said)
        if self._written.get(image) != said or image in self._wanted:
            self._want(image, said, surely=False)

    def void(self, image: ImageName) -> None:
        """Believe no longer what is known of an image, since it has changed.

        `settled` waits until this is true after a restart as well.
        """
        self._known.put(image, _NONE)
        self._want(image, _NONE, surely=True)

    async def settled(self, image: ImageName) -> None:
        """Wait until the disk has what is known of an image; a while at most."""
        task = self._writing.get(image)
        if task is not None:
            _, late = await asyncio.wait([task], timeout=FINISH_SECONDS)
            if late:
                self._log(f"cannot write that of {image}: no answer")

    def _nearest(self, image: ImageName) -> Revision | None:
        wanted = self._wanted.get(image)
        return self._known.get(image) if wanted is None else wanted

    async def _read(self, records: Records, image: ImageName) -> Revision | None:
        place = _place(image)
        try:
            async with asyncio.timeout(READ_SECONDS):
                found = await records.read(place, place)
        except TimeoutError:
            self._log(f"cannot read that of {image}: no answer")
            return None
        except StoreError as error:
            self._log(f"cannot read that of {image}: {error}")
            return None
        return None if found is None else Revision(found[1].decode())

    def _want(self, image: ImageName, revision: Revision, *, surely: bool) -> None:
        if self._records is None:
            return
        if image not in self._writing:
            if len(self._writing) >= PENDING and not surely:
                return
            task = asyncio.create_task(self._write(self._records, image))
            self._writing[image] = task
        self._wanted[image] = revision

    async def _write(self, records: Records, image: ImageName) -> None:
        """Make the disk have what is wanted, until nothing else is wanted."""
        try:
            written = None
            while (revision := self._wanted[image]) != written:
                # What is no longer true goes, even from a disk that is full.
                if not (revision and await self._put(records, image, revision)):
                    await self._remove(records, image)
                written = revision
        finally:
            del self._wanted[image], self._writing[image]

    async def _put(
        self, records: Records, image: ImageName, revision: Revision
    ) -> bool:
        place = _place(image)
        try:
            await records.put(place, place, io.BytesIO(revision.encode()))
        except StoreError as error:
            self._log(f"cannot write that of {image}: {error}")
            return False
        self._written.put(image, revision)
        return True

    async def _remove(self, records: Records, image: ImageName) -> None:
        try:
            await records.forget(_place(image))
        except StoreError as error:
            self._log(f"cannot remove that of {image}: {error}")
            return
        self._written.put(image, _NONE)

    def _log(self, sentence: str) -> None:
        now = self._clock()
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET
            logger.warning("last known revisions: %s", sentence)


def _place(image: ImageName) -> str:
    """Return what no image is called, and nothing made from one."""
    return f"{image}/{MARK}/revision"
