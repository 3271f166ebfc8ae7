"""Reduced pictures: originals decoded at a part of their size, to be kept without loss.

Pure: the server decides by this what to keep and what to look for; only workers have
to do with the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from image_repo import modifiers as modifiers_
from image_repo.formats import by_extension
from image_repo.geometry import JPEG_SCALES, Size, jpeg_scale
from image_repo.modifiers import Modifier, RenderOptions
from image_repo.transform.headers import Header

VERSION: Final = "1"
"""Raised when pictures are kept otherwise than before."""

WORTH: Final = (8, 4)
"""The scales at which a picture is worth keeping; see the figures below.

Of a 24-megapixel JPEG 1/8 takes 1 MB and 1/4 takes 4 MB, and what is derived from
these costs 0.1 to 0.5 of what it costs from the original. 1/2 would take 18 MB and
save a third at most, since the filter that follows costs more than the decoder.
"""

MOST_BYTES: Final = 64 * 2**20
"""Most bytes of a picture that is kept, and that a worker can write at all."""

CHANNELS: Final = {"RGB": 3, "I": 1}
"""The orders of samples in a pixel, as ImageMagick writes them, and how many it has."""

_ORIENTATIONS = range(1, 9)


@dataclass(frozen=True, slots=True)
class Reduced:
    """All that a worker needs, besides the file, to derive as from the original.

    The file holds the pixels, row by row and one byte for each sample, a colour
    profile, and as JSON what else the encoders heed.

    Attributes:
        header: Of the original, without its profile.
        scale: The picture has 1/scale of the width and height of the original.
        size: In pixels, as stored.
        channels: One of `CHANNELS`.
        profile: Bytes of the profile; 0: none that is heeded.
        notes: Bytes of the JSON.
    """

    header: Header
    scale: int
    size: Size
    channels: str
    profile: int
    notes: int

    @property
    def pixels(self) -> int:
        """Bytes of the pixels."""
        return self.size.pixels * CHANNELS[self.channels]

    @property
    def bytes(self) -> int:
        """Bytes of the whole file."""
        return self.pixels + self.profile + self.notes

    def as_text(self) -> dict[str, str]:
        """Return words of a-z and `-`, and their texts; `read` is its inverse."""
        header = self.header
        return {
            "version": VERSION,
            "kind": header.format.kind,
            "full-width": str(header.size.width),
            "full-height": str(header.size.height),
            "frames": str(header.frames),
            "orientation": str(header.orientation),
            "scans": str(header.scans),
            "scale": str(self.scale),
            "width": str(self.size.width),
            "height": str(self.size.height),
            "channels": self.channels,
            "profile": str(self.profile),
            "notes": str(self.notes),
        }

    @classmethod
    def read(cls, texts: Mapping[str, object]) -> Self | None:
        """Return what *texts* say; None: nothing that is understood here."""
        row = by_extension(str(texts.get("kind", "")))
        if texts.get("version") != VERSION or row is None:
            return None
        try:
            number = {name: int(str(texts[name])) for name in _NUMBERS}
        except (KeyError, ValueError):
            return None
        full = Size(number["full-width"], number["full-height"])
        header = Header(
            row, full, number["frames"], number["orientation"], number["scans"]
        )
        found = cls(
            header,
            number["scale"],
            Size(number["width"], number["height"]),
            str(texts.get("channels")),
            number["profile"],
            number["notes"],
        )
        return found if found._consistent() else None

    def _consistent(self) -> bool:
        return (
            min(self.header.size) >= 1
            and self.scale in JPEG_SCALES
            and self.size == reduced_size(self.header.size, self.scale)
            and self.channels in CHANNELS
            and self.header.orientation in _ORIENTATIONS
            and min(self.header.frames, self.header.scans, self.profile + 1) >= 1
            and self.notes >= 0
        )


_NUMBERS = (
    *("full-width", "full-height", "frames", "orientation", "scans"),
    *("scale", "width", "height", "profile", "notes"),
)


def reduced_size(full: Size, scale: int) -> Size:
    """Return the size of a picture of 1/*scale*: libjpeg rounds its sides up."""
    return Size(-(-full.width // scale), -(-full.height // scale))


def stored(header: Header, target: Size) -> Size:
    """Return *target* as it lies before the turn by the orientation."""
    return target.turned() if header.upright != header.size else target


def scale_for(
    original: Header | Reduced, modifiers: Sequence[Modifier], render: RenderOptions
) -> int:
    """Return the scale that an original is decoded at for these modifiers.

    Args:
        original: Its header, or any reduced picture of it.
        modifiers: Of the derived image.
        render: What steers pixels besides.
    """
    header = original.header if isinstance(original, Reduced) else original
    if header.format.kind != "jpg":
        return 1
    target = modifiers_.result(modifiers, header.upright, render)
    return jpeg_scale(header.size, stored(header, target))
