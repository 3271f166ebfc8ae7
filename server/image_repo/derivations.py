"""What is made from originals: from the nearest cache, or once for all who ask."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from image_repo import names
from image_repo.cache import Cache
from image_repo.errors import (
    BadImageError,
    BadRequestError,
    CrashError,
    DeriveError,
    ImageRepoError,
    TooCostlyError,
    TooLargeError,
)
from image_repo.flights import Flights, Remembered
from image_repo.formats import Format
from image_repo.levels import Derived
from image_repo.revisions import Revisions, not_yet
from image_repo.transform.pool import Rendered

if TYPE_CHECKING:
    from image_repo.intermediates import Intermediates
    from image_repo.kept import KeptOriginals
    from image_repo.names import DerivedName, ImageName, MadeName, Revision, Tag
    from image_repo.stores.store import Object
    from image_repo.transform.pool import Pool

logger = logging.getLogger(__name__)

Check = Callable[[], None]
"""Raises what refuses a job, when a worker is free for it."""

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
        source: Where it came from: a cache level's name, `intermediate` or `derived`.
        seconds: What each step took, in order.
    """

    derived: Derived
    tag: Tag
    lasting: bool
    source: str
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Made:
    """What has just been made.

    Attributes:
        body: Its bytes.
        revision: Of the original they were made from.
        lasting: Whether that was the current one when it was opened.
        source: What it was made from: `derived` says an original.
        seconds: What each step took.
    """

    body: bytes
    revision: Revision
    lasting: bool
    source: str
    seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Cost:
    """What it would take to make a derived image now.

    Attributes:
        scale: Of the intermediate it would be made from, such as 8 for 1/8; None: it
            would be made from the original.
        near: Whether the original need not be fetched from another machine.
    """

    scale: int | None
    near: bool


class Derivations:
    """Derived images, wherever they come from.

    Args:
        originals: Where originals are kept, for good or near at hand.
        intermediates: Where reduced pictures are kept.
        revisions: Which originals are current.
        cache: Where derived images are kept.
        pool: The workers.
        failure_lifetime: Seconds for which what could not be derived isn't tried again.
        clock: Monotonic seconds.
    """

    def __init__(  # noqa: PLR0913 - the rooms it connects
        self,
        originals: KeptOriginals,
        intermediates: Intermediates,
        revisions: Revisions,
        cache: Cache,
        pool: Pool,
        *,
        failure_lifetime: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._originals = originals
        self._intermediates = intermediates
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
        self._obtaining: Flights[tuple[Tag, MadeName], Answer] = Flights()

    async def landed(self) -> None:
        """Wait for what is under way."""
        await self._obtaining.landed(lambda _: True)

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

    async def open(self, image: ImageName) -> tuple[Object, bool]:
        """Return an original, open for reading, and whether it is the current one.

        Raises:
            UnknownImageError: There is none.
            StoreError: The store failed, or does not have yet what it should have.
        """
        return await self._fetch(image, await self._revisions.get(image))

    async def forget(self, image: ImageName, *, shared: bool = True) -> list[str]:
        """Forget everything made from *image*, and what failed; as `Cache.forget`."""
        self._failures.forget_where(lambda key: key[1].image == image)
        self._crashes.forget_where(lambda key: key[0] == image)
        forgotten, *_ = await asyncio.gather(
            self._cache.forget(image, shared=shared),
            self._intermediates.forget(image),
            self._originals.forget(image),
        )
        return forgotten

    # What would be done

    def failure(self, tag: Tag, name: MadeName) -> str | None:
        """Return why a derived image was not made of late; None: nothing is known."""
        found = self._failures.get((tag, name))
        return None if found is None else str(found)

    async def cost(self, name: DerivedName, revision: Revision) -> Cost:
        """Return what it would take to make a derived image now."""
        tag = self._revisions.tag_of(revision)
        return Cost(
            await self._intermediates.where(name, tag),
            await self._originals.is_near(name.image, revision),
        )

    # Doing it

    async def _once(self, name: MadeName) -> Answer:
        started = time.perf_counter()
        revision = await self._revisions.get(name.image)
        tag = self._revisions.tag_of(revision)
        asked = {"revision": time.perf_counter() - started}
        hit = await self._cache.near(tag, name)
        if hit is not None:
            return Answer(hit.derived, tag, True, hit.level, asked)
        found = await self._obtaining.do(
            (tag, name), lambda: self._obtain(name, tag, revision)
        )
        return replace(found, seconds=asked | found.seconds)

    async def _obtain(self, name: MadeName, tag: Tag, revision: Revision) -> Answer:
        """Return what a further level has, or make it; for all who ask at once."""
        started = time.perf_counter()
        hit = await self._cache.get(tag, name)
        looked = {"cache": time.perf_counter() - started}
        if hit is not None:
            return Answer(hit.derived, tag, True, hit.level, looked)
        failure = self._failures.get((tag, name))
        if failure is not None:
            raise type(failure)(str(failure))
        made = await self._derive(name, revision)
        return replace(made, seconds=looked | made.seconds)

    async def _derive(self, name: MadeName, revision: Revision) -> Answer:
        started = time.perf_counter()
        changes = self._revisions.changes
        made = await self._make(name, revision, changes)
        tag = self._revisions.tag_of(made.revision)
        derived, lasting = Derived(made.body, name.media_type), made.lasting
        if lasting and self._revisions.changed_since(name.image, changes):
            # Nothing is kept of an image that was deleted or replaced meanwhile.
            lasting = await self._revisions.current(name.image) == made.revision
        if lasting:
            await self._cache.put(tag, name, derived)
        took = time.perf_counter() - started
        logger.info("derived %s in %.0f ms", name, 1000 * took)
        return Answer(derived, tag, lasting, made.source, made.seconds)

    async def _make(self, name: MadeName, revision: Revision, changes: int) -> _Made:
        if isinstance(name, names.DerivedName):
            made = await self._from_intermediate(name, revision, changes)
            if made is not None:
                return made
        started = time.perf_counter()
        original, current = await self._fetch(name.image, revision)
        fetched = {"fetch": time.perf_counter() - started}
        with original:
            actual = names.Revision(original.stored.revision)
            rendered = await self._guarded(
                name,
                actual,
                changes,
                lambda check: self._work(name, original, changes, check),
            )
        seconds = fetched | rendered.seconds
        return _Made(rendered.body, actual, current, "derived", seconds)

    async def _from_intermediate(
        self, name: DerivedName, revision: Revision, changes: int
    ) -> _Made | None:
        found = await self._intermediates.find(name, self._revisions.tag_of(revision))
        if found is None:
            return None
        with found.picture as picture:
            try:
                rendered = await self._guarded(
                    name,
                    revision,
                    changes,
                    lambda check: self._pool.derive(
                        picture.file,
                        picture.size,
                        name.text,
                        check=check,
                        reduced=found.reduced,
                    ),
                )
            except DeriveError as error:
                logger.warning(
                    "cannot derive %s from its intermediate: %s", name, error
                )
                await self._intermediates.forget(name.image)
                return None
        return _Made(rendered.body, revision, True, "intermediate", rendered.seconds)

    async def _work(
        self, name: MadeName, original: Object, changes: int, check: Check
    ) -> Rendered:
        """Have a worker make something of an original."""
        file, size = original.file, original.stored.size
        if isinstance(name, names.MetadataName):
            started = time.perf_counter()
            body = await self._pool.metadata(file, size, name.groups, check=check)
            return Rendered(body, None, {"read": time.perf_counter() - started})
        tag = self._revisions.tag_of(names.Revision(original.stored.revision))
        scratch = await self._intermediates.scratch()
        reduced = None
        try:
            rendered = await self._pool.derive(
                file, size, name.text, check=check, keep=scratch
            )
            if not self._revisions.changed_since(name.image, changes):
                reduced = rendered.reduced
        finally:
            if scratch is not None:
                self._intermediates.keep(name.image, tag, reduced, scratch)
        return rendered

    async def _fetch(self, image: ImageName, revision: Revision) -> tuple[Object, bool]:
        """Return an original, and whether its revision is the one remembered."""
        original = await self._originals.open(image, revision)
        if original is not None:
            if original.stored.revision == revision:
                return original, True
            original.close()
        # Another server has changed it, or the store lags: `get` knows which.
        self._revisions.forget(image)
        revision = await self._revisions.get(image)
        original = await self._originals.open(image, revision)
        if original is None:
            self._revisions.forget(image)
            await self._revisions.get(image)
            raise not_yet(image)
        return original, original.stored.revision == revision

    async def _guarded(
        self,
        name: MadeName,
        revision: Revision,
        changes: int,
        work: Callable[[Check], Awaitable[Rendered]],
    ) -> Rendered:
        """Do *work*, and remember what comes of it if it fails."""
        blamed = (name.image, revision)
        self._refuse_killer(blamed)
        try:
            # Looked at again when a worker is free: others of the same original may
            # have been ahead in the queue.
            return await work(lambda: self._refuse_killer(blamed))
        except LASTING as error:
            if not self._revisions.changed_since(name.image, changes):
                self._remember(self._revisions.tag_of(revision), name, error)
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
