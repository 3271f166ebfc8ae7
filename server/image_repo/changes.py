"""What a change of an original takes with it: all made from the former one.

Whoever changes an original says so here, holding `Changes.writing`. Then nothing on
this machine, nginx included, answers with what was made before.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Self

from image_repo import names
from image_repo.errors import StoreError

if TYPE_CHECKING:
    from image_repo.derivations import Derivations
    from image_repo.names import ImageName, Tag
    from image_repo.peers import Peers
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


Tell = Callable[[], Awaitable[tuple[str, ...]]]
"""Tells peers of a change, and returns those that did not hear."""


class Changes:
    """Forgets what was made from originals that have changed; a context manager.

    Args:
        revisions: What each original is now.
        derivations: What is made from originals.
        purger: Forgets what nginx keeps.
        peers: The other servers.
    """

    def __init__(
        self,
        revisions: Revisions,
        derivations: Derivations,
        purger: Purger,
        peers: Peers,
    ) -> None:
        self._revisions = revisions
        self._derivations = derivations
        self._purger = purger
        self._peers = peers
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
        await self._forget_everywhere(image, self._revisions.tag_of(revision))

    async def deleted(
        self, image: ImageName, every: Iterable[Stored], before: Stored | None
    ) -> None:
        """Forget what was made before we have removed *every* original."""
        self._end_watch(image)
        self._revisions.deleted(image, (*every, *_some(before)))
        await self._forget_everywhere(image)

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
        await self._forget_everywhere(image)

    async def heard(self, image: ImageName, *, onwards: bool) -> None:
        """Forget what was made from an image that a peer has changed.

        What other machines share is left to the peer.

        Args:
            image: Which.
            onwards: Whether the other servers of this machine have to hear of it.
        """
        self._revisions.heard(image)
        tell = partial(self._peers.tell, image, afar=False) if onwards else None
        await self._forget(image, tell=tell, shared=False)

    async def _forget_everywhere(
        self, image: ImageName, tag: Tag | None = None
    ) -> None:
        tell = partial(self._peers.tell, image)
        await self._forget(image, tag, tell=tell, shared=True)

    async def _forget(
        self,
        image: ImageName,
        tag: Tag | None = None,
        *,
        tell: Tell | None,
        shared: bool,
    ) -> None:
        """Forget all made from an image, here and in nginx, but what has *tag*."""
        before = set(self._sending.get(image, ()))
        # nginx last: until then it might ask a peer who has not heard of it.
        made, deaf, _ = await asyncio.gather(
            self._derivations.forget(image, shared=shared),
            tell() if tell else _none(),
            self._revisions.settled(image),
        )
        left = await self._purger.purge(image, made, tag)
        if before:
            await asyncio.wait(before, timeout=SENDING_SECONDS)
            await asyncio.sleep(SETTLE_SECONDS)
            left = await self._purger.purge(image, made, tag)
        if before or left or deaf:
            again = self._purge_again(image, made, tag, tell if deaf else None)
            self._keep(asyncio.create_task(again))

    async def _purge_again(
        self, image: ImageName, made: list[str], tag: Tag | None, tell: Tell | None
    ) -> None:
        """Purge what could not be purged, or was stored late by a slow nginx."""
        left: tuple[str, ...] = ()
        for pause in LATE_PURGES:
            await asyncio.sleep(pause)
            if tell is not None and not await tell():
                tell = None
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


async def _none() -> tuple[str, ...]:
    return ()


def _some(stored: Stored | None) -> tuple[Stored, ...]:
    return () if stored is None else (stored,)
