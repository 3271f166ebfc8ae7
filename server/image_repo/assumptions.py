"""What nginx's configuration takes for granted of the server's.

nginx finds the canonical path of plain URLs itself. What those leave open it knows from
the time when its configuration was written; the server is told, and sees whether it has
changed since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from image_repo.modifiers import read
from image_repo.names import job_text

if TYPE_CHECKING:
    from image_repo.modifiers import ImageOptions


@dataclass(frozen=True, slots=True)
class Assumptions:
    """What URLs mean that do not say everything.

    Attributes:
        full: The canonical text for an image without any word.
        thumbnail: The canonical text for a thumbnail without sizes.
        auto: Kinds that are chosen by what a client accepts, the preferred first.
    """

    full: str = "full.jpg"
    thumbnail: str = "w_50-h_50-thumb_els.jpg"
    auto: tuple[str, ...] = ("avif", "webp")

    @classmethod
    def of(cls, images: ImageOptions, auto: Sequence[str]) -> Self:
        """Return what the options say."""
        return cls(
            job_text(*read({}, images)),
            job_text(*read({"thumb": "yes"}, images)),
            tuple(auto),
        )

    def __str__(self) -> str:
        """Return all of it in one line, as a header has it."""
        return " ".join((self.full, self.thumbnail, *self.auto))
