"""Bounded reading of bytes that may be hostile or incomplete."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

from image_repo.errors import BadImageError
from image_repo.geometry import Size

Order = Literal["<", ">"]

_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Found(NamedTuple):
    """What a format's parser found out.

    Attributes:
        size: As stored, before any turn by the orientation.
        frames: Of the animation, pages of a TIFF; counting stops at `MAX_FRAMES`.
        orientation: 1 to 8 as in EXIF.
        scans: Of a JPEG; 1 for every other format.
        profile: ICC profile, of formats where ImageMagick does not find it.
        graphic: Whether it may be transparent, or has a table of colours.
    """

    size: Size
    frames: int = 1
    orientation: int = 1
    scans: int = 1
    profile: bytes = b""
    graphic: bool = False


MAX_FRAMES = 10_000
"""Where counting frames stops; no limit can usefully be above it."""


def incomplete(where: str) -> BadImageError:
    """Return the error that says the data end inside *where*."""
    return BadImageError(f"the image is incomplete: it ends inside {where}")


def size(width: int, height: int) -> Size:
    """Return the size if both sides are at least 1, or raise BadImageError."""
    if width < 1 or height < 1:
        raise BadImageError("the image has no width or no height")
    return Size(width, height)


class Data:
    """Bytes with a byte order; reading past the end raises BadImageError."""

    __slots__ = ("bytes", "order", "what")

    def __init__(self, data: bytes, what: str, order: Order = ">") -> None:
        self.bytes = data
        self.what = what
        self.order: Order = order

    def __len__(self) -> int:
        return len(self.bytes)

    def need(self, end: int, where: str = "") -> None:
        """Raise BadImageError unless there are *end* bytes."""
        if end > len(self.bytes):
            raise incomplete(where or f"its {self.what}")

    def number(self, at: int, width: int = 4) -> int:
        """Return the unsigned number of *width* bytes (1, 2, 4 or 8) at *at*."""
        self.need(at + width)
        value: int = struct.unpack_from(self.order + _CODES[width], self.bytes, at)[0]
        return value

    def numbers(self, at: int, count: int, width: int) -> tuple[int, ...]:
        """Return *count* unsigned numbers of *width* bytes each."""
        self.need(at + count * width)
        return struct.unpack_from(f"{self.order}{count}{_CODES[width]}", self.bytes, at)

    def part(self, at: int, length: int, where: str = "") -> bytes:
        """Return *length* bytes from *at*."""
        self.need(at + length, where)
        return self.bytes[at : at + length]
