"""What the server does, apart from HTTP: derive, upload, delete, list."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from image_repo import names
from image_repo.changes import Changes
from image_repo.derivations import Derivations
from image_repo.errors import StoreError
from image_repo.graphics import Graphics
from image_repo.intermediates import Intermediates
from image_repo.kept import KeptOriginals
from image_repo.options import option
from image_repo.peers import Peers
from image_repo.revisions import Revisions, unknown

if TYPE_CHECKING:
    from image_repo.cache import Cache
    from image_repo.lastknown import LastKnown
    from image_repo.names import (
        DerivedName,
        ImageName,
        MetadataName,
        Recipe,
        Revision,
        Tag,
    )
    from image_repo.originals import Entry, Named, Originals
    from image_repo.purge import Purger
    from image_repo.stores.spool import Spool
    from image_repo.stores.store import Stored
    from image_repo.transform.fields import MetadataOptions
    from image_repo.transform.headers import Header
    from image_repo.transform.pool import Pool

logger = logging.getLogger(__name__)

Condition = Callable[["Revision | None"], None]
"""Raises what refuses a change, given what the store has; None: nothing."""


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """How long what is known of originals is believed."""

    revision_lifetime: float = option(
        5.0,
        "Seconds for which an original's revision is believed without asking the store;"
        " the bound on staleness between servers.",
        low=0,
        high=3600,
    )
    missing_lifetime: float = option(
        5.0,
        "Seconds for which it is believed that there is no original of a name.",
        low=0,
        high=3600,
    )
    store_patience: float = option(
        2.0,
        "Seconds after which a store that does not tell a revision is taken to be away;"
        " then the last one known is served, if there is one.",
        low=0.1,
        high=60,
    )
    failure_lifetime: float = option(
        60.0,
        "Seconds, more or less a quarter, after which an image that could not be"
        " derived is tried again.",
        low=0,
        high=86_400,
    )


@dataclass(frozen=True, slots=True)
class Original:
    """What is said about an original: `size` in bytes, `header` from its own bytes."""

    image: ImageName
    revision: Revision
    size: int
    header: Header
    uploaded: datetime


class Service:
    """The rules that connect originals, caches, workers and nginx.

    Args:
        originals: Where originals are kept.
        near: Originals near at hand; None: *originals* are.
        intermediates: Reduced pictures; None: none are kept.
        last_known: Revisions for when the store is away; None: there are none.
        cache: Where derived images are kept.
        pool: The workers.
        purger: Forgets what nginx keeps.
        peers: The other servers; None: there are none.
        recipe: Hash of all outside the URL that changes pixels.
        options: Times.
        metadata: What is told of originals.
        clock: Monotonic seconds.

    Attributes:
        derivations: Derived images.
        graphics: Which originals are graphics.
    """

    def __init__(  # noqa: PLR0913 - the rooms it connects
        self,
        *,
        originals: Originals,
        near: KeptOriginals | None = None,
        intermediates: Intermediates | None = None,
        last_known: LastKnown | None = None,
        cache: Cache,
        pool: Pool,
        purger: Purger,
        peers: Peers | None = None,
        recipe: Recipe,
        options: ServiceOptions,
        metadata: MetadataOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._originals = originals
        self._groups = metadata.groups if metadata else ()
        self._cache = cache
        self._pool = pool
        self._intermediates = intermediates or Intermediates()
        self._revisions = Revisions(
            originals,
            recipe,
            options.revision_lifetime,
            clock,
            missing_lifetime=options.missing_lifetime,
            store_patience=options.store_patience,
            last_known=last_known,
        )
        self.derivations = Derivations(
            near or KeptOriginals(originals),
            self._intermediates,
            self._revisions,
            cache,
            pool,
            failure_lifetime=options.failure_lifetime,
            clock=clock,
        )
        self.graphics = Graphics(self.derivations, self._revisions, pool, clock)
        self._changes = Changes(
            self._revisions,
            self.derivations,
            purger,
            peers or Peers(None, (), ""),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the derivations under way."""
        async with self._intermediates, self._changes:
            await self.derivations.landed()

    # Reading

    @property
    def revisions(self) -> Revisions:
        """Which originals are current."""
        return self._revisions

    @property
    def found(self) -> dict[str, int]:
        """How often each level of the cache had what was asked for, and none had."""
        return dict(self._cache.found)

    async def tag(self, image: ImageName) -> Tag:
        """Return the current tag of an image.

        Raises:
            UnknownImageError: There is none.
            StoreError: The store failed.
        """
        return await self._revisions.tag(image)

    def sending(self, image: ImageName, path: str) -> AbstractContextManager[None]:
        """Say that an answer about *image* under *path* leaves for nginx now.

        A change to the image waits until it has left, and purges it then.
        """
        return self._changes.sending(image, path)

    def assumed(self, image: ImageName) -> bool:
        """Return whether the current tag is but the last one that was known.

        The store is away, and what was kept goes on being served.
        """
        return self._revisions.assumed(image)

    async def describe(self, image: ImageName) -> Original:
        """Return what is known about an original, read from its header.

        Raises:
            UnknownImageError: There is none.
            StoreError: The store failed.
        """
        original, _ = await self.derivations.open(image)
        with original:
            stored = original.stored
            header = await self._pool.probe(original.file, stored.size)
        return Original(
            image, names.Revision(stored.revision), stored.size, header, stored.modified
        )

    def metadata_name(self, image: ImageName) -> MetadataName:
        """Return what the metadata told of an image, which `derivations` has, is."""
        return names.MetadataName(image, self._groups)

    def names(self, prefix: str = "") -> AsyncIterator[ImageName]:
        """Yield each image's name once that begins so, as `Originals.names`."""
        return self._originals.names(prefix)

    def named(self, prefix: str, after: str) -> AsyncGenerator[Named, None]:
        """Yield images in order, as `Originals.named`."""
        return self._originals.named(prefix, after)

    def entries(self, prefix: str, after: str) -> AsyncGenerator[Entry, None]:
        """Yield images in order with size and date, as `Originals.entries`."""
        return self._originals.entries(prefix, after)

    async def ready(self) -> None:
        """Ask the store for something small.

        Raises:
            StoreError: It does not answer as it should.
        """
        try:
            async with asyncio.timeout(5):
                await self._originals.ready()
        except TimeoutError as error:
            raise StoreError("the store does not answer") from error

    # What would be done

    async def where(self, tag: Tag, name: DerivedName) -> dict[str, bool | None]:
        """Return which levels have a derived image; None: that one can't tell."""
        return await self._cache.where(tag, name)

    def failure(self, tag: Tag, name: DerivedName) -> str | None:
        """Return why a derived image was not made of late; None: nothing is known."""
        return self.derivations.failure(tag, name)

    async def cost(self, name: DerivedName, revision: Revision) -> dict[str, object]:
        """Return what it would take to make a derived image now, in JSON's values.

        `intermediate` is the scale of the reduced picture it would be made from, such
        as 1/8; null: of none. `fetch` says whether the original would be fetched from
        another machine, `waiting` how many jobs are before it, `seconds` how long it
        would take as the last ones did.
        """
        cost = await self.derivations.cost(name, revision)
        return {
            "intermediate": None if cost.scale is None else f"1/{cost.scale}",
            "fetch": cost.scale is None and not cost.near,
            "workers": self._pool.count,
            "idle": self._pool.idle,
            "waiting": self._pool.waiting,
            "seconds": round(self._pool.expected, 3),
        }

    # Writing

    async def look(self, image: ImageName) -> Revision | None:
        """Return what the store has under a name just now; None: nothing.

        Raises:
            StoreError: The store failed.
        """
        return _revision(await self._revisions.look(image))

    async def upload(
        self, image: ImageName, spool: Spool, allowed: Condition
    ) -> tuple[Original, bool]:
        """Keep an original; return it, and whether the name is new.

        No other change of the name comes between *allowed* and the change.

        When this returns the original is durable and nothing on this machine, nginx
        included, answers with pixels of the one before.

        Raises:
            BadImageError: The bytes are not an image we read; nothing is stored.
            TooLargeError: It has more pixels or frames than allowed.
            StoreError: It may not have been stored.
            ImageRepoError: What *allowed* raises.
        """
        header = await self._pool.probe(spool.file, spool.size)
        async with self._changes.writing(image):
            before = await self._revisions.look(image)
            allowed(_revision(before))
            try:
                stored = await self._originals.put(
                    image, spool.file, media_type=header.format.media_type
                )
            except BaseException:
                # Whether it was written isn't known.
                await self._changes.doubted(image, before)
                raise
            await self._changes.replaced(image, stored, before)
        logger.info("stored %s, %d bytes, %s", image, stored.size, header.format.kind)
        revision = names.Revision(stored.revision)
        original = Original(image, revision, stored.size, header, stored.modified)
        return original, before is None

    async def delete(self, image: ImageName, allowed: Condition) -> None:
        """Remove an original and everything made from it.

        Raises:
            UnknownImageError: There is none.
            StoreError: Some or all of it may still be there.
            ImageRepoError: What *allowed* raises.
        """
        async with self._changes.writing(image):
            before = await self._revisions.look(image)
            allowed(_revision(before))
            every = await self._originals.every(image)
            try:
                found = await self._originals.delete(image)
            except BaseException:
                await self._changes.doubted(image, before)
                raise
            if before is not None and not found:
                # Another server has been quicker, or the store lags.
                await self._changes.doubted(image, before)
                raise StoreError(f"the store did not find {image!r}; try again")
            await self._changes.deleted(image, every, before)
        if not found:
            raise unknown(image)
        logger.info("deleted %s", image)

    async def purge(self, image: ImageName) -> None:
        """Forget everything made from an image, and keep the original.

        Raises:
            UnknownImageError: There is no such image.
            StoreError: The store failed.
        """
        await self._revisions.get(image)
        async with self._changes.writing(image):
            await self._changes.purged(image)
        logger.info("purged %s", image)

    async def heard(self, image: ImageName, *, onwards: bool) -> None:
        """Forget what was made from an image that a peer has changed.

        Args:
            image: Which.
            onwards: Whether the other servers of this machine have to hear of it.
        """
        await self._changes.heard(image, onwards=onwards)
        logger.info("heard of a change of %s", image)


def _revision(stored: Stored | None) -> Revision | None:
    return None if stored is None else names.Revision(stored.revision)
