"""What every store promises, and the values it takes and gives.

`tests/stores/conformance.py` proves these promises for each store.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Final, ParamSpec, Protocol, Self, TypeVar

from image_repo.errors import StoreError

P = ParamSpec("P")
T = TypeVar("T")

MAX_KEY: Final = 1024
"""Bytes of UTF-8 in a key; Swift's max_object_name_length."""

CHUNK: Final = 2**18
"""Bytes moved at a time: few enough to hold many, enough to make calls cheap."""

_WORD = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Stored:
    """What a store knows about an object.

    Attributes:
        key: The object's name in its store.
        size: Bytes in its body.
        revision: Opaque text; another body has another revision.
        media_type: As given to `put`.
        modified: When this body was put, with a time zone.
        metadata: As given to `put`; empty for objects that other tools have put.
        expires: When the store may forget it; None: never.
    """

    key: str
    size: int
    revision: str
    media_type: str
    modified: datetime
    metadata: Mapping[str, str]
    expires: datetime | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """What a listing says about an object.

    Attributes:
        key: The object's name in its store.
        size: Bytes in its body.
        modified: When this body was put, with a time zone; within a second of what
            `Stored` says.
    """

    key: str
    size: int
    modified: datetime


class Object:
    """One revision of an object, open for reading; it stays whole until closed.

    Attributes:
        stored: What is known about exactly these bytes.
        file: A file of the operating system, at position 0. Its first `size` bytes are
            the body; a store may keep other things behind them.
    """

    __slots__ = ("file", "stored")

    def __init__(self, stored: Stored, file: BinaryIO) -> None:
        self.stored = stored
        self.file = file

    @property
    def size(self) -> int:
        """Bytes in the body."""
        return self.stored.size

    def close(self) -> None:
        """Give the file back; harmless when done twice."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def read(self) -> bytes:
        """Return the whole body.

        Raises:
            StoreError: It cannot be read, or ends too early.
        """
        return b"".join([chunk async for chunk in self.chunks()])

    async def chunks(self, size: int = CHUNK) -> AsyncIterator[bytes]:
        """Yield the body in pieces of at most *size* bytes, wherever the file stands.

        Raises:
            StoreError: It cannot be read, or ends too early.
        """
        at = 0
        while at < self.size:
            wanted = min(size, self.size - at)
            chunk = await in_thread(self._piece, wanted, at)
            at += len(chunk)
            yield chunk

    def _piece(self, wanted: int, at: int) -> bytes:
        try:
            chunk = os.pread(self.file.fileno(), wanted, at)
        except OSError as error:
            raise failed("read", self.stored.key, error) from error
        if not chunk:
            raise StoreError(f"{self.stored.key!r} ends before its last byte")
        return chunk


class Store(Protocol):
    """Bytes under names, which it may not forget; an async context manager.

    A key is 1 to `MAX_KEY` bytes of UTF-8: anything else is a ValueError. `x` and
    `x/y` are different objects that know nothing of each other. A call that was
    refused by what keeps the bytes raises StoreError, whose text holds no path and no
    credential. Calls may run at the same time, in other processes too: the last writer
    wins, and wins as a whole.
    """

    async def head(self, key: str) -> Stored | None:
        """Return what is known about the object; None when there is none."""
        ...

    async def fetch(self, key: str) -> Object | None:
        """Open the object; None when there is none.

        Bytes and `Stored` are of the same revision, whatever is put meanwhile.
        """
        ...

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        """Store all of *body*, from its first byte to its last, wherever it stands.

        A reader sees all of it or nothing of it; a writer that dies leaves what was
        there before. When this returns, the object survives a loss of power. When it
        is cancelled, it comes back only after *body* is no longer in use.

        Args:
            key: The object's name.
            body: A file that can seek.
            media_type: As in Content-Type.
            metadata: Words of a-z, 0-9 and inner hyphens, each with any text.
            lifetime: Seconds after which the store may forget the object, but need not;
                None: it may never.
        """
        ...

    def revision_of(self, body: BinaryIO) -> str:
        """Return the revision that *body* has, or would have, when it is put here.

        It is a checksum of all its bytes. Blocks; for a thread.
        """
        ...

    async def delete(self, key: str) -> bool:
        """Remove the object; return whether there was one."""
        ...

    def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        """Yield keys that begin with *prefix*, in the order of their UTF-8 bytes.

        Objects put or deleted meanwhile may be in it or not; all others are, once.

        Args:
            prefix: Any text.
            after: Only keys greater than this.
            limit: How many at most.
        """
        ...

    def entries(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[Listed]:
        """Yield what `list` does, with what else a listing says.

        It may cost more than `list`. An object that can't be read is left out.
        """
        ...

    async def __aenter__(self) -> Self:
        """Make ready; raise StoreError when the place for the bytes is unusable."""
        ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def checked_key(key: str) -> str:
    """Return *key*; ValueError when no store can hold such a name."""
    if 0 < len(key.encode()) <= MAX_KEY:
        return key
    raise ValueError(f"a key has 1 to {MAX_KEY} bytes, not {len(key.encode())}")


def checked_metadata(metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return a copy of *metadata*; ValueError when a word of it has a bad spelling."""
    for word in metadata or ():
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r} is no word for metadata")
    return dict(metadata or ())


def pieces(body: BinaryIO) -> Iterator[bytes]:
    """Yield all of *body* from its first byte."""
    body.seek(0)
    while chunk := body.read(CHUNK):
        yield chunk


def write(file: BinaryIO, chunk: bytes) -> None:
    """Write all of *chunk*, which an unbuffered file may take in parts."""
    left = memoryview(chunk)
    while left:
        left = left[file.write(left) :]


def revisions() -> hashlib.blake2b:
    """Return a hash whose hex digest is the revision of the bytes it is fed."""
    return hashlib.blake2b(digest_size=16)


def revision_of(body: BinaryIO) -> str:
    """Return the revision of all of *body*, as `revisions` makes it."""
    found = revisions()
    for chunk in pieces(body):
        found.update(chunk)
    return found.hexdigest()


def failed(doing: str, key: str, error: OSError) -> StoreError:
    """Return the error that says what failed, and why, without naming a path."""
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return StoreError(f"cannot {doing} {key!r}: {reason}")


async def in_thread(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *func* in a thread of the loop's, as `reading`."""
    return await reading(functools.partial(func, *args, **kwargs))


async def settled(func: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run *func* in a thread of the loop's, as `changing`."""
    return await changing(functools.partial(func, *args, **kwargs))


async def reading(func: Callable[[], T], threads: Executor | None = None) -> T:
    """Run *func* in a thread; for what only reads.

    A caller that is cancelled goes at once. A result that then comes too late is
    closed when it is open.
    """
    # A future, not a task: the end of the loop cancels tasks, a thread it cannot.
    work = asyncio.get_running_loop().run_in_executor(threads, func)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        work.add_done_callback(_discard)
        raise


async def changing(func: Callable[[], T], threads: Executor | None = None) -> T:
    """Run *func* in a thread; for what changes something.

    A caller that is cancelled waits for the thread, so that no change comes later and
    whatever *func* works on may be closed.
    """
    work = asyncio.get_running_loop().run_in_executor(threads, func)
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        _discard(work)
        raise cancelled
    return work.result()


def _discard(work: asyncio.Future[T]) -> None:
    """Take note of a result that nobody waits for."""
    if not work.cancelled() and work.exception() is None:
        result = work.result()
        if isinstance(result, Object | io.IOBase):
            result.close()
