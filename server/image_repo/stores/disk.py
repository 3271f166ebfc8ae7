"""A store in a directory: the embedded default, which needs no account.

    {root}/objects/…   one file for each object, placed by `layout`
    {root}/tmp/…       files being written, locked by who writes them; one without a
                       lock was left behind by a process that died
    {root}/lock        held for a moment by who makes a file there or clears them away

A file is the body, then its metadata as JSON, then a foot of fixed size. It gets its
place by one rename when it is whole, so that every reader has one revision of it, and
a reader that finds no foot knows that something else has damaged the file.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeVar

from image_repo.errors import StoreError
from image_repo.stores import layout
from image_repo.stores.store import (
    MAX_KEY,
    Listed,
    Object,
    Stored,
    checked_key,
    checked_metadata,
    failed,
    in_thread,
    pieces,
    revision_of,
    revisions,
    settled,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

_FOOT: Final = struct.Struct(">II8s")  # length and CRC-32 of the metadata, then:
_MAGIC: Final = b"ImgRepo1"
_PAGE: Final = 1000  # keys listed by one visit to a thread
_LOOKED: Final = 100  # files looked at by one visit: a disk that turns takes a second
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE}  # says nothing about the object
_TRIES: Final = 1000  # deletes that may take a folder away from under one put


class DirectoryStore:
    """A `Store` in one directory, which several processes may use at once.

    Its revisions are BLAKE2b hashes of the bytes.

    Args:
        root: The directory; made when it is not there.
        now: The clock, with a time zone.
    """

    def __init__(
        self, root: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._objects = str(root / "objects")
        self._tmp = str(root / "tmp")
        self._lock = str(root / "lock")
        self._now = now

    async def __aenter__(self) -> Self:
        await settled(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def head(self, key: str) -> Stored | None:
        return await in_thread(self._head, checked_key(key))

    async def fetch(self, key: str) -> Object | None:
        return await in_thread(self._fetch, checked_key(key))

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,  # noqa: ARG002 - keeps everything
    ) -> Stored:
        return await settled(
            self._put, checked_key(key), body, media_type, checked_metadata(metadata)
        )

    def revision_of(self, body: BinaryIO) -> str:
        return revision_of(body)

    async def delete(self, key: str) -> bool:
        return await settled(self._delete, checked_key(key))

    async def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        if len(prefix.encode()) > MAX_KEY:
            return
        found = islice(layout.walk(self._objects, prefix, after), limit)
        while page := await in_thread(_page, found, prefix, _PAGE):
            for key in page:
                yield key

    async def entries(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[Listed]:
        if len(prefix.encode()) > MAX_KEY:
            return
        keys = layout.walk(self._objects, prefix, after)
        found = islice(filter(None, map(self._listed, keys)), limit)
        while page := await in_thread(_page, found, prefix, _LOOKED):
            for entry in page:
                yield entry

    def _open(self) -> None:
        with _translated("open", "the store's directory"):
            for path in (self._objects, self._tmp):
                Path(path).mkdir(parents=True, exist_ok=True)
            with _locked(self._lock, fcntl.LOCK_EX):
                for left in Path(self._tmp).iterdir():
                    _sweep(left)

    def _place(self, key: str) -> str:
        return f"{self._objects}/{layout.place(key)}"

    def _head(self, key: str) -> Stored | None:
        with _translated("read", key):
            try:
                fd = os.open(self._place(key), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return _read_stored(fd, key)
            finally:
                os.close(fd)

    def _listed(self, key: str) -> Listed | None:
        """Return what a listing says; None: the object has gone, or can't be read."""
        try:
            found = self._head(key)
        except StoreError as error:
            if getattr(error.__cause__, "errno", None) in _EXHAUSTED:
                raise
            logger.warning("left out of a listing: %s", error)
            return None
        return None if found is None else Listed(key, found.size, found.modified)

    def _fetch(self, key: str) -> Object | None:
        with _translated("read", key):
            try:
                file = Path(self._place(key)).open("rb")  # noqa: SIM115 - closed with the object
            except FileNotFoundError:
                return None
            try:
                return Object(_read_stored(file.fileno(), key), file)
            except BaseException:
                file.close()
                raise

    def _put(
        self, key: str, body: BinaryIO, media_type: str, metadata: Mapping[str, str]
    ) -> Stored:
        with _translated("write", key), self._new_file() as (fd, path):
            revision = revisions()
            size = 0
            for chunk in pieces(body):
                revision.update(chunk)
                size += len(chunk)
                _write(fd, chunk)
            digest = revision.hexdigest()
            stored = Stored(key, size, digest, media_type, self._now(), metadata)
            _write(fd, _foot(stored))
            os.fsync(fd)
            self._give_place(path, key)
        return stored

    def _give_place(self, path: str, key: str) -> None:
        place = self._place(key)
        folders = list(_folders(self._objects, place))
        for _ in range(_TRIES):
            # A delete may take away an empty folder between two of these steps.
            with suppress(FileNotFoundError):
                for folder in reversed(folders):
                    with suppress(FileExistsError):
                        os.mkdir(folder)  # noqa: PTH102 - paths here are text
                os.rename(path, place)  # noqa: PTH104
                break
        else:
            raise StoreError(f"cannot write {key!r}: its folder keeps vanishing")
        for folder in (*folders, self._objects):
            _sync(folder)

    def _delete(self, key: str) -> bool:
        place = self._place(key)
        with _translated("delete", key):
            try:
                os.unlink(place)  # noqa: PTH108
            except FileNotFoundError:
                return False
            folders = list(_folders(self._objects, place))
            with suppress(OSError):  # not empty, or gone already
                for folder in folders:
                    os.rmdir(folder)  # noqa: PTH106
            # Of those that are left, only the deepest has lost an entry.
            any(_sync(folder) for folder in (*folders, self._objects))
        return True

    @contextmanager
    def _new_file(self) -> Iterator[tuple[int, str]]:
        """Open a file under tmp; removed at the end unless it was given its place."""
        path = f"{self._tmp}/{secrets.token_hex(16)}"
        # `_sweep` must never see the file before its lock.
        with _locked(self._lock, fcntl.LOCK_SH):
            fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o666)
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield fd, path
        finally:
            os.close(fd)
            with suppress(FileNotFoundError):
                os.unlink(path)  # noqa: PTH108


def _page(found: Iterator[T], prefix: str, size: int) -> list[T]:
    with _translated("list", prefix):
        return list(islice(found, size))


@contextmanager
def _translated(doing: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failed(doing, key, error) from error


def _foot(stored: Stored) -> bytes:
    text = json.dumps(
        {
            "key": stored.key,
            "size": stored.size,
            "revision": stored.revision,
            "media_type": stored.media_type,
            "modified": stored.modified.isoformat(),
            "metadata": dict(stored.metadata),
        }
    ).encode()
    return text + _FOOT.pack(len(text), zlib.crc32(text), _MAGIC)


def _read_stored(fd: int, key: str) -> Stored:
    end = max(0, os.fstat(fd).st_size - _FOOT.size)
    try:
        length, checksum, magic = _FOOT.unpack(os.pread(fd, _FOOT.size, end))
        size = max(0, end - length)
        text = os.pread(fd, length, size)
        said = json.loads(text)
        stored = Stored(**said | {"modified": datetime.fromisoformat(said["modified"])})
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise StoreError(f"the stored object {key!r} is damaged") from error
    if (magic, zlib.crc32(text), stored.key, stored.size) != (
        _MAGIC,
        checksum,
        key,
        size,
    ):
        raise StoreError(f"the stored object {key!r} is damaged")
    return stored


def _write(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _folders(top: str, place: str) -> Iterator[str]:
    """Yield the folders of *place* below *top*, the deepest first."""
    while len(place := place.rpartition("/")[0]) > len(top):
        yield place


def _sync(folder: str) -> bool:
    """Make the folder's entries survive a loss of power; False when it is gone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    return True


@contextmanager
def _locked(path: str, how: int) -> Iterator[None]:
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, how)
        yield
    finally:
        os.close(fd)


def _sweep(path: Path) -> None:
    """Remove a file that no living process is writing."""
    with suppress(FileNotFoundError, BlockingIOError), path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
