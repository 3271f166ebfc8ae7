"""A bounded directory of files that may be forgotten, shared by several processes.

    {root}/entries/…    one file for each entry, read by `stores.sealed`
    {root}/tmp, lock    files being written: see `stores.drafts`
    {root}/total, …     how much there is: see `quota`

What the directory holds is the only index: a read opens the file of its key, so that
a process that has just begun finds all that is there, and what others write as well.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeVar

from image_repo.errors import StoreError
from image_repo.quota import ABSENT, Bounds, Quota, names_in, remove, space, space_of
from image_repo.stores import drafts, sealed
from image_repo.stores.store import (
    CHUNK,
    Object,
    Stored,
    changing,
    failed,
    reading,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

TOUCH_SECONDS: Final = 60.0
"""An entry is marked as used at most so often."""

READERS: Final = 8
WRITERS: Final = 2
"""Threads of their own, so that a disk that hangs takes nobody else's."""

_GONE: Final = (*ABSENT, PermissionError)
"""What says that there is nothing to read, or that it belongs to somebody else."""

_NO_FILE: Final = {errno.EISDIR, errno.ELOOP, errno.ENXIO}
"""What says that something else is in the place of a file."""

_SHARD: Final = 3  # hexadecimal digits: 4096 folders, 250 files each of a million


class Shelf:
    """Entries under an image and a key, any of which may be gone at any time.

    What is returned is what was put, whole and unaltered: every body is held against
    its checksum, and a damaged file is removed. Nothing is synced to the disk, since
    what a loss of power leaves half-written is found out in the same way.

    A directory that can't be used is no error of whoever opens it: nothing is found
    there, and each `put` says why.

    Args:
        root: The directory; made when it is not there.
        bounds: What it may take.
        now: The clock, with a time zone.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        root: Path,
        bounds: Bounds,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = str(root)
        self._now = now
        self._quota = Quota(self._root, f"{self._root}/entries", bounds, clock)
        self._drafts = drafts.Drafts(root)

    async def __aenter__(self) -> Self:
        self._readers = ThreadPoolExecutor(READERS, "shelf-reader")
        self._writers = ThreadPoolExecutor(WRITERS, "shelf-writer")
        # In the background: whatever is there is found meanwhile.
        self._counting = asyncio.create_task(self._count())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._quota.stop()
        self._counting.cancel()
        await asyncio.gather(self._counting, return_exceptions=True)
        for threads in (self._readers, self._writers):
            threads.shutdown(wait=False, cancel_futures=True)

    async def get(self, image: str, key: str) -> Object | None:
        """Open an entry; None: it is not here, or no longer.

        Raises:
            StoreError: The disk does not give it.
        """
        return await reading(lambda: self._get(image, key), self._readers)

    async def read(self, image: str, key: str) -> tuple[Stored, bytes] | None:
        """Return an entry with all of its body; as `get`."""
        return await reading(lambda: self._read(image, key), self._readers)

    async def about(self, image: str, key: str) -> Stored | None:
        """Return what is known of an entry, whose body is not looked at; as `get`.

        Its revision is the checksum of the body.
        """
        return await reading(lambda: self._about(image, key), self._readers)

    async def put(
        self,
        image: str,
        key: str,
        body: BinaryIO,
        *,
        size: int | None = None,
        media_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Keep *body*, from its first byte on, in place of any other.

        When it is cancelled, it comes back only after *body* is no longer in use.

        Args:
            image: What the entry is forgotten with.
            key: What it is found by; it must say the image as well.
            body: A file that can seek.
            size: How many bytes of it; None: all.
            media_type: Any text.
            metadata: Any texts.

        Raises:
            StoreError: There is no room, or the disk does not take it.
        """
        stored = Stored(key, 0, "", media_type, self._now(), dict(metadata or {}))
        await changing(lambda: self._put(image, stored, body, size), self._writers)

    def fits(self, size: int) -> bool:
        """Return whether an entry of so many bytes may be kept here at all."""
        return self._quota.fits(size)

    async def forget(self, image: str) -> list[str]:
        """Remove all entries of an image; return their keys.

        Raises:
            StoreError: Some of them may still be there.
        """
        # Not with the writers, who may be making room for a while.
        return await changing(lambda: self._forget(image), self._readers)

    async def keys(self, image: str) -> list[str]:
        """Return the keys of an image's entries; raises as `get`."""
        return await reading(lambda: self._keys(image), self._readers)

    async def total(self) -> tuple[int, int]:
        """Return how many bytes of the disk and entries there are; raises as `get`.

        All processes count together. What comes or goes while one of them looks through
        the directory may be counted twice, until that is done again.
        """
        return await reading(self._total, self._readers)

    async def settled(self) -> None:
        """Wait until what was here at the start is counted."""
        await asyncio.wait([self._counting])

    # In threads: reading

    def _path(self, image: str, key: str) -> str:
        return f"{self._folder(image)}/{_digest(image)}.{_digest(key)}"

    def _folder(self, image: str) -> str:
        return f"{self._root}/entries/{_digest(image)[:_SHARD]}"

    def _read(self, image: str, key: str) -> tuple[Stored, bytes] | None:
        parts: list[bytes] = []
        found = self._get(image, key, parts.append)
        if found is None:
            return None
        found.close()
        return found.stored, b"".join(parts)

    def _get(
        self, image: str, key: str, take: Callable[[bytes], None] = lambda _: None
    ) -> Object | None:
        """Open an entry, all of its body given to *take*."""
        path = self._path(image, key)
        with _translated("read", key), ExitStack() as stack:
            try:
                file = stack.enter_context(_opened(path))
                stored = _whole(file.fileno(), key, take)
            except _GONE:
                return None
            except StoreError:
                logger.warning("an entry of the cache is damaged: %s", key)
                with suppress(OSError):  # a directory that can only be read
                    self._remove(path)
                return None
            stack.pop_all()
            return Object(stored, file)

    def _about(self, image: str, key: str) -> Stored | None:
        with (
            _translated("read", key),
            suppress(*_GONE, StoreError),
            _opened(self._path(image, key)) as file,
        ):
            return sealed.read(file.fileno(), key)
        return None

    def _entries(self, image: str) -> Iterator[tuple[str, str]]:
        """Yield path and key of each entry of an image; of a damaged one no key."""
        folder, beginning = self._folder(image), f"{_digest(image)}."
        for name in names_in(folder):
            if not name.startswith(beginning):
                continue
            path, key = f"{folder}/{name}", ""
            try:
                with suppress(StoreError), _opened(path) as file:
                    key = sealed.read(file.fileno()).key
            except FileNotFoundError:
                continue
            # Else it is not of this place.
            yield path, key if name == beginning + _digest(key) else ""

    def _keys(self, image: str) -> list[str]:
        with _translated("list", image):
            return [key for _, key in self._entries(image) if key]

    def _total(self) -> tuple[int, int]:
        with _translated("count", "the cache's directory"):
            return self._quota.total()

    # In threads: writing

    def _put(
        self, image: str, stored: Stored, body: BinaryIO, wanted: int | None
    ) -> None:
        place = self._path(image, stored.key)
        with _translated("write", stored.key):
            size = body.seek(0, os.SEEK_END) if wanted is None else wanted
            known = replace(stored, size=size, revision=_checksum(0))
            try:
                self._write(place, known, body)
            except FileNotFoundError:  # the directory is new, or has been removed
                self._open()
                self._write(place, known, body)

    def _write(self, place: str, stored: Stored, body: BinaryIO) -> None:
        self._quota.make_room(stored.size + len(sealed.foot(stored)))
        with self._drafts.new() as (fd, path):
            checksum = 0
            for chunk in _first(body, stored.size):
                checksum = zlib.crc32(chunk, checksum)
                drafts.write(fd, chunk)
            # Of the same length as with any other checksum.
            drafts.write(fd, sealed.foot(replace(stored, revision=_checksum(checksum))))
            taken, before = space(os.fstat(fd).st_size), space_of(place)
            _rename(path, place)
        self._quota.add(taken - (before or 0), int(before is None))

    def _forget(self, image: str) -> list[str]:
        found = []
        with _translated("forget", image):
            for path, key in self._entries(image):
                self._remove(path)
                found.append(key)
        return [key for key in found if key]

    def _remove(self, path: str) -> None:
        size = space_of(path)
        if remove(path):
            self._quota.add(-(size or 0), -1)

    def _recount(self) -> None:
        with _translated("open", "the cache's directory"):
            self._open()
            self._quota.recount()

    def _open(self) -> None:
        os.makedirs(f"{self._root}/entries", mode=0o700, exist_ok=True)  # noqa: PTH103
        self._drafts.open()

    async def _count(self) -> None:
        try:
            await changing(self._recount, self._writers)
        except StoreError as error:
            logger.warning("cache in %s: %s", self._root, error)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=16).hexdigest()


def _opened(path: str) -> FileIO:
    """Open an entry.

    Raises:
        StoreError: It is no file.
    """
    try:
        return open(path, "rb", buffering=0, opener=_open_at_once)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise sealed.damaged(None) from error
        raise


def _open_at_once(path: str, flags: int) -> int:
    # A pipe in the place of a file would not open before somebody writes.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _whole(fd: int, key: str, take: Callable[[bytes], None]) -> Stored:
    """Return what is known of a file, whose body is right, and mark it as used.

    Raises:
        StoreError: It is damaged.
    """
    stored = sealed.read(fd, key)
    checksum = 0
    for chunk in _body(fd, stored.size):
        checksum = zlib.crc32(chunk, checksum)
        take(chunk)
    if _checksum(checksum) != stored.revision:
        raise sealed.damaged(key)
    _touch(fd)
    return stored


def _first(body: BinaryIO, size: int) -> Iterator[bytes]:
    body.seek(0)
    while size:
        chunk = body.read(min(CHUNK, size))
        if not chunk:
            raise StoreError("what is to be kept ends before its last byte")
        size -= len(chunk)
        yield chunk


def _checksum(crc: int) -> str:
    """Return what stands for a body: against faults, and a fifth of a hash's cost."""
    return f"crc32-{crc:08x}"


def _body(fd: int, size: int) -> Iterator[bytes]:
    at = 0
    while at < size:
        chunk = os.pread(fd, min(CHUNK, size - at), at)
        if not chunk:
            raise StoreError("the file ends before its last byte")
        at += len(chunk)
        yield chunk


def _touch(fd: int) -> None:
    """Mark a file as used just now; clocks may have been put back."""
    if abs(time.time() - os.fstat(fd).st_mtime) > TOUCH_SECONDS:
        with suppress(OSError):  # a directory that can only be read
            os.utime(fd)


def _rename(path: str, place: str) -> None:
    try:
        os.rename(path, place)  # noqa: PTH104
    except FileNotFoundError:
        os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)  # noqa: PTH103, PTH120
        os.rename(path, place)  # noqa: PTH104
    except IsADirectoryError:
        remove(place)
        os.rename(path, place)  # noqa: PTH104


@contextmanager
def _translated(doing: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failed(doing, key, error) from error
