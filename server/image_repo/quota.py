"""How much a shared directory may hold, and what is dropped when that is reached.

    {root}/total       what has come and gone, noted by all processes
    {root}/evicting    locked by the process that looks through the directory

Whoever finds the total at a bound looks through the directory, sets the total right,
and removes what was used longest ago. All of it blocks; for a thread.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from image_repo.errors import StoreError
from image_repo.stores import drafts

LOW: Final = 0.9
"""Down to which part of each bound is removed once it is reached: to look through the
directory costs as much for one entry as for a tenth of them."""

FULL_SECONDS: Final = 30.0
"""For how long nothing is dropped after no room could be made."""

WAIT_SECONDS: Final = 30.0
"""Longest wait for another process that looks through the directory."""

_PAUSE: Final = 0.02  # seconds between two looks whether it has ended

BLOCK: Final = 4096
"""Bytes that a disk gives at a time, on nearly all file systems."""

ABSENT: Final = (FileNotFoundError, NotADirectoryError)
"""What says that a path leads to nothing."""

_NOTE: Final = struct.Struct("<4q")

_RUN: Final = 2000
"""Entries sorted at a time: more of them would stop all other threads for longer."""

_Run = tuple["array[float]", "array[int]"]
"""Times of last use, and bytes, of some entries: the first was used longest ago."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a directory may take.

    Attributes:
        size: Bytes on the disk of all its files, in whole blocks; folders come on top,
            at most 4096 of them.
        elements: How many files they may be.
        free: Bytes of the file system that are left free.
    """

    size: int
    elements: int
    free: int


@dataclass(frozen=True, slots=True)
class _Note:
    """Bytes and entries that have come, and that have gone, since some beginning."""

    came: int
    more: int
    gone: int = 0
    fewer: int = 0

    @classmethod
    def read(cls, data: bytes) -> _Note | None:
        """Return what is noted; None: it is not whole, or can't be true."""
        if len(data) != _NOTE.size:
            return None
        numbers = _NOTE.unpack(data)
        return cls(*numbers) if min(numbers) >= 0 else None

    def total(self) -> tuple[int, int]:
        return max(0, self.came - self.gone), max(0, self.more - self.fewer)

    def write(self, fd: int) -> None:
        data = _NOTE.pack(self.came, self.more, self.gone, self.fewer)
        os.pwrite(fd, data, 0)


class Quota:
    """Keeps the files of a directory within bounds.

    Several writers at once may pass a bound by what each of them is writing.

    Args:
        root: Existing directory for what is noted here.
        entries: The directory, with one level of folders, then files whose time of
            change is that of their last use.
        bounds: What it may take.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        root: str,
        entries: str,
        bounds: Bounds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._root = root
        self._entries = entries
        self._bounds = bounds
        self._clock = clock
        self._full_until = clock()
        self._stopped = False

    def total(self) -> tuple[int, int]:
        """Return how many bytes and entries there are, as far as it is known."""
        noted = self._noted()
        return (0, 0) if noted is None else noted.total()

    def add(self, size: int, count: int) -> None:
        """Take note of bytes and entries that have come, or gone if they are negative.

        Raises:
            OSError: The note can't be written.
        """
        with drafts.locked(f"{self._root}/total", fcntl.LOCK_EX) as fd:
            noted = _Note.read(os.pread(fd, _NOTE.size, 0))
            if noted is not None:  # else nobody knows what they are added to
                _Note(
                    noted.came + max(0, size),
                    noted.more + max(0, count),
                    noted.gone + max(0, -size),
                    noted.fewer + max(0, -count),
                ).write(fd)

    def fits(self, size: int) -> bool:
        """Return whether a file of so many bytes is ever within the bounds."""
        return space(size) <= LOW * self._bounds.size

    def make_room(self, size: int) -> None:
        """Remove entries until one more of *size* bytes is within the bounds.

        Raises:
            StoreError: It can't be, or another process is at it for too long.
            OSError: The directory can't be looked through.
        """
        needed = space(size)
        if needed > self._bounds.size:
            raise StoreError("it is larger than the whole cache may be")
        if not self._lacks(needed, unknown=True):
            return
        if self._clock() < self._full_until:
            raise StoreError("the disk has no room for it")
        with self._alone():
            # Else another process has just made room.
            if self._lacks(needed, unknown=True):
                self._look_through(needed, 1)
        if self._lacks(needed, unknown=False):
            self._full_until = self._clock() + FULL_SECONDS
            raise StoreError("the disk has no room for it, and nothing more is dropped")

    def recount(self) -> None:
        """Set the total right, and remove what is beyond the bounds.

        Raises:
            StoreError: Another process is at it for too long.
            OSError: The directory can't be looked through.
        """
        with self._alone():
            self._look_through(0, 0)

    def stop(self) -> None:
        """Let whoever looks through the directory, or waits to, raise StoreError."""
        self._stopped = True

    def _noted(self) -> _Note | None:
        """Return what is noted; None: nobody has counted yet."""
        try:
            return _Note.read(Path(f"{self._root}/total").read_bytes())
        except ABSENT:
            return None

    def _lacks(self, size: int, *, unknown: bool) -> bool:
        """Return whether one more entry of *size* bytes would pass a bound.

        *unknown* where nobody has counted: all is new, or was removed just now.
        """
        noted = self._noted()
        if noted is None:
            return unknown
        held, count = noted.total()
        return (
            held + size > self._bounds.size
            or count >= self._bounds.elements
            or _free(self._root) < self._bounds.free + size
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        until = self._clock() + WAIT_SECONDS
        with Path(f"{self._root}/evicting").open("ab") as file:
            while not _taken(file):
                if self._stopped or self._clock() > until:
                    raise StoreError("another process is making room in it")
                time.sleep(_PAUSE)
            yield

    def _look_through(self, size: int, count: int) -> None:
        """Count all entries, and remove some if *count* more do not fit."""
        before = self._noted()
        runs = list(self._runs())
        held = sum(sum(sizes) for _, sizes in runs)
        found = sum(len(sizes) for _, sizes in runs)
        self._set(held, found, before)
        surplus = self._surplus(size, held)
        over = found + count - self._bounds.elements
        if over > 0:
            over += self._bounds.elements - int(LOW * self._bounds.elements)
        last, ties = 0.0, 0
        for used, taken in merge(*(zip(*run, strict=True) for run in runs)):
            if surplus <= 0 and over <= 0:
                break
            surplus, over = surplus - taken, over - 1
            last, ties = used, ties + 1 if used == last else 1
        if ties:
            self._drop(last, ties)

    def _set(self, size: int, count: int, before: _Note | None) -> None:
        """Note what was found, after *before* was noted."""
        with drafts.locked(f"{self._root}/total", fcntl.LOCK_EX) as fd:
            noted = _Note.read(os.pread(fd, _NOTE.size, 0))
            if noted is not None and before is not None:
                # What came meanwhile may be missing in what was found, and what has
                # gone may not be in it: too much does less harm than too little.
                size += max(0, noted.came - before.came)
                count += max(0, noted.more - before.more)
            _Note(size, count).write(fd)

    def _surplus(self, size: int, held: int) -> float:
        """Return how many bytes have to go, so that *size* more may come."""
        bounds, surplus = self._bounds, 0.0
        if held + size > bounds.size:
            surplus = held + size - LOW * bounds.size
        short = bounds.free + size - _free(self._root)
        if short > held:  # it would not fit even then
            short -= size
        return max(surplus, short + (1 - LOW) * held) if short > 0 else surplus

    def _drop(self, last: float, ties: int) -> None:
        """Remove what was last used before *last*, and so many used just then."""
        size = count = 0
        try:
            for path, used, taken in self._walk():
                # Its time is asked for again: it may have been used since.
                if used > last or (used == last and not ties):
                    continue
                ties -= used == last
                with suppress(OSError):
                    if remove(path):
                        size, count = size + taken, count + 1
        finally:
            self.add(-size, -count)

    def _runs(self) -> Iterator[_Run]:
        # Of a million entries only the numbers are held, not the names.
        found = ((used, taken) for _, used, taken in self._walk())
        while run := sorted(islice(found, _RUN)):
            yield array("d", [used for used, _ in run]), array("q", [n for _, n in run])

    def _walk(self) -> Iterator[tuple[str, float, int]]:
        """Yield path, time of last use and bytes on the disk of each entry."""
        for folder in names_in(self._entries):
            if self._stopped:
                raise StoreError("it is not looked through to its end")
            with suppress(*ABSENT), os.scandir(f"{self._entries}/{folder}") as found:
                for item in found:
                    with suppress(FileNotFoundError):
                        about = item.stat(follow_symlinks=False)
                        yield item.path, about.st_mtime, space(about.st_size)


def _taken(file: BinaryIO) -> bool:
    """Return whether a file's lock is had now; else another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def space(size: int) -> int:
    """Return how many bytes of the disk a file of *size* bytes takes."""
    return -(-size // BLOCK) * BLOCK


def names_in(folder: str) -> list[str]:
    """Return what is in a folder; one that is not there is empty."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - paths here are text
    except ABSENT:
        return []


def space_of(path: str) -> int | None:
    """Return how many bytes of the disk a file takes; None: it is not there."""
    try:
        return space(os.lstat(path).st_size)
    except ABSENT:
        return None


def remove(path: str) -> bool:
    """Remove a file, or whatever else is in its place; False: nothing is.

    Raises:
        OSError: It is still there.
    """
    try:
        os.unlink(path)  # noqa: PTH108
    except ABSENT:
        return False
    except IsADirectoryError:
        shutil.rmtree(path)
    return True


def _free(root: str) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize
