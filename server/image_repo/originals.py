"""Originals in a store, found by the names of images, whoever put them there.

The server puts an original under its image's name. A store that other tools have
filled is taken as it is: `plots/site-7.JPG` answers to the image `plots/site-7`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from image_repo import keys
from image_repo.flights import Remembered

if TYPE_CHECKING:
    from datetime import datetime

    from image_repo.names import ImageName
    from image_repo.stores.store import Listed, Object, Store, Stored

T = TypeVar("T")

KEY_SECONDS: Final = 60.0
"""How long it is remembered which key with an extension answers to a name."""

LISTED: Final = 1000
"""Keys that begin as a name does and are looked through for its extensions: one
request. Of a name with more of them, an extension that sorts late may be missed."""


@dataclass(frozen=True, slots=True)
class Named:
    """An image in a listing.

    Attributes:
        image: Its name.
        key: The first that answers to it: its place in the listing.
    """

    image: ImageName
    key: str


@dataclass(frozen=True, slots=True)
class Entry(Named):
    """An image in a listing that says more.

    Attributes:
        size: Bytes of the original.
        modified: When it was put, with a time zone.
    """

    size: int
    modified: datetime


class Originals:
    """The originals of a store, by name.

    `{name}` comes first, then `{name}.{extension}` in the order of the table of
    formats, in any case. Other tools, those on macOS above all, may spell a name in
    Unicode's NFD: that is looked for last.

    Args:
        store: Where they are kept.
        clock: Monotonic seconds.
    """

    def __init__(
        self, store: Store, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._store = store
        self._keys: Remembered[ImageName, str] = Remembered(KEY_SECONDS, clock=clock)
        self._changes = 0

    async def ready(self) -> None:
        """Ask the store for something small.

        Raises:
            StoreError: It failed.
        """
        await self._store.head("_/ready")

    async def head(self, image: ImageName) -> Stored | None:
        """Return what is known about an original; None: there is none.

        `{name}` is asked for each time, so that an upload of another server beside an
        adopted original is seen at once.

        Raises:
            StoreError: The store failed.
        """
        return await self._find(image, self._store.head)

    async def fetch(self, image: ImageName) -> Object | None:
        """Open an original; None: there is none.

        It may be the one that a `head` of the last minute has found, though the name
        has got another meanwhile: hold its revision against what `head` says.

        Raises:
            StoreError: The store failed.
        """
        known = self._keys.get(image)
        if known is not None:
            found = await self._store.fetch(known)
            if found is not None:
                return found
        return await self._find(image, self._store.fetch)

    async def put(self, image: ImageName, body: BinaryIO, *, media_type: str) -> Stored:
        """Store *body* under the image's name, where it comes before all others.

        Raises:
            StoreError: It may not have been stored.
        """
        with self._changing(image):
            return await self._store.put(image, body, media_type=media_type)

    async def every(self, image: ImageName) -> tuple[Stored, ...]:
        """Return what is known about all that answers to a name, the first first.

        Raises:
            StoreError: The store failed.
        """
        asked = [await self._store.head(key) for key in await self._keys_of(image)]
        return tuple(stored for stored in asked if stored is not None)

    async def delete(self, image: ImageName) -> bool:
        """Remove all that answers to a name; return whether there was anything.

        Raises:
            StoreError: Some or all of it may still be there.
        """
        with self._changing(image):
            # What is served goes last: if one of them stays, it is never one that
            # was out of sight before.
            answering = reversed(await self._keys_of(image))
            return any([await self._store.delete(key) for key in answering])

    async def names(self, prefix: str = "") -> AsyncGenerator[ImageName, None]:
        """Yield the names of `named`.

        Raises:
            StoreError: The store failed.
        """
        async for found in self.named(prefix):
            yield found.image

    async def named(
        self, prefix: str = "", after: str = ""
    ) -> AsyncGenerator[Named, None]:
        """Yield each image once, in the order of the keys.

        Of images whose names Unicode spells in two ways, and are in the store in both,
        those beyond the first `keys.SPELLINGS` may come twice, and those of which one
        spelling comes up to *after* may come again.

        Args:
            prefix: Begins the names, in NFC.
            after: The key of the image after which to begin; its name does as well,
                unless it ends in an extension.

        Raises:
            StoreError: The store failed.
        """
        images = keys.Images(prefix)
        for beginning in keys.beginnings(prefix):
            async for key in self._store.list(beginning, after):
                image = images.new(key)
                if image is not None and not await self._given(key, after):
                    yield Named(image, key)

    async def entries(
        self, prefix: str = "", after: str = ""
    ) -> AsyncGenerator[Entry, None]:
        """Yield the same as `named` with what the store lists of each image.

        It is that of the original that is served, unless more than `LISTED` images
        come between it and another that answers to the name.

        Raises:
            StoreError: The store failed.
        """
        images = keys.Images(prefix)
        waiting = _Waiting()
        for beginning in keys.beginnings(prefix):
            async for listed in self._store.entries(beginning, after):
                image = images.new(listed.key)
                if image is None:
                    waiting.compare(listed)
                elif not await self._given(listed.key, after):
                    waiting.add(Named(image, listed.key), listed)
                for entry in waiting.settled(listed.key):
                    yield entry
        for entry in waiting.rest():
            yield entry

    async def _given(self, key: str, after: str) -> bool:
        """Return whether a listing up to *after* has the image that *key* answers to.

        Such a key lies before *after* and *key* behind it, so that both, and *after*,
        begin with the stem.
        """
        stem = keys.stem(key)
        if not after.startswith(stem):
            return False
        bare = keys.stem(stem) == stem  # otherwise it answers to a shorter name
        if bare and (stem == after or await self._store.head(stem) is not None):
            return True
        return any(other <= after for other in await self._adopted(stem))

    async def _find(
        self, image: ImageName, ask: Callable[[str], Awaitable[T | None]]
    ) -> T | None:
        """Return what *ask* says of the first key that answers to a name."""
        changes = self._changes
        async with aclosing(self._candidates(image)) as candidates:
            async for key in candidates:
                found = await ask(key)
                if found is None:
                    continue
                # What was found before a change of ours must not be remembered.
                if changes == self._changes:
                    self._remember(image, key)
                return found
        return None

    def _remember(self, image: ImageName, key: str) -> None:
        if key == image:
            self._keys.forget(image)
        else:
            self._keys.put(image, key)

    async def _candidates(self, image: ImageName) -> AsyncGenerator[str, None]:
        """Yield the keys that may answer to a name, the first first, some twice."""
        yield image
        known = self._keys.get(image)
        if known is not None:
            yield known
        for spelling in keys.spellings(image):
            if spelling != image:
                yield spelling
            for key in await self._adopted(spelling):
                yield key

    async def _keys_of(self, image: ImageName) -> list[str]:
        """Return all keys that may answer to a name, the first first, each once."""
        return list(dict.fromkeys([key async for key in self._candidates(image)]))

    async def _adopted(self, spelling: str) -> list[str]:
        """Return the listed keys that are *spelling* with an extension."""
        prefix = f"{spelling}."
        # Every extension begins with a letter; `@` is the last that comes before any.
        # So x.0001.jpg and the thousands after it do not stand in the way of x.jpg.
        listed = self._store.list(prefix, f"{prefix}@", LISTED)
        found = [key async for key in listed if keys.stem(key) == spelling]
        return sorted(found, key=lambda key: keys.order(spelling, key))

    @contextmanager
    def _changing(self, image: ImageName) -> Iterator[None]:
        """Forget afterwards what was found out about a name until then."""
        try:
            yield
        finally:
            self._changes += 1
            self._keys.forget(image)


class _Waiting:
    """Images in a listing of which a better original may still come, in order."""

    def __init__(self) -> None:
        self._best: dict[str, tuple[Named, Listed]] = {}

    def add(self, found: Named, listed: Listed) -> None:
        self._best[keys.stem(found.key)] = (found, listed)

    def compare(self, listed: Listed) -> None:
        """Let *listed* take the place of an original that it comes before."""
        stem = keys.stem(listed.key)
        if stem in self._best:
            found, best = self._best[stem]
            if keys.order(stem, listed.key) < keys.order(stem, best.key):
                self._best[stem] = (found, listed)

    def settled(self, key: str) -> Iterator[Entry]:
        """Take out those of which no better one comes from *key* on; more than fit."""
        while self._best:
            stem, (_, best) = next(iter(self._best.items()))
            # "/" is what comes after ".".
            if best.key != stem and key < f"{stem}/" and len(self._best) <= LISTED:
                return
            yield self._take(stem)

    def rest(self) -> Iterator[Entry]:
        """Take out all."""
        for stem in list(self._best):
            yield self._take(stem)

    def _take(self, stem: str) -> Entry:
        found, best = self._best.pop(stem)
        return Entry(found.image, found.key, best.size, best.modified)
