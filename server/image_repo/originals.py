"""Originals in a store, found by the names of images, whoever put them there.

The server puts an original under its image's name. A store that other tools have
filled is taken as it is: `plots/site-7.JPG` answers to the image `plots/site-7`.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING, BinaryIO, Final, TypeVar

from image_repo import names
from image_repo.errors import BadRequestError
from image_repo.flights import Remembered
from image_repo.formats import by_extension, rank
from image_repo.stores.store import MAX_KEY

if TYPE_CHECKING:
    from image_repo.names import ImageName
    from image_repo.stores.store import Object, Store, Stored

T = TypeVar("T")

KEY_SECONDS: Final = 60.0
"""How long it is remembered which key with an extension answers to a name."""

LISTED: Final = 1000
"""Keys that begin as a name does and are looked through for its extensions: one
request. Of a name with more of them, an extension that sorts late may be missed."""

SPELLINGS: Final = 10_000
"""Names that Unicode spells in two ways that one listing keeps in mind: some MB."""


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
            keys = reversed(await self._keys_of(image))
            return any([await self._store.delete(key) for key in keys])

    async def names(self) -> AsyncIterator[ImageName]:
        """Yield the name of each image once, in the order of the keys.

        Of images whose names Unicode spells in two ways, and are in the store in both,
        those beyond the first `SPELLINGS` may come twice.

        Raises:
            StoreError: The store failed.
        """
        # Keys that begin alike come one after the other, because they come in the
        # order of their bytes. All that answers to `x` begins with `x`. So as soon as
        # a key does not begin with `x`, no later one answers to it, and it need not
        # be remembered; what is, are beginnings of one key: at most MAX_KEY of them.
        begun: list[str] = []
        spelled: set[ImageName] = set()
        async for key in self._store.list():
            begun = [stem for stem in begun if key.startswith(stem)]
            stem = _stem(key)
            image = None if stem in begun else _image(stem)
            if image is None:
                continue
            begun.append(stem)
            # The two spellings of a name lie anywhere in the list.
            if not unicodedata.is_normalized("NFD", image):
                if image in spelled:
                    continue
                if len(spelled) < SPELLINGS:
                    spelled.add(image)
            yield image

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
        for spelling in _spellings(image):
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
        found = []
        # Every extension begins with a letter; `@` is the last that comes before any.
        # So x.0001.jpg and the thousands after it do not stand in the way of x.jpg.
        async for key in self._store.list(prefix, f"{prefix}@", LISTED):
            extension = key.removeprefix(prefix)
            if by_extension(extension) is not None:
                found.append((rank(extension), not extension.islower(), key))
        return [key for *_, key in sorted(found)]

    @contextmanager
    def _changing(self, image: ImageName) -> Iterator[None]:
        """Forget afterwards what was found out about a name until then."""
        try:
            yield
        finally:
            self._changes += 1
            self._keys.forget(image)


def _spellings(image: ImageName) -> tuple[str, ...]:
    """Return how other tools may spell a name: in NFC, and in NFD if that differs."""
    apart = unicodedata.normalize("NFD", image)
    # With an extension it must still be a key.
    if apart == image or len(apart.encode()) >= MAX_KEY:
        return (image,)
    return (image, apart)


def _stem(key: str) -> str:
    """Return *key* without its last segment's extension, if the table knows that."""
    stem, _, extension = key.rpartition(".")
    known = by_extension(extension) is not None
    return stem if known and stem and not stem.endswith("/") else key


def _image(stem: str) -> ImageName | None:
    """Return the image that is found as *stem*; None: no request can name it."""
    try:
        image = names.image_name(stem)
    except BadRequestError:
        return None
    return image if stem in _spellings(image) else None
