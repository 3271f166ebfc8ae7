"""A shelf whose faults are no errors, for what is kept only to save time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, BinaryIO, Final

from image_repo.errors import StoreError

if TYPE_CHECKING:
    from image_repo.shelf import Shelf
    from image_repo.stores.store import Object, Stored

logger = logging.getLogger(__name__)

RESTING: Final = 60.0
"""Seconds for which nothing is kept after the disk has failed; it is said once."""


class LenientShelf:
    """Finds nothing where its shelf fails, and rests for a while then.

    Args:
        shelf: Where entries are.
        said: What is the case while it rests, as a log says it.
        clock: Monotonic seconds.
    """

    def __init__(
        self, shelf: Shelf, said: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shelf = shelf
        self._said = said
        self._clock = clock
        self._forgets = 0
        self._rests_until = 0.0

    @property
    def rests(self) -> bool:
        """Whether the disk has failed of late, so that it is better left alone."""
        return self._clock() < self._rests_until

    @property
    def forgets(self) -> int:
        """How often something was forgotten: to be told to `put`."""
        return self._forgets

    def fits(self, size: int) -> bool:
        """Return whether an entry of so many bytes may be kept at all."""
        return self._shelf.fits(size)

    async def get(self, image: str, key: str) -> Object | None:
        """Open an entry; None: it is not here, or the disk does not give it."""
        try:
            return await self._shelf.get(image, key)
        except StoreError as error:
            self.rest(error)
            return None

    async def about(self, image: str, key: str) -> Stored | None:
        """Return what is known of an entry, as `get`."""
        try:
            return await self._shelf.about(image, key)
        except StoreError as error:
            self.rest(error)
            return None

    async def put(  # noqa: PLR0913 - as Shelf.put
        self,
        image: str,
        key: str,
        body: BinaryIO,
        *,
        forgets: int,
        size: int | None = None,
        media_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Keep *body* as `Shelf.put` does, if the disk takes it.

        Args:
            image: What the entry is forgotten with.
            key: What it is found by.
            body: A file that can seek.
            forgets: What `forgets` said when *body* was begun; if something was
                forgotten since, the image may have been deleted, and nothing stays.
            size: How many bytes of it; None: all.
            media_type: Any text.
            metadata: Any texts.
        """
        try:
            await self._shelf.put(
                image, key, body, size=size, media_type=media_type, metadata=metadata
            )
            if forgets != self._forgets:
                await self._shelf.forget(image)
        except StoreError as error:
            self.rest(error)

    async def forget(self, image: str) -> None:
        """Forget all of an image, if the disk lets go of it."""
        self._forgets += 1
        try:
            await self._shelf.forget(image)
        except StoreError as error:
            self.rest(error)

    def rest(self, error: Exception) -> None:
        """Leave the disk alone for a while, because of *error*."""
        if not self.rests:
            self._rests_until = self._clock() + RESTING
            logger.warning("%s for %d s: %s", self._said, RESTING, error)
