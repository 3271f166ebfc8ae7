"""What is made from originals: from the nearest cache, or once for all who ask."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from image_repo import names
from image_repo.cache import Cache, Derived
from image_repo.errors import (
    BadImageError,
    BadRequestError,
    CrashError,
    ImageRepoError,
    TooCostlyError,
    TooLargeError,
)
from image_repo.flights import Flights, Remembered
from image_repo.formats import Format
from image_repo.revisions import Revisions, not_yet

if TYPE_CHECKING:
    from image_repo.names import ImageName, MadeName, Revision, Tag
    from image_repo.originals import Originals
    from image_repo.stores.store import Object
    from image_repo.transform.pool import Pool

logger = logging.getLogger(__name__)

REPLACED_TRIES = 2
"""How often a derivation is begun anew because its original was replaced meanwhile."""

LASTING = (BadImageError, TooLargeError, TooCostlyError)
"""Errors that the same original would give again."""


MAX_CRASHES = 2
"""How many workers an original may cost before it is refused."""

CRASHES_SECONDS = 600.0
"""Least time for which it is remembered that an original has cost a worker."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A derived image, or metadata, to send.

    Attributes:
        derived: Its bytes.
        tag: Of the original the bytes were really made from.
        lasting: Whether it may be kept by caches under its tag.
        source: Where it came from: a cache level's name, or `derived`.
        seconds: What each step took, in order.
    """

    derived: Derived
    tag: Tag
    lasting: bool
    source: str
    seconds: dict[str, float] = field(default_factory=dict)


class Derivations:
    """Derived images, wherever they come from.

    Args:
        originals: Where originals are kept.
        revisions: Which they are now.
        cache: Where derived images are kept.
        pool: The workers.
        failure_lifetime: Seconds for which what could not be derived isn't tried again.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        originals: Originals,
        revisions: Revisions,
        cache: Cache,
        pool: Pool,
        *,
        failure_lifetime: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._originals = originals
        self._revisions = revisions
        self._cache = cache
        self._pool = pool
        self._failure_lifetime = failure_lifetime
        self._failures: Remembered[tuple[Tag, MadeName], ImageRepoError] = Remembered(
            failure_lifetime, clock=clock
        )
        self._crashes: Remembered[tuple[ImageName, Revision], int] = Remembered(
            max(failure_lifetime, CRASHES_SECONDS), clock=clock
        )
        self._deriving: Flights[tuple[Tag, MadeName], Answer] = Flights()

    async def landed(self) -> None:
        """Wait for the derivations under way."""
        await self._deriving.landed(lambda _: True)

    def check_kind(self, row: Format) -> None:
        """Refuse a kind that the ImageMagick found here can't write.

        Raises:
            BadRequestError: Names the kinds that work.
        """
        if row.kind not in self._pool.kinds:
            kinds = ", ".join(sorted(self._pool.kinds))
            raise BadRequestError(
                f"kind {row.kind!r} can't be written by this server: it writes {kinds}"
            )

    async def get(self, name: MadeName) -> Answer:
        """Return a derived image or metadata, from the nearest cache or made now.

        What is returned was made from an original that was current when the answer
        was complete, not only when the question came.

        Raises:
            ImageRepoError: As its classes say.
        """
        if isinstance(name, names.DerivedName):
            self.check_kind(name.format)
        answer = await self._once(name)
        for _ in range(REPLACED_TRIES):
            if answer.tag == await self._revisions.tag(name.image):
                return answer
            answer = await self._once(name)
        return replace(answer, lasting=False)

    async def _once(self, name: MadeName) -> Answer:
        started = time.perf_counter()
        revision = await self._revisions.get(name.image)
        tag = self._revisions.tag_of(revision)
        asked = time.perf_counter()
        hit = await self._cache.get(tag, name)
        found = time.perf_counter()
        seconds = {"revision": asked - started, "cache": found - asked}
        if hit is not None:
            return Answer(hit.derived, tag, True, hit.level, seconds)
        self._raise_remembered(tag, name)
        made = await self._deriving.do(
            (tag, name), lambda: self._derive(name, revision)
        )
        return replace(made, seconds=seconds | made.seconds)

    def _raise_remembered(self, tag: Tag, name: MadeName) -> None:
        failure = self._failures.get((tag, name))
        if failure is not None:
            raise type(failure)(str(failure))

    async def _derive(self, name: MadeName, revision: Revision) -> Answer:
        started = time.perf_counter()
        changes = self._revisions.changes
        original, lasting = await self._fetch(name.image, revision)
        with original:
            fetched = time.perf_counter()
            actual = names.Revision(original.stored.revision)
            tag = self._revisions.tag_of(actual)
            body = await self._run(name, tag, actual, original)
        done = time.perf_counter()
        made = Derived(body, name.media_type)
        if lasting and self._revisions.changed_since(name.image, changes):
            # Nothing is kept of an image that was deleted or replaced meanwhile.
            lasting = await self._revisions.current(name.image) == actual
        if lasting:
            await self._cache.put(tag, name, made)
        logger.info("derived %s in %.0f ms", name, 1000 * (done - started))
        seconds = {"fetch": fetched - started, "derive": done - fetched}
        return Answer(made, tag, lasting, "derived", seconds)

    async def open(self, image: ImageName) -> tuple[Object, bool]:
        """Return an original, open for reading, and whether it is the current one.

        Raises:
            UnknownImageError: There is none.
            StoreError: The store failed, or does not have yet what it should have.
        """
        return await self._fetch(image, await self._revisions.get(image))

    async def _fetch(self, image: ImageName, revision: Revision) -> tuple[Object, bool]:
        """Return an original, and whether its revision is the one remembered."""
        original = await self._originals.fetch(image)
        if original is not None:
            if original.stored.revision == revision:
                return original, True
            original.close()
        # Another server has changed it, or the store lags: `get` knows which.
        self._revisions.forget(image)
        revision = await self._revisions.get(image)
        original = await self._originals.fetch(image)
        if original is None:
            self._revisions.forget(image)
            await self._revisions.get(image)
            raise not_yet(image)
        return original, original.stored.revision == revision

    async def _run(
        self, name: MadeName, tag: Tag, revision: Revision, original: Object
    ) -> bytes:
        blamed = (name.image, revision)
        self._refuse_killer(blamed)
        file, size = original.file, original.stored.size

        def check() -> None:
            # Again when a worker is free: others of the same original may have been
            # ahead in the queue.
            self._refuse_killer(blamed)

        try:
            if isinstance(name, names.MetadataName):
                return await self._pool.metadata(file, size, name.groups, check=check)
            return await self._pool.derive(file, size, name.text, check=check)
        except LASTING as error:
            self._remember(tag, name, error)
            raise
        except CrashError:
            logger.warning("a worker died of %s", name)
            before = self._crashes.get(blamed) or 0
            self._crashes.put(blamed, before + 1)
            self._refuse_killer(blamed)
            raise

    def _refuse_killer(self, original: tuple[ImageName, Revision]) -> None:
        """Refuse an original that has cost too many workers, whatever the modifiers."""
        if (self._crashes.get(original) or 0) >= MAX_CRASHES:
            raise BadImageError("workers died of this image more than once")

    def _remember(self, tag: Tag, name: MadeName, error: ImageRepoError) -> None:
        logger.warning("cannot derive %s: %s", name, error)
        lifetime = self._failure_lifetime * random.uniform(0.75, 1.25)  # noqa: S311 - spreads retries
        self._failures.put((tag, name), error, lifetime=lifetime)
