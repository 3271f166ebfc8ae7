"""Sizes in whole pixels, boxes to fit them in, and the arithmetic between them."""

from __future__ import annotations

from typing import NamedTuple

SCALES = (8, 4, 2, 1)
"""Denominators of what an original is reduced to, smallest result first.

libjpeg-turbo offers n/8 for any n; only these have SIMD code, so that 3/8 is slower
than 1/2 (measured with libjpeg-turbo 2.1.5). For other formats few scales mean that
several targets share one.
"""

SMALL_TARGET = 200
"""Longest side in pixels up to which a JPEG is decoded at twice the target.

Small pictures show the aliasing of libjpeg's box filter most, and cost least.
"""


class Box(NamedTuple):
    """An upper bound on a size; a side that is None is free."""

    width: int | None
    height: int | None

    def turned(self) -> Box:
        """Return this box after a turn by 90 degrees."""
        return Box(self.height, self.width)


class Size(NamedTuple):
    """Width and height in pixels, both at least 1."""

    width: int
    height: int

    @property
    def pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    def fit(self, box: Box) -> Size:
        """Return the largest size of the same shape inside *box*, never larger.

        Sides are rounded half up, and at least 1.
        """
        width, height = self
        over_width = box.width is not None and box.width < width
        over_height = box.height is not None and box.height < height
        if not (over_width or over_height):
            return self
        across = box.width if box.width is not None else width
        down = box.height if box.height is not None else height
        if across * height <= down * width:
            return Size(across, _ratio(height, across, width))
        return Size(_ratio(width, down, height), down)

    def turned(self) -> Size:
        """Return this size after a turn by 90 degrees."""
        return Size(self.height, self.width)

    def at_most(self, ratio: int) -> Size:
        """Return this size with its long side cut to *ratio* times the short one."""
        return Size(
            min(self.width, self.height * ratio), min(self.height, self.width * ratio)
        )


def _ratio(value: int, numerator: int, denominator: int) -> int:
    """Return value * numerator / denominator, rounded half up, at least 1."""
    return max(1, (2 * value * numerator + denominator) // (2 * denominator))


def jpeg_scale(full: Size, target: Size) -> int:
    """Return the denominator at which to decode a JPEG of *full* for *target*.

    The decoded picture has at least the target's pixels; at least twice as many each
    way for small targets, where the filter that follows needs something to work on.
    """
    return _scale(full, target, 2 if max(target) <= SMALL_TARGET else 1)


def plain_scale(full: Size, target: Size) -> int:
    """Return the denominator at which to average a picture of *full* for *target*.

    At least twice the target's pixels each way are left to the filter that follows,
    since plain averaging is not as good.
    """
    return _scale(full, target, 2)


def _scale(full: Size, target: Size, wanted: int) -> int:
    for scale in SCALES:
        if (
            full.width // scale >= wanted * target.width
            and full.height // scale >= wanted * target.height
        ):
            return scale
    return 1
