"""A store in a directory: the embedded default, which needs no account.

    {root}/objects/…   one file for each object, placed by `layout`, read by `sealed`
    {root}/tmp, lock   files being written: see `drafts`

A file gets its place by one rename when it is whole, so that every reader has one
revision of it.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeVar

from image_repo.errors import StoreError
from image_repo.stores import drafts, layout, sealed
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

_PAGE: Final = 1000  # keys listed by one visit to a thread
_LOOKED: Final = 100  # files looked at by one visit: a disk that turns takes a second
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE}  # says nothing about the object
_TRIES: Final = 1000  # deletes that may take a folder away from under one put


class DirectoryStore:
    """A `Store` in one directory, which several processes may use at once.

    Its revisions are BLAKE2b hashes of the bytes. What has a lifetime stays after its
    end until `sweep` removes it.

    Args:
        root: The directory; made when it is not there.
        now: The clock, with a time zone.
    """

    def __init__(
        self, root: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._objects = str(root / "objects")
        self._drafts = drafts.Drafts(root)
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
        lifetime: int | None = None,
    ) -> Stored:
        now = self._now()
        ends = None if lifetime is None else now + timedelta(seconds=lifetime)
        metadata = checked_metadata(metadata)
        new = Stored(checked_key(key), 0, "", media_type, now, metadata, ends)
        return await settled(self._put, new, body)

    def revision_of(self, body: BinaryIO) -> str:
        return revision_of(body)

    async def delete(self, key: str) -> bool:
        return await settled(self._delete, checked_key(key))

    async def sweep(self, unlimited: timedelta) -> int:
        """Remove what has come to its end; return how much it was.

        Args:
            unlimited: For how long what was put without a lifetime is kept.

        Raises:
            StoreError: Some of it may still be there.
        """
        removed = 0
        async for key in self.list():
            stored = await self.head(key)
            if stored is None:
                continue
            ends = stored.expires or stored.modified + unlimited
            if ends < self._now():
                removed += await self.delete(key)
        return removed

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
            Path(self._objects).mkdir(parents=True, exist_ok=True)
            self._drafts.open()

    def _place(self, key: str) -> str:
        return f"{self._objects}/{layout.place(key)}"

    def _head(self, key: str) -> Stored | None:
        with _translated("read", key):
            try:
                fd = os.open(self._place(key), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return sealed.read(fd, key)
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
                return Object(sealed.read(file.fileno(), key), file)
            except BaseException:
                file.close()
                raise

    def _put(self, new: Stored, body: BinaryIO) -> Stored:
        key = new.key
        with _translated("write", key), self._drafts.new() as (fd, path):
            revision = revisions()
            size = 0
            for chunk in pieces(body):
                revision.update(chunk)
                size += len(chunk)
                drafts.write(fd, chunk)
            stored = replace(new, size=size, revision=revision.hexdigest())
            drafts.write(fd, sealed.foot(stored))
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


def _page(found: Iterator[T], prefix: str, size: int) -> list[T]:
    with _translated("list", prefix):
        return list(islice(found, size))


@contextmanager
def _translated(doing: str, key: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failed(doing, key, error) from error


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
