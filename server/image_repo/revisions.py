"""What revision each original has, asked of the store as seldom as is right.

A store may lag: Swift answers from any replica, and for a while after a change of ours
one of them may tell what was there before. What a change of ours has superseded is
remembered, so that it is never taken for a newer change of another server.

A store may be away: then what it has confirmed last is assumed, where that is known.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

from image_repo import names
from image_repo.errors import StoreError, UnknownImageError
from image_repo.flights import Flights, Remembered

if TYPE_CHECKING:
    from image_repo.lastknown import LastKnown
    from image_repo.names import ImageName, Recipe, Revision, Tag
    from image_repo.originals import Originals
    from image_repo.stores.store import Stored


LAG_SECONDS = 300.0
"""How long a change of ours is remembered: longer than replicas of a store that works
differ, and than any question to it, or derivation, that may have begun before it."""

QUESTION_SECONDS = 120.0
"""Longest wait for what a store has; shorter than `LAG_SECONDS`."""

ASSUMED_SECONDS = 1.0
"""Least time for which what is assumed is not asked again."""

NEW_SECONDS = 10.0
"""How long after our own put a store that has nothing is taken to lag: seconds, as the
replicas of one put differ. After that another server's delete is more likely."""

LOOKS = 2
"""How often a store that has nothing is asked before it is taken to lag."""

SUPERSEDED = 16
"""How many objects are known as superseded of one image, the last ones."""

Mark = tuple[str, str, datetime]
"""Key, revision and time: the same bytes put again have another one."""


def unknown(image: ImageName) -> UnknownImageError:
    """Return the error that says there is no such image."""
    return UnknownImageError(f"there is no image {image!r}")


def not_yet(image: ImageName) -> StoreError:
    """Return the error that says that the store lags behind what is sure."""
    return StoreError(f"the store does not have the image {image!r} yet; try again")


@dataclass(frozen=True, slots=True)
class _Change:
    """The last change of an image here.

    Attributes:
        number: How many changes there have been until then, to any image.
        latest: What our last put has stored; None: it has been deleted, or never put.
        new_until: Clock time until when the store may not have it yet.
        superseded: What was there before.
    """

    number: int
    latest: Stored | None = None
    new_until: float = 0.0
    superseded: tuple[Mark, ...] = ()


@dataclass(frozen=True, slots=True)
class _Belief:
    """What an image is taken to be now.

    Attributes:
        revision: Its original's; None: it has none.
        assumed: Whether it is the last one known, since the store does not tell.
    """

    revision: Revision | None
    assumed: bool = False


class Revisions:
    """Revisions of originals, each believed for a while.

    Args:
        originals: Where the originals are.
        recipe: Hash of all outside the URL that changes pixels.
        lifetime: Seconds for which a revision is believed.
        clock: Monotonic seconds.
        missing_lifetime: Seconds for which it is believed that there is no original.
        store_patience: Seconds after which the last known revision is assumed.
        last_known: Revisions for when the store is away; None: there are none.

    Attributes:
        changes: How many changes there have been, to any image.
    """

    def __init__(  # noqa: PLR0913 - how long each thing is believed
        self,
        originals: Originals,
        recipe: Recipe,
        lifetime: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        missing_lifetime: float = 0.0,
        store_patience: float = 2.0,
        last_known: LastKnown | None = None,
    ) -> None:
        self._originals = originals
        self._recipe = recipe
        self._clock = clock
        self._assumed_lifetime = max(lifetime, ASSUMED_SECONDS)
        self._patience = store_patience
        self._last_known = last_known
        self._known: Remembered[ImageName, _Belief] = Remembered(lifetime, clock=clock)
        # Apart, so that names that anybody makes up displace no revision.
        self._missing: Remembered[ImageName, _Belief] = Remembered(
            missing_lifetime, clock=clock
        )
        self._asking: Flights[tuple[ImageName, int], Revision | None] = Flights()
        self._changes: Remembered[ImageName, _Change] = Remembered(
            LAG_SECONDS, clock=clock
        )
        self.changes = 0

    # Reading

    async def look(self, image: ImageName) -> Stored | None:
        """Return what the store has just now; None: nothing.

        If it tells what a change of ours has superseded, that change is believed.

        Raises:
            StoreError: The store failed, or does not have yet what was put just now.
        """
        for _ in range(LOOKS):
            found = await self._originals.head(image)
            change = self._changes.get(image)
            if change is None:
                return found
            if found is not None and _is_old(found, change):
                return change.latest
            if not self._lacks(found, change):
                return found
        raise not_yet(image)

    async def current(self, image: ImageName) -> Revision | None:
        """Return the revision of an original; None: there is none.

        Of a store that fails, or does not answer for a while, it is the last one known.

        Raises:
            StoreError: As `look` does, and no revision is known.
        """
        while (belief := self._believed(image)) is None:
            changes = self.changes
            try:
                async with asyncio.timeout(self._patience):
                    found = await self._ask(image)
            except (StoreError, TimeoutError) as error:
                # Who knows nothing waits for as long as the question takes.
                if not await self._assume(image) and isinstance(error, StoreError):
                    raise
            else:
                if not self.changed_since(image, changes):
                    return found
        return belief.revision

    def assumed(self, image: ImageName) -> bool:
        """Return whether what is believed now is only the last revision known."""
        belief = self._believed(image)
        return belief is not None and belief.assumed

    async def settled(self, image: ImageName) -> None:
        """Wait until a change is known on the disk, too; a while at most.

        Until then what was before it may be assumed after a restart.
        """
        if self._last_known is not None:
            await self._last_known.settled(image)

    def changed_since(self, image: ImageName, changes: int) -> bool:
        """Return whether an image changed after there had been so many changes.

        What was asked of the store before a change must not be believed after it.
        """
        return self._last_change(image) > changes

    async def get(self, image: ImageName) -> Revision:
        """Return the revision of an original.

        Raises:
            UnknownImageError: There is no such original.
            StoreError: As `look` does.
        """
        found = await self.current(image)
        if found is None:
            raise unknown(image)
        return found

    async def tag(self, image: ImageName) -> Tag:
        """Return the current tag of an image; raises as `get` does."""
        return self.tag_of(await self.get(image))

    def tag_of(self, revision: Revision) -> Tag:
        """Return the tag of a revision."""
        return names.tag(revision, self._recipe)

    # Changes

    def replaced(
        self, image: ImageName, latest: Stored, before: Iterable[Stored]
    ) -> None:
        """Take note that we have put *latest*, where *before* was."""
        self._note(image, latest, before)
        self._void(image)
        self._confirm(image, names.Revision(latest.revision))

    def deleted(self, image: ImageName, before: Iterable[Stored]) -> None:
        """Take note that we have removed *before*, and that nothing is left."""
        self._note(image, None, before)
        self._void(image)

    def doubted(self, image: ImageName) -> None:
        """Take note that what the image is now has to be asked."""
        self.changes += 1
        former = self._changes.get(image) or _Change(self.changes)
        self._changes.put(image, replace(former, number=self.changes))
        self._void(image)

    def heard(self, image: ImageName) -> None:
        """Take note that another server has changed the image, be it what we put."""
        self.doubted(image)
        change = self._changes.get(image)
        if change is not None:
            self._changes.put(image, replace(change, new_until=0.0))

    def forget(self, image: ImageName) -> None:
        """Ask the store the next time."""
        self._known.forget(image)
        self._missing.forget(image)

    # What is believed

    def _believed(self, image: ImageName) -> _Belief | None:
        return self._known.get(image) or self._missing.get(image)

    async def _ask(self, image: ImageName) -> Revision | None:
        # Nobody joins a question from before a change.
        asked = (image, self._last_change(image))
        return await self._asking.do(asked, lambda: self._question(image))

    async def _question(self, image: ImageName) -> Revision | None:
        """Learn what the store has, whether or not anybody still waits for it."""
        changes = self.changes
        try:
            async with asyncio.timeout(QUESTION_SECONDS):
                stored = await self.look(image)
        except TimeoutError as error:
            raise StoreError("the store does not answer") from error
        found = None if stored is None else names.Revision(stored.revision)
        if not self.changed_since(image, changes):
            self._confirm(image, found)
        return found

    def _confirm(self, image: ImageName, found: Revision | None) -> None:
        """Believe what the store has told, whatever was assumed."""
        self.forget(image)
        beliefs = self._missing if found is None else self._known
        beliefs.put(image, _Belief(found))
        if self._last_known is not None:
            self._last_known.note(image, found)

    async def _assume(self, image: ImageName) -> bool:
        """Believe what was last known; return whether anything is believed now."""
        if self._last_known is None:
            return False
        last = await self._last_known.recall(image)
        if self._believed(image) is not None:  # meanwhile
            return True
        if last is None:
            return False
        belief = _Belief(last, assumed=True)
        self._known.put(image, belief, lifetime=self._assumed_lifetime)
        return True

    def _void(self, image: ImageName) -> None:
        """Believe nothing from before a change."""
        self.forget(image)
        if self._last_known is not None:
            self._last_known.void(image)

    def _note(
        self, image: ImageName, latest: Stored | None, before: Iterable[Stored]
    ) -> None:
        former = self._changes.get(image)
        marks = dict.fromkeys(() if former is None else former.superseded)
        if former is not None and former.latest is not None:
            marks[_mark(former.latest)] = None
        marks |= dict.fromkeys(map(_mark, before))
        if latest is not None:
            marks.pop(_mark(latest), None)
        self.changes += 1
        change = _Change(
            self.changes,
            latest,
            self._clock() + NEW_SECONDS,
            tuple(marks)[-SUPERSEDED:],
        )
        self._changes.put(image, change)

    def _lacks(self, found: Stored | None, change: _Change) -> bool:
        """Return whether the store seems not to have yet what we have put.

        Then what another tool has put beside it may answer to the name.
        """
        latest = change.latest
        if latest is None or self._clock() >= change.new_until:
            return False
        return found is None or found.key != latest.key

    def _last_change(self, image: ImageName) -> int:
        change = self._changes.get(image)
        return 0 if change is None else change.number


def _mark(stored: Stored) -> Mark:
    return (stored.key, stored.revision, stored.modified)


def _is_old(stored: Stored, change: _Change) -> bool:
    """Return whether *change*, or one before it, has superseded *stored*.

    The bytes of the latest are never old, though they may have been there before.
    """
    marks = change.superseded
    if change.latest is not None:
        if stored.revision == change.latest.revision:
            return False
        marks += (_mark(change.latest),)
    # The last writer wins: of one key all that is older than what is known to have
    # been there was superseded, too, though it has never been seen here.
    return _mark(stored) in marks or any(
        key == stored.key and stored.modified < at for key, _, at in marks
    )
