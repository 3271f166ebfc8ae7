"""What a change of an original takes with it: all made from the former one.

Whoever changes an original says so here, holding `Changes.writing`. Then nothing on
this machine, nginx included, answers with what was made before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Self

from image_repo import names
from image_repo.errors import StoreError

if TYPE_CHECKING:
    from image_repo.cache import Cache
    from image_repo.names import ImageName, Tag
    from image_repo.purge import Purger
    from image_repo.revisions import Revisions
    from image_repo.stores.store import Stored

logger = logging.getLogger(__name__)

SENDING_SECONDS = 10.0
"""Longest wait for answers that are leaving before a change is answered."""

SETTLE_SECONDS = 0.05
"""How long after an answer has left nginx has surely renamed its cache file.

It does so in the same event as it reads the last byte.
"""

LATE_PURGES = (0.5, 2.0, 8.0, 30.0)
"""Pauses in seconds between further purges: nginx may be slower, or be restarting."""

LATE_LOOKS = (1.0, 2.0, 7.0, 20.0, 60.0)
"""Pauses in seconds between looks for a write that may still land: a store that was
stopped in it has been seen to finish it when it went on."""


class Changes:
    """Forgets what was made from originals that have changed; a context manager.

    Args:
        revisions: What each original is now.
        cache: Where derived images are kept.
        purger: Forgets what nginx keeps.
    """

    def __init__(self, revisions: Revisions, cache: Cache, purger: Purger) -> None:
        self._revisions = revisions
        self._cache = cache
        self._purger = purger
        self._sending: defaultdict[ImageName, set[asyncio.Future[None]]] = defaultdict(
            set
        )
        self._writers: dict[ImageName, _Writers] = {}
        self._watches: dict[ImageName, asyncio.Task[None]] = {}
        self._background: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

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

    @asynccontextmanager
    async def writing(self, image: ImageName) -> AsyncIterator[None]:
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

    async def replaced(
        self, image: ImageName, latest: Stored, before: Stored | None
    ) -> None:
        """Forget what was made before we have put *latest*."""
        self._end_watch(image)
        self._revisions.replaced(image, latest, _some(before))
        revision = names.Revision(latest.revision)
        await self._forget(image, self._revisions.tag_of(revision))

    async def deleted(
        self, image: ImageName, every: Iterable[Stored], before: Stored | None
    ) -> None:
        """Forget what was made before we have removed *every* original."""
        self._end_watch(image)
        self._revisions.deleted(image, (*every, *_some(before)))
        await self._forget(image)

    async def doubted(self, image: ImageName, before: Stored | None) -> None:
        """Forget what was made before a write that may have happened, or still may."""
        self._end_watch(image)
        watch = asyncio.create_task(self._watch(image, before))
        self._watches[image] = watch
        self._keep(watch)
        await self.purged(image)

    async def purged(self, image: ImageName) -> None:
        """Forget what was made from an image, because somebody wants it."""
        self._revisions.doubted(image)
        await self._forget(image)

    async def _forget(self, image: ImageName, tag: Tag | None = None) -> None:
        """Forget all made from an image, here and in nginx, but what has *tag*."""
        before = set(self._sending.get(image, ()))
        made = await self._cache.forget(image)
        left = await self._purger.purge(image, made, tag)
        if before:
            await asyncio.wait(before, timeout=SENDING_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS)
            left = await self._purger.purge(image, made, tag)
        if before or left:
            self._keep(asyncio.create_task(self._purge_again(image, made, tag)))

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

    async def _watch(self, image: ImageName, before: Stored | None) -> None:
        """Look whether a write lands late, and forget what was made before it."""
        landed = False
        for pause in LATE_LOOKS:
            await asyncio.sleep(pause)
            try:
                found = await self._revisions.look(image)
            except StoreError as error:
                logger.warning("cannot look what became of %s: %s", image, error)
                continue
            if not landed and found == before:
                continue
            # A write that has failed may be on one replica only, and the others still
            # tell what was before: all that is made until they agree is doubtful.
            landed = True
            # A change that gets its turn before this one ends the watch.
            async with self.writing(image):
                await self.purged(image)
            logger.info("%s has changed after a write to it failed", image)
        self._watches.pop(image, None)

    def _end_watch(self, image: ImageName) -> None:
        watch = self._watches.pop(image, None)
        if watch is not None:
            watch.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._background.add(task)
        task.add_done_callback(self._background.discard)


class _Writers:
    """The lock of one name, and how many hold it or wait for it."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.count = 0


def _some(stored: Stored | None) -> tuple[Stored, ...]:
    return () if stored is None else (stored,)
