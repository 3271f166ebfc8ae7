"""Which originals are graphics, so that a JPEG would spoil them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from image_repo import names
from image_repo.errors import BadImageError, TooLargeError
from image_repo.flights import Flights, Remembered

if TYPE_CHECKING:
    from image_repo.derivations import Derivations
    from image_repo.names import ImageName, Revision
    from image_repo.revisions import Revisions
    from image_repo.transform.pool import Pool

SECONDS = 86_400.0
"""Time for which it is remembered of a revision."""

MOST = 100_000
"""Revisions of which it is remembered."""


class Graphics:
    """What `Header.graphic` says of originals, each read once for each revision.

    Args:
        derivations: Opens originals.
        revisions: Which of them are current.
        pool: The workers, who read headers.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        derivations: Derivations,
        revisions: Revisions,
        pool: Pool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._derivations = derivations
        self._revisions = revisions
        self._pool = pool
        self._known: Remembered[tuple[ImageName, Revision], bool] = Remembered(
            SECONDS, MOST, clock=clock
        )
        self._reading: Flights[tuple[ImageName, Revision], bool] = Flights()

    async def has(self, image: ImageName) -> bool:
        """Return whether an original is a graphic; one that can't be read is none.

        Raises:
            UnknownImageError: There is none.
            StoreError: The store failed.
            BusyError: Too many wait for a worker.
        """
        key = (image, await self._revisions.get(image))
        found = self._known.get(key)
        if found is None:
            found = await self._reading.do(key, lambda: self._read(image))
        return found

    async def _read(self, image: ImageName) -> bool:
        original, _ = await self._derivations.open(image)
        with original:
            stored = original.stored
            try:
                graphic = (await self._pool.probe(original.file, stored.size)).graphic
            except (BadImageError, TooLargeError):
                graphic = False
        self._known.put((image, names.Revision(stored.revision)), graphic)
        return graphic
