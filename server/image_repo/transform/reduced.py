"""Reduced pictures: originals at a part of their size, to be kept without loss.

Pure: the server decides by this what to keep and what to look for; only workers have
to do with the pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from image_repo import modifiers as modifiers_
from image_repo.formats import by_extension
from image_repo.geometry import SCALES, Size, jpeg_scale, plain_scale
from image_repo.modifiers import Modifier, RenderOptions
from image_repo.transform.headers import Header

VERSION: Final = "1"
"""Raised when pictures are kept otherwise than before."""

WORTH: Final = (8, 4, 2)
"""The scales at which pictures are kept; see `is_worth`."""

MOST_BYTES: Final = 64 * 2**20
"""Most bytes of a picture that is kept, and that a worker can write at all."""

CHANNELS: Final = {"RGB": 3, "RGBA": 4, "I": 1, "IA": 2}
"""The orders of samples in a pixel, as ImageMagick writes them, and how many it has."""

_ORIENTATIONS = range(1, 9)
_ROUNDING = 1  # pixels by which libheif may crop otherwise than written


@dataclass(frozen=True, slots=True)
class Reduced:
    """All that a worker needs, besides the file, to derive as from the original.

    The file holds the pixels, row by row and one byte for each sample, a colour
    profile, and as JSON what else the encoders heed.

    Attributes:
        header: Of the original, as far as it matters to what is derived.
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
        if min(*self.header.size, *self.size) < 1 or self.scale not in SCALES:
            return False
        wanted = reduced_size(self.header.size, self.scale)
        return (
            abs(self.size.width - wanted.width) <= _ROUNDING
            and abs(self.size.height - wanted.height) <= _ROUNDING
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
    """Return the size at 1/*scale*: sides are rounded up, as libjpeg does it."""
    return Size(-(-full.width // scale), -(-full.height // scale))


def _stored(header: Header, target: Size) -> Size:
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
    target = modifiers_.result(modifiers, header.upright, render)
    scale = jpeg_scale if header.format.kind == "jpg" else plain_scale
    return scale(header.size, _stored(header, target))


def is_worth(header: Header, scale: int) -> bool:
    """Return whether a picture at 1/*scale* of that original is worth keeping.

    Measured with photographs of 12 and 24 megapixels: 1/8 and 1/4 of a JPEG take 1 and
    4 MB, and what is made from them costs 0.15 to 0.5 of what it costs otherwise. 1/2
    would save a third at most, since a JPEG is decoded at that size for little. Other
    formats are decoded whole, which takes most of the time, and so 1/2 costs 0.3 and
    1/4 less than 0.1.
    """
    kind = header.format.kind
    # A frame of an animation has more to it than pixels, even if it is the only one.
    lone = header.frames == 1 and kind != "gif"
    return lone and scale in (WORTH[:-1] if kind == "jpg" else WORTH)
