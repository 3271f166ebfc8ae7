"""A store in a container of OpenStack Swift.

Names of objects are the keys as they are. Revisions are Swift's ETags: the MD5 of the
bytes, or of the segments' where another tool has put a large object in several.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeVar
from urllib.parse import quote, unquote

from image_repo.errors import ConfigError, StoreError
from image_repo.stores.account import START_SECONDS, Account
from image_repo.stores.store import (
    MAX_KEY,
    Listed,
    Object,
    Stored,
    checked_key,
    checked_metadata,
    failed,
    pieces,
    write,
)
from image_repo.stores.wire import (
    NEWEST,
    Endpoint,
    Headers,
    LostError,
    RefusedError,
    Wire,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)

META: Final = "x-object-meta-image-repo-"
"""Begins the headers of our metadata; that of other tools is left alone."""

PAGES: Final = (1001, 10_000)
"""Names listed by the first request, and by each further one; Swift's limit is the
second, and the first comes quickly: a thousand, and one that says there are more."""


class SwiftStore:
    """A `Store` in one container.

    Args:
        account: Opened, and closed after this store.
        container: Its name.
        make: Whether the container is made when it is missing, if we are allowed to.
        newest: Whether reading asks every replica and takes the newest answer.
        spool: The folder in which objects are put while they are read; None: the
            system's place for such.
    """

    def __init__(
        self,
        account: Account,
        container: str,
        *,
        make: bool = True,
        newest: bool = False,
        spool: Path | None = None,
    ) -> None:
        self._account = account
        self._container = container
        self._make = make
        self._reading: Headers = NEWEST if newest else {}
        self._spool = spool

    async def __aenter__(self) -> Self:
        """Make the container if Swift can be asked; if it can't, that is put off.

        Raises:
            ConfigError: There is no such container, and we may not make it.
        """
        doing = f"cannot open container {self._container!r}"
        if not self._account.opened:  # the first write makes what is missing
            return self
        try:
            async with asyncio.timeout(START_SECONDS):
                await self._account.ask(
                    doing, self._make_container, lane=self._container
                )
        except RefusedError as error:
            missing = error.status == HTTPStatus.NOT_FOUND
            reason = "there is none" if missing else str(error)
            raise ConfigError(f"{doing}: {reason}") from error
        except StoreError as error:
            logger.warning("not yet: %s", error)
        except TimeoutError:
            logger.warning("not yet: %s: no answer in %g s", doing, START_SECONDS)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    async def head(self, key: str) -> Stored | None:
        checked_key(key)

        def work(wire: Wire, to: Endpoint) -> Stored:
            return _stored(key, wire.head(to, self._container, key, self._reading))

        return await self._ask(f"cannot read {key!r}", work)

    async def fetch(self, key: str) -> Object | None:
        checked_key(key)

        def work(wire: Wire, to: Endpoint) -> Object:
            with wire.get(to, self._container, key, self._reading) as (headers, body):
                return self._receive(key, headers, body)

        return await self._ask(f"cannot read {key!r}", work)

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        checked_key(key)
        said = {"Content-Type": media_type, **_metadata(checked_metadata(metadata))}
        if lifetime is not None:
            said["X-Delete-After"] = str(lifetime)

        def work(wire: Wire, to: Endpoint) -> Stored:
            etag, size = _checksum(body)
            asked = {"ETag": etag, "Content-Length": str(size), **said}
            try:
                answer = self._send(wire, to, key, body, asked)
            except RefusedError as error:
                if error.status != HTTPStatus.NOT_FOUND:
                    raise
                self._make_container(wire, to)
                answer = self._send(wire, to, key, body, asked)
            # A 202 has no ETag: what is there was put by another with a later clock.
            if answer.get("etag", "").strip('"') != etag:
                raise LostError("Swift has other bytes than it was sent")
            modified = _modified(answer)
            # Swift has rounded up, by less than a second.
            ends = modified + timedelta(seconds=(lifetime or 0) - 1)
            return Stored(
                key,
                size,
                etag,
                media_type,
                modified,
                dict(metadata or {}),
                None if lifetime is None else ends,
            )

        doing = f"cannot write {key!r}"
        stored = await self._ask(doing, work, changes=True)
        if stored is None:
            raise StoreError(f"{doing}: there is no container {self._container!r}")
        return stored

    def revision_of(self, body: BinaryIO) -> str:
        return _checksum(body)[0]

    async def delete(self, key: str) -> bool:
        checked_key(key)
        lost = False

        def work(wire: Wire, to: Endpoint) -> bool:
            nonlocal lost
            try:
                wire.delete(to, self._container, key)
            except LostError:
                lost = True  # it may be gone when it is asked for again
                raise
            return True

        found = await self._ask(f"cannot delete {key!r}", work, changes=True)
        return bool(found) or lost

    async def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        async for entry in self.entries(prefix, after, limit):
            yield entry.key

    async def entries(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[Listed]:
        left = sys.maxsize if limit is None else limit
        if len(prefix.encode()) > MAX_KEY:
            return
        size = PAGES[0]
        while left > 0:
            asked = min(left, size)
            page = await self._page(prefix, after, asked)
            for entry in page:
                yield entry
            if len(page) < asked:
                return
            left -= asked
            after, size = page[-1].key, PAGES[1]

    async def _ask(
        self,
        doing: str,
        work: Callable[[Wire, Endpoint], T],
        *,
        changes: bool = False,
    ) -> T | None:
        """Return what *work* returns; None: there is no such object."""
        try:
            return await self._account.ask(
                doing, work, lane=self._container, changes=changes
            )
        except RefusedError as error:
            if error.status == HTTPStatus.NOT_FOUND:
                return None
            raise StoreError(f"{doing}: {error}") from error

    async def _page(self, prefix: str, after: str, limit: int) -> Sequence[Listed]:
        def work(wire: Wire, to: Endpoint) -> Sequence[Listed]:
            return wire.page(to, self._container, prefix, after, limit)

        return await self._ask(f"cannot list {prefix!r}", work) or ()

    def _make_container(self, wire: Wire, to: Endpoint) -> None:
        try:
            wire.head_container(to, self._container)
        except RefusedError as error:
            if error.status != HTTPStatus.NOT_FOUND or not self._make:
                raise
            wire.put_container(to, self._container)
            logger.info("made container %s", self._container)

    def _send(
        self, wire: Wire, to: Endpoint, key: str, body: BinaryIO, headers: Headers
    ) -> Headers:
        return wire.put(to, self._container, key, body, headers)

    def _receive(self, key: str, headers: Headers, body: Iterator[bytes]) -> Object:
        """Return the object that is arriving, once all of it is here and right."""
        stored = _stored(key, headers)
        checksum = hashlib.md5(usedforsecurity=False)
        with ExitStack() as stack:
            file = stack.enter_context(_temporary(key, self._spool))
            for chunk in body:
                checksum.update(chunk)
                _write(file, key, chunk)
            if file.tell() != stored.size:
                raise LostError("the object is not as long as Swift says")
            if _has_md5(headers) and checksum.hexdigest() != stored.revision:
                raise LostError("the object's bytes are not those of its ETag")
            file.seek(0)
            stack.pop_all()
        return Object(stored, file)


def _stored(key: str, headers: Headers) -> Stored:
    try:
        ends = headers.get("x-delete-at")
        return Stored(
            key,
            int(headers["content-length"]),
            headers["etag"].strip('"'),
            headers.get("content-type", ""),
            _modified(headers),
            {
                # swiftclient has undone one of the two quotings.
                header.removeprefix(META): unquote(value)
                for header, value in headers.items()
                if header.startswith(META)
            },
            None if ends is None else datetime.fromtimestamp(int(ends), UTC),
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise LostError("Swift does not say what the object is") from error


def _modified(headers: Headers) -> datetime:
    try:
        return parsedate_to_datetime(headers["last-modified"])
    except (KeyError, ValueError) as error:
        raise LostError("Swift does not say when the object was put") from error


def _metadata(given: Mapping[str, str]) -> dict[str, str]:
    """Return headers; quoted once for us, and once for swiftclient, which unquotes."""
    return {META + word: quote(quote(text, "")) for word, text in given.items()}


def _has_md5(headers: Headers) -> bool:
    """Return whether the ETag is the MD5 of the body, as of an object in one piece."""
    return headers.keys().isdisjoint({"x-static-large-object", "x-object-manifest"})


def _checksum(body: BinaryIO) -> tuple[str, int]:
    """Return the MD5 and the number of all bytes of *body*."""
    found, size = hashlib.md5(usedforsecurity=False), 0
    for chunk in pieces(body):
        found.update(chunk)
        size += len(chunk)
    return found.hexdigest(), size


def _temporary(key: str, directory: Path | None) -> BinaryIO:
    try:
        # Unbuffered, so that workers, who get only its descriptor, see all of it.
        return tempfile.TemporaryFile(buffering=0, dir=directory)
    except OSError as error:
        raise failed("read", key, error) from error


def _write(file: BinaryIO, key: str, chunk: bytes) -> None:
    try:
        write(file, chunk)
    except OSError as error:
        raise failed("read", key, error) from error
