"""Originals near at hand: those that came from afar are kept on this machine's disk.

So ten sizes of one original fetch it once. Any of them may be lost at any time.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from image_repo.errors import StoreError
from image_repo.flights import Flights
from image_repo.names import MARK
from image_repo.stores.store import Object, Stored

if TYPE_CHECKING:
    from image_repo.names import ImageName, Revision
    from image_repo.originals import Originals
    from image_repo.shelf import Shelf

logger = logging.getLogger(__name__)

RESTING: Final = 60.0
"""Seconds for which nothing is kept after the disk has failed; it is said once."""

_STORED = "stored"  # the word in a shelf's metadata for what the store has said


class KeptOriginals:
    """Originals, from the disk where they are kept, or from their store.

    Args:
        originals: Where they are for good.
        shelf: Where they are kept; None: the store is near as it is.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        originals: Originals,
        shelf: Shelf | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._originals = originals
        self._shelf = shelf
        self._clock = clock
        self._bringing: Flights[tuple[ImageName, Revision], None] = Flights()
        self._forgets = 0
        self._rests_until = 0.0

    async def open(self, image: ImageName, revision: Revision) -> Object | None:
        """Open an original of *revision*, or whatever the store has instead.

        None: it has nothing.

        Raises:
            StoreError: The store failed.
        """
        shelf = self._shelf
        if shelf is None or self._clock() < self._rests_until:
            return await self._originals.fetch(image)
        found = await self._near(shelf, image, revision)
        if found is None:
            await self._bringing.do(
                (image, revision), lambda: self._bring(shelf, image, revision)
            )
            found = await self._near(shelf, image, revision)
        # None here: it is of another revision, too large to keep, or the disk failed.
        return found or await self._originals.fetch(image)

    async def is_near(self, image: ImageName, revision: Revision) -> bool:
        """Return whether an original can be opened without asking another machine."""
        if self._shelf is None:
            return True
        try:
            found = await self._shelf.about(image, _key(image, revision))
        except StoreError:
            return False
        return found is not None

    async def forget(self, image: ImageName) -> None:
        """Forget what is kept of an image; a disk that fails is no error."""
        self._forgets += 1
        if self._shelf is not None:
            try:
                await self._shelf.forget(image)
            except StoreError as error:
                self._rest(error)

    async def _near(
        self, shelf: Shelf, image: ImageName, revision: Revision
    ) -> Object | None:
        try:
            found = await shelf.get(image, _key(image, revision))
        except StoreError as error:
            self._rest(error)
            return None
        if found is None:
            return None
        return Object(_unpacked(found.stored), found.file)

    async def _bring(self, shelf: Shelf, image: ImageName, revision: Revision) -> None:
        """Fetch an original for all who wait for it, if the store has that revision."""
        forgets = self._forgets
        original = await self._originals.fetch(image)
        if original is None:
            return
        with original:
            stored = original.stored
            if stored.revision != revision or not shelf.fits(stored.size):
                return
            try:
                await shelf.put(
                    image,
                    _key(image, revision),
                    original.file,
                    size=stored.size,
                    media_type=stored.media_type,
                    metadata={_STORED: _packed(stored)},
                )
                if forgets != self._forgets:  # it may have been deleted meanwhile
                    await shelf.forget(image)
            except StoreError as error:
                self._rest(error)

    def _rest(self, error: StoreError) -> None:
        if self._clock() < self._rests_until:
            return
        self._rests_until = self._clock() + RESTING
        logger.warning("originals are not kept for %d s: %s", RESTING, error)


def _key(image: ImageName, revision: Revision) -> str:
    return f"{image}/{MARK}/{revision}/original"


def _packed(stored: Stored) -> str:
    """Return as text what the store has said, but for the size, which is the same."""
    return json.dumps(
        {
            "key": stored.key,
            "revision": stored.revision,
            "modified": stored.modified.isoformat(),
            "metadata": dict(stored.metadata),
        }
    )


def _unpacked(kept: Stored) -> Stored:
    said = json.loads(kept.metadata[_STORED])
    modified = datetime.fromisoformat(said["modified"])
    return replace(kept, **said | {"modified": modified})
