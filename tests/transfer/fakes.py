"""Stores that cause what tests are about, and results as tests read them."""

from __future__ import annotations

import asyncio
import hashlib
import io
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import BinaryIO

from image_repo.errors import StoreError
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Object, Stored, pieces
from image_repo.transfer.progress import Outcome, Progress


class Counting(MemoryStore):
    """Counts what is asked of it, and waits or fails when it is told to.

    Attributes:
        puts: Keys, in the order in which they were put.
        fetches: Keys, in the order in which they were asked for.
        down: Whether every call fails.
        refused: Keys whose puts fail.
        takes: How many puts it takes before the next waits for ever.
        waiting: Set when one does.
    """

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []
        self.fetches: list[str] = []
        self.down = False
        self.refused: set[str] = set()
        self.takes = sys.maxsize
        self.waiting = asyncio.Event()

    async def head(self, key: str) -> Stored | None:
        await asyncio.sleep(0)
        if self.down:
            raise StoreError("the store does not answer")
        return await super().head(key)

    async def fetch(self, key: str) -> Object | None:
        self.fetches.append(key)
        return await super().fetch(key)

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        if len(self.puts) >= self.takes:
            self.waiting.set()
            await asyncio.Event().wait()
        if self.down or key in self.refused:
            raise StoreError(f"cannot write {key!r}: no space")
        stored = await super().put(
            key, body, media_type=media_type, metadata=metadata, lifetime=lifetime
        )
        self.puts.append(key)
        return stored


class Other(Counting):
    """A store whose revisions are another checksum, as Swift's are."""

    def revision_of(self, body: BinaryIO) -> str:
        found = hashlib.sha256()
        for chunk in pieces(body):
            found.update(chunk)
        return found.hexdigest()

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        stored = await super().put(
            key, body, media_type=media_type, metadata=metadata, lifetime=lifetime
        )
        stored = replace(stored, revision=self.revision_of(body))
        self._objects[key] = (stored, self._objects[key][1])
        return stored


class Endless(MemoryStore):
    """Lists new keys without end, each of which it knows.

    Attributes:
        listed: How far each listing was read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.listed: list[int] = []

    async def head(self, key: str) -> Stored | None:
        await asyncio.sleep(0.001)
        return Stored(key, 1, "r", "image/png", datetime.now(UTC), {})

    async def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        assert (prefix, after, limit) == ("", "", None)
        which = len(self.listed)
        self.listed.append(0)
        while True:
            await asyncio.sleep(0)
            self.listed[which] += 1
            yield f"k{self.listed[which]:09}"


class Corrupting(MemoryStore):
    """Stores other bytes than it is given, of the same length."""

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        body.seek(0)
        other = io.BytesIO(body.read()[::-1])
        return await super().put(
            key, other, media_type=media_type, metadata=metadata, lifetime=lifetime
        )


class Screen(io.StringIO):
    """A terminal that keeps what was written."""

    def isatty(self) -> bool:
        return True


def silent() -> Progress:
    return Progress(io.StringIO())


def counts(progress: Progress) -> dict[str, int]:
    """How often each outcome came, without those that never did."""
    found = progress.summary.counts
    return {o.name.lower(): found[o] for o in Outcome if found[o]}


def said(progress: Progress) -> str:
    stream = progress._stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue()
