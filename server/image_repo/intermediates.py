"""Intermediates: what decoders made of originals at a part of their size.

The decoded picture that a target needs, at 1/8, 1/4 or 1/2 of an original, is kept
without loss, so that many sizes of one original decode it once or twice. What is
derived from it has the same bytes as without it. Any may be lost at any time.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from image_repo.flights import Remembered
from image_repo.lenient import LenientShelf
from image_repo.modifiers import RenderOptions
from image_repo.names import MARK
from image_repo.stores.store import in_thread
from image_repo.transform.reduced import WORTH, Reduced, scale_for

if TYPE_CHECKING:
    from image_repo.names import DerivedName, ImageName, Tag
    from image_repo.shelf import Shelf
    from image_repo.stores.store import Object

KEEPING: Final = 8
"""Pictures that wait to be kept at most; each holds an open file."""

FINISH_SECONDS: Final = 5.0
"""Longest wait at the end for what is being kept."""


@dataclass(frozen=True, slots=True)
class Intermediate:
    """A reduced picture, open for reading, and what is known of it."""

    picture: Object
    reduced: Reduced


class Intermediates:
    """Reduced pictures under tags; an async context manager.

    Args:
        shelf: Where they are kept; None: nowhere.
        render: What steers pixels besides the names.
        scratch: Directory for files without a name; None: the system's place for such.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        shelf: Shelf | None = None,
        render: RenderOptions | None = None,
        scratch: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shelf = (
            None
            if shelf is None
            else LenientShelf(shelf, "no intermediates are kept", clock)
        )
        self._render = render or RenderOptions()
        self._scratch = scratch
        # What any picture of an original tells of all of them.
        self._known: Remembered[tuple[ImageName, Tag], Reduced] = Remembered(
            float("inf"), clock=clock
        )
        self._keeping: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is being kept."""
        if self._keeping:
            await asyncio.wait(self._keeping, timeout=FINISH_SECONDS)
        for task in self._keeping:
            task.cancel()
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def find(self, name: DerivedName, tag: Tag) -> Intermediate | None:
        """Open the picture that a derived image would be made from.

        None: there is none, or it would not be made from any.
        """
        if self._shelf is None:
            return None
        scale = await self._scale(self._shelf, name, tag)
        if scale not in WORTH:
            return None
        found = await self._shelf.get(name.image, _key(name.image, tag, scale))
        if found is None:
            return None
        reduced = Reduced.read(found.stored.metadata)
        if reduced is None:  # as another version of the server understands it
            found.close()
            return None
        return Intermediate(found, reduced)

    async def where(self, name: DerivedName, tag: Tag) -> int | None:
        """Return the scale of the picture that `find` would open; None: it has none."""
        found = await self.find(name, tag)
        if found is None:
            return None
        found.picture.close()
        return found.reduced.scale

    async def scratch(self) -> BinaryIO | None:
        """Return a file that a worker may write a picture into; None: none is wanted.

        It is for `keep`, which closes it.
        """
        full = len(self._keeping) >= KEEPING
        if self._shelf is None or full or self._shelf.rests:
            return None
        try:
            return await in_thread(_scratch, self._scratch)
        except OSError as error:
            self._shelf.rest(error)
            return None

    def keep(
        self, image: ImageName, tag: Tag, reduced: Reduced | None, file: BinaryIO
    ) -> None:
        """Keep in the background what a worker has written, and close the file.

        Args:
            image: Whose.
            tag: Of the original.
            reduced: What the picture is; None: nothing was written.
            file: What `scratch` has returned.
        """
        if reduced is None or self._shelf is None:
            file.close()
            return
        self._known.put((image, tag), reduced)
        task = asyncio.create_task(self._keep(self._shelf, image, tag, reduced, file))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def forget(self, image: ImageName) -> None:
        """Forget what is kept of an image; a disk that fails is no error."""
        if self._shelf is not None:
            await self._shelf.forget(image)

    async def _scale(self, shelf: LenientShelf, name: DerivedName, tag: Tag) -> int:
        """Return the scale at which an original would be decoded; 0: not known."""
        known = self._known.get((name.image, tag))
        if known is None:  # as after a restart
            known = await _any(shelf, name.image, tag)
        if known is None:
            return 0
        self._known.put((name.image, tag), known)
        return scale_for(known, name.modifiers, self._render)

    async def _keep(
        self,
        shelf: LenientShelf,
        image: ImageName,
        tag: Tag,
        reduced: Reduced,
        file: BinaryIO,
    ) -> None:
        try:
            await shelf.put(
                image,
                _key(image, tag, reduced.scale),
                file,
                forgets=shelf.forgets,
                metadata=reduced.as_text(),
            )
        finally:
            file.close()


async def _any(shelf: LenientShelf, image: ImageName, tag: Tag) -> Reduced | None:
    for scale in WORTH:
        stored = await shelf.about(image, _key(image, tag, scale))
        found = None if stored is None else Reduced.read(stored.metadata)
        if found is not None:
            return found
    return None


def _key(image: ImageName, tag: Tag, scale: int) -> str:
    return f"{image}/{MARK}/{tag}/{scale}"


def _scratch(directory: Path | None) -> BinaryIO:
    # Unbuffered, since only its descriptor goes to a worker.
    return tempfile.TemporaryFile(buffering=0, dir=directory)
