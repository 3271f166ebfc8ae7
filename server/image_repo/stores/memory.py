"""A store in memory, for tests and for trying things out: it ends with its process."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import BinaryIO, Self

from image_repo.stores.store import (
    Listed,
    Object,
    Stored,
    checked_key,
    checked_metadata,
    failed,
    in_thread,
    pieces,
    revision_of,
    settled,
)


class MemoryStore:
    """A `Store` without a disk.

    Args:
        now: The clock, with a time zone.
    """

    def __init__(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._now = now
        self._objects: dict[str, tuple[Stored, bytes]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def head(self, key: str) -> Stored | None:
        found = self._objects.get(checked_key(key))
        return None if found is None else found[0]

    async def fetch(self, key: str) -> Object | None:
        found = self._objects.get(checked_key(key))
        return None if found is None else await in_thread(_open, *found)

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

    def _put(
        self, key: str, body: BinaryIO, media_type: str, metadata: Mapping[str, str]
    ) -> Stored:
        try:
            data = b"".join(pieces(body))
        except OSError as error:
            raise failed("write", key, error) from error
        revision = revision_of(body)
        stored = Stored(key, len(data), revision, media_type, self._now(), metadata)
        self._objects[key] = (stored, data)
        return stored

    def revision_of(self, body: BinaryIO) -> str:
        return revision_of(body)

    async def delete(self, key: str) -> bool:
        return self._objects.pop(checked_key(key), None) is not None

    async def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        # Code points sort as their UTF-8 does.
        keys = sorted(k for k in self._objects if k.startswith(prefix) and k > after)
        for key in islice(keys, limit):
            yield key

    async def entries(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[Listed]:
        async for key in self.list(prefix, after, limit):
            found = self._objects.get(key)
            if found is not None:
                yield Listed(key, found[0].size, found[0].modified)


def _open(stored: Stored, data: bytes) -> Object:
    try:
        with ExitStack() as stack:
            file = stack.enter_context(tempfile.TemporaryFile())
            file.write(data)
            file.seek(0)  # flushes as well
            stack.pop_all()
    except OSError as error:
        raise failed("read", stored.key, error) from error
    return Object(stored, file)
