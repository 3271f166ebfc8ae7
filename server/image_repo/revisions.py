"""What revision each original has, asked of the store as seldom as is right."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from image_repo import names
from image_repo.errors import UnknownImageError
from image_repo.flights import Flights, Remembered

if TYPE_CHECKING:
    from image_repo.names import ImageName, Recipe, Revision, Tag
    from image_repo.stores.store import Store, Stored


CHANGE_SECONDS = 300.0
"""How long a change is remembered: longer than any question to a store, or derivation,
that may have begun before it."""


def unknown(image: ImageName) -> UnknownImageError:
    """Return the error that says there is no such image."""
    return UnknownImageError(f"there is no image {image!r}")


class Revisions:
    """Revisions of originals, each believed for a while.

    Args:
        store: Where the originals are.
        recipe: Hash of all outside the URL that changes pixels.
        lifetime: Seconds for which a revision is believed.
        clock: Monotonic seconds.

    Attributes:
        changes: How many changes there have been, to any image.
    """

    def __init__(
        self,
        store: Store,
        recipe: Recipe,
        lifetime: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._recipe = recipe
        self._known: Remembered[ImageName, Revision] = Remembered(lifetime, clock=clock)
        self._asking: Flights[tuple[ImageName, int], Stored | None] = Flights()
        self._changed: Remembered[ImageName, int] = Remembered(
            CHANGE_SECONDS, clock=clock
        )
        self.changes = 0

    async def current(self, image: ImageName) -> Revision | None:
        """Return the revision of an original; None: there is none.

        Raises:
            StoreError: The store failed.
        """
        while (known := self._known.get(image)) is None:
            changes = self.changes
            # Nobody joins a question from before a change, or believes its answer.
            asked = (image, self._changed.get(image) or 0)
            stored = await self._asking.do(asked, lambda: self._store.head(image))
            if self.changed_since(image, changes):
                continue
            if stored is None:
                return None
            found = names.Revision(stored.revision)
            self._known.put(image, found)
            return found
        return known

    def changed_since(self, image: ImageName, changes: int) -> bool:
        """Return whether an image changed after there had been so many changes.

        What was asked of the store before a change must not be believed after it.
        """
        return (self._changed.get(image) or 0) > changes

    async def get(self, image: ImageName) -> Revision:
        """Return the revision of an original.

        Raises:
            UnknownImageError: There is no such original.
            StoreError: The store failed.
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

    def changed(self, image: ImageName, revision: Revision | None) -> None:
        """Take note of a change; None: what the image is now has to be asked."""
        self.changes += 1
        self._changed.put(image, self.changes)
        if revision is None:
            self._known.forget(image)
        else:
            self._known.put(image, revision)

    def forget(self, image: ImageName) -> None:
        """Ask the store the next time."""
        self._known.forget(image)
