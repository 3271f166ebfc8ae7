"""The levels of the cache: where derived images are kept that may be forgotten.

Everything is kept under (tag, canonical name), so that nothing here is ever wrong, only
missing.
"""

from __future__ import annotations

import asyncio
import io
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from image_repo.names import (
    ImageName,
    MadeName,
    Tag,
    derived_prefix,
    stored_key,
)
from image_repo.options import option

if TYPE_CHECKING:
    from image_repo.shelf import Shelf
    from image_repo.stores.store import Store

ENTRY_BYTES: Final = 1024
"""What an entry in memory takes besides its body: the longest name, and dicts."""

DELETES: Final = 8
"""Deletes at once in one store; Swift takes about 20 ms for each."""


@dataclass(frozen=True, slots=True)
class MemoryOptions:
    """The level in the server's memory."""

    max_size: int = option(
        64 * 2**20, "Most memory for derived images; 0: none is used.", low=0, size=True
    )
    max_elements: int = option(10_000, "Most derived images in memory; 0: none.", low=0)


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """What is kept on this machine's disk, and may be lost: the caches there."""

    cache_path: str = option(
        "",
        "Directory of the caches on disk; several servers of one machine may share it."
        " Empty: the folder `cache` in `work`.",
    )
    max_size: int = option(
        4 * 2**30, "Most disk space for derived images; 0: none.", low=0, size=True
    )
    max_elements: int = option(
        1_000_000, "Most derived images on disk; 0: none.", low=0
    )
    originals_size: int = option(
        4 * 2**30,
        "Most disk space for originals that came from Swift, so that ten sizes of one"
        " fetch it once; 0: none.",
        low=0,
        size=True,
    )
    intermediates_size: int = option(
        2 * 2**30,
        "Most disk space for reduced pictures, so that ten sizes of one original decode"
        " it once or twice; 0: none.",
        low=0,
        size=True,
    )
    min_free: int = option(
        2**30,
        "Disk space that the caches leave free: they shrink when others need it.",
        low=0,
        size=True,
    )


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived image."""

    body: bytes
    media_type: str


class Level(Protocol):
    """Keeps derived images, and may forget them; StoreError when it can do neither."""

    @property
    def name(self) -> str:
        """One word for logs and headers."""
        ...

    @property
    def instant(self) -> bool:
        """Whether a get or put takes no time worth speaking of."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other machines have it, too, so that one forgets there for all."""
        ...

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        """Return what was put, whole; None: it is not here."""
        ...

    async def has(self, tag: Tag, name: MadeName) -> bool:
        """Return whether `get` would find something; it costs no more."""
        ...

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        """Keep *derived* for as long as suits the level."""
        ...

    async def forget(self, image: ImageName) -> None:
        """Forget everything made from *image*, under whatever tag."""
        ...

    def names(self, image: ImageName) -> AsyncIterator[str]:
        """Yield the stored keys of what is kept of *image*."""
        ...


class MemoryLevel:
    """A `Level` in memory that forgets what was not asked for the longest time."""

    name = "memory"
    instant = True
    shared = False

    def __init__(self, options: MemoryOptions) -> None:
        self._options = options
        self._entries: OrderedDict[tuple[Tag, MadeName], Derived] = OrderedDict()
        self._images: defaultdict[ImageName, set[tuple[Tag, MadeName]]]
        self._images = defaultdict(set)
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        found = self._entries.get((tag, name))
        if found is not None:
            self._entries.move_to_end((tag, name))
        return found

    async def has(self, tag: Tag, name: MadeName) -> bool:
        return (tag, name) in self._entries

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        key = (tag, name)
        self._remove(key)
        if len(derived.body) + ENTRY_BYTES > self._options.max_size:
            return  # it would push out all others and not fit even so
        self._entries[key] = derived
        self._images[name.image].add(key)
        self.size += len(derived.body) + ENTRY_BYTES
        while (
            self.size > self._options.max_size
            or len(self._entries) > self._options.max_elements
        ):
            self._remove(next(iter(self._entries)))

    async def forget(self, image: ImageName) -> None:
        for key in tuple(self._images.get(image, ())):
            self._remove(key)

    async def names(self, image: ImageName) -> AsyncIterator[str]:
        for tag, name in tuple(self._images.get(image, ())):
            yield stored_key(name, tag)

    def _remove(self, key: tuple[Tag, MadeName]) -> None:
        derived = self._entries.pop(key, None)
        if derived is None:
            return
        self.size -= len(derived.body) + ENTRY_BYTES
        image = key[1].image
        self._images[image].discard(key)
        if not self._images[image]:
            del self._images[image]


class DiskLevel:
    """A `Level` on this machine's disk, which the servers of the machine may share."""

    name = "disk"
    instant = False
    shared = False

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        found = await self._shelf.read(name.image, stored_key(name, tag))
        return None if found is None else Derived(found[1], found[0].media_type)

    async def has(self, tag: Tag, name: MadeName) -> bool:
        return await self._shelf.about(name.image, stored_key(name, tag)) is not None

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        await self._shelf.put(
            name.image,
            stored_key(name, tag),
            io.BytesIO(derived.body),
            media_type=derived.media_type,
        )

    async def forget(self, image: ImageName) -> None:
        await self._shelf.forget(image)

    async def names(self, image: ImageName) -> AsyncIterator[str]:
        for key in await self._shelf.keys(image):
            yield key


class StoreLevel:
    """A `Level` in a store.

    Args:
        store: Where.
        name: One word for logs and headers.
        lifetime: Seconds after which the store may forget what was put; None: it keeps
            everything until it is told to forget it.
        keeps: Whether anything is put there from here: what never goes by itself may
            hold only what somebody else has put.

    Attributes:
        lifetime: As given; what is put later has another if it is changed.
    """

    instant = False
    shared = True

    def __init__(
        self,
        store: Store,
        name: str = "store",
        lifetime: int | None = None,
        *,
        keeps: bool = True,
    ) -> None:
        self._store = store
        self._keeps = keeps
        self.lifetime = lifetime
        self.name = name

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        found = await self._store.fetch(stored_key(name, tag))
        if found is None:
            return None
        with found:
            return Derived(await found.read(), found.stored.media_type)

    async def has(self, tag: Tag, name: MadeName) -> bool:
        return await self._store.head(stored_key(name, tag)) is not None

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        if not self._keeps:
            return
        await self._store.put(
            stored_key(name, tag),
            io.BytesIO(derived.body),
            media_type=derived.media_type,
            lifetime=self.lifetime,
        )

    async def forget(self, image: ImageName) -> None:
        keys = [key async for key in self.names(image)]
        at_once = asyncio.Semaphore(DELETES)

        async def delete(key: str) -> None:
            async with at_once:
                await self._store.delete(key)

        outcomes = await asyncio.gather(*map(delete, keys), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    def names(self, image: ImageName) -> AsyncIterator[str]:
        return self._store.list(derived_prefix(image))
