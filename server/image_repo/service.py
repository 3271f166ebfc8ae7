"""What the server does, apart from HTTP: derive, upload, delete, list."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Self

from image_repo import names
from image_repo.derivations import Derivations
from image_repo.errors import StoreError
from image_repo.options import option
from image_repo.revisions import Revisions, unknown

if TYPE_CHECKING:
    from image_repo.cache import Cache
    from image_repo.names import ImageName, Recipe, Revision, Tag
    from image_repo.purge import Purger
    from image_repo.stores.spool import Spool
    from image_repo.stores.store import Store
    from image_repo.transform.headers import Header
    from image_repo.transform.pool import Pool

logger = logging.getLogger(__name__)

SENDING_SECONDS = 10.0
"""Longest wait for answers that are leaving before a change is answered."""

SETTLE_SECONDS = 0.05
"""How long after an answer has left nginx has surely renamed its cache file.

It does so in the same event as it reads the last byte.
"""

LATE_PURGES = (0.5, 2.0, 8.0, 30.0)
"""Pauses in seconds between further purges: nginx may be slower, or be restarting."""

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
        cache: Where derived images are kept.
        pool: The workers.
        purger: Forgets what nginx keeps.
        recipe: Hash of all outside the URL that changes pixels.
        options: Times.
        clock: Monotonic seconds.

    Attributes:
        derivations: Derived images.
    """

    def __init__(  # noqa: PLR0913 - the rooms it connects
        self,
        *,
        originals: Store,
        cache: Cache,
        pool: Pool,
        purger: Purger,
        recipe: Recipe,
        options: ServiceOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._originals = originals
        self._cache = cache
        self._pool = pool
        self._purger = purger
        self._revisions = Revisions(originals, recipe, options.revision_lifetime, clock)
        self.derivations = Derivations(
            originals,
            self._revisions,
            cache,
            pool,
            failure_lifetime=options.failure_lifetime,
            clock=clock,
        )
        self._sending: defaultdict[ImageName, set[asyncio.Future[None]]] = defaultdict(
            set
        )
        self._writers: dict[ImageName, _Writers] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finish the derivations under way."""
        await self.derivations.landed()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    # Reading

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

    @contextmanager
    def sending(self, image: ImageName, path: str) -> Iterator[None]:
        """Say that an answer about *image* under *path* leaves for nginx now.

        A change to the image waits until it has left, and purges it then.
        """
        self._purger.answered(image, path)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        under_way = self._sending[image]
        under_way.add(done)
        try:
            yield
        finally:
            done.set_result(None)
            under_way.discard(done)
            if not under_way and self._sending.get(image) is under_way:
                del self._sending[image]

    async def describe(self, image: ImageName) -> Original:
        """Return what is known about an original, read from its header.

        Raises:
            UnknownImageError: There is none.
        """
        with await self.derivations.open(image) as original:
            stored = original.stored
            header = await self._pool.probe(original.file, stored.size)
        return Original(
            image, names.Revision(stored.revision), stored.size, header, stored.modified
        )

    async def names(self) -> AsyncIterator[ImageName]:
        """Yield the names of all images, in the order of their UTF-8 bytes."""
        async for key in self._originals.list():
            if f"/{names.MARK}/" not in key:
                yield names.ImageName(key)

    async def ready(self) -> None:
        """Ask the store for something small.

        Raises:
            StoreError: It does not answer as it should.
        """
        try:
            async with asyncio.timeout(5):
                await self._originals.head("_/ready")
        except TimeoutError as error:
            raise StoreError("the store does not answer") from error

    # Writing

    async def look(self, image: ImageName) -> Revision | None:
        """Return what the store has under a name just now; None: nothing."""
        stored = await self._originals.head(image)
        return None if stored is None else names.Revision(stored.revision)

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
        async with self._writing(image):
            before = await self.look(image)
            allowed(before)
            try:
                stored = await self._originals.put(
                    image, spool.file, media_type=header.format.media_type
                )
            except BaseException:
                # Whether it was written isn't known.
                await self._changed(image, None)
                raise
            revision = names.Revision(stored.revision)
            await self._changed(image, revision)
        logger.info("stored %s, %d bytes, %s", image, stored.size, header.format.kind)
        original = Original(image, revision, stored.size, header, stored.modified)
        return original, before is None

    async def delete(self, image: ImageName, allowed: Condition) -> None:
        """Remove an original and everything made from it.

        Raises:
            UnknownImageError: There is none.
            ImageRepoError: What *allowed* raises.
        """
        async with self._writing(image):
            allowed(await self.look(image))
            try:
                found = await self._originals.delete(image)
            finally:
                await self._changed(image, None)
        if not found:
            raise unknown(image)
        logger.info("deleted %s", image)

    async def purge(self, image: ImageName) -> None:
        """Forget everything made from an image, and keep the original.

        Raises:
            UnknownImageError: There is no such image.
        """
        await self._revisions.get(image)
        async with self._writing(image):
            await self._changed(image, None)
        logger.info("purged %s", image)

    @asynccontextmanager
    async def _writing(self, image: ImageName) -> AsyncIterator[None]:
        """Let one change at a time happen to an image."""
        writers = self._writers.setdefault(image, _Writers())
        writers.count += 1
        try:
            async with writers.lock:
                yield
        finally:
            writers.count -= 1
            if not writers.count:
                del self._writers[image]

    async def _changed(self, image: ImageName, revision: Revision | None) -> None:
        """Forget what was made from the former original, here and in nginx."""
        self._revisions.changed(image, revision)
        before = set(self._sending.get(image, ()))
        tag = None if revision is None else self._revisions.tag_of(revision)
        made = await self._cache.forget(image)
        left = await self._purger.purge(image, made, tag)
        if before:
            await asyncio.wait(before, timeout=SENDING_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS)
            left = await self._purger.purge(image, made, tag)
        if before or left:
            self._spawn(self._purge_again(image, made, tag))

    async def _purge_again(
        self, image: ImageName, made: list[str], tag: Tag | None
    ) -> None:
        """Purge what could not be purged, or was stored late by a slow nginx."""
        left: tuple[str, ...] = ()
        for pause in LATE_PURGES:
            await asyncio.sleep(pause)
            left = await self._purger.purge(image, made, tag)
        if left:
            logger.error("nginx may give old pixels of %s until they expire", image)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class _Writers:
    """The lock of one name, and how many hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.count = 0
