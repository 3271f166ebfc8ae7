"""Originals near at hand: those that came from afar are kept on this machine's disk.

So ten sizes of one original fetch it once. Any of them may be lost at any time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from image_repo.flights import Flights
from image_repo.lenient import LenientShelf
from image_repo.names import MARK
from image_repo.stores.store import Object, Stored

if TYPE_CHECKING:
    from image_repo.names import ImageName, Revision
    from image_repo.originals import Originals
    from image_repo.shelf import Shelf

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
        self._shelf = (
            None
            if shelf is None
            else LenientShelf(shelf, "originals are not kept", clock)
        )
        self._bringing: Flights[tuple[ImageName, Revision], None] = Flights()

    async def open(self, image: ImageName, revision: Revision) -> Object | None:
        """Open an original of *revision*, or whatever the store has instead.

        None: it has nothing.

        Raises:
            StoreError: The store failed.
        """
        shelf = self._shelf
        if shelf is None or shelf.rests:
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
        return await self._shelf.about(image, _key(image, revision)) is not None

    async def forget(self, image: ImageName) -> None:
        """Forget what is kept of an image; a disk that fails is no error."""
        if self._shelf is not None:
            await self._shelf.forget(image)

    async def _near(
        self, shelf: LenientShelf, image: ImageName, revision: Revision
    ) -> Object | None:
        found = await shelf.get(image, _key(image, revision))
        if found is None:
            return None
        return Object(_unpacked(found.stored), found.file)

    async def _bring(
        self, shelf: LenientShelf, image: ImageName, revision: Revision
    ) -> None:
        """Fetch an original for all who wait for it, if the store has that revision."""
        if await self.is_near(image, revision):
            return  # another has brought it since this one looked
        forgets = shelf.forgets
        original = await self._originals.fetch(image)
        if original is None:
            return
        with original:
            stored = original.stored
            if stored.revision != revision or not shelf.fits(stored.size):
                return
            await shelf.put(
                image,
                _key(image, revision),
                original.file,
                forgets=forgets,
                size=stored.size,
                media_type=stored.media_type,
                metadata={_STORED: _packed(stored)},
            )


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
