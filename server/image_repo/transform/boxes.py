"""The header of AVIF and HEIC files.

Source: ISO/IEC 14496-12 (boxes) and 23008-12 (image items).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from image_repo.errors import BadImageError
from image_repo.transform.reading import Data, Found, incomplete, size

_LARGE, _TO_END = 1, 0  # special values of a box's 32-bit length
_MAX_PARTS = 10_000  # items or properties; a 50-megapixel HEIC has about 100
_MAX_EXTENTS = 100  # pieces of one item; encoders write one or two


class Box(NamedTuple):
    """A box: its four-letter type, and where its content begins and ends."""

    kind: bytes
    start: int
    end: int


def _boxes(data: Data, start: int, end: int) -> Iterator[Box]:
    """Yield the boxes between *start* and *end*; each must lie within."""
    seen = 0
    while end - start >= 8:  # noqa: PLR2004 - length and type
        length, kind, head = data.number(start), data.part(start + 4, 4), 8
        if length == _LARGE:
            length, head = data.number(start + 8, 8), 16
        elif length == _TO_END:
            length = end - start
        seen += 1
        if length < head or seen > _MAX_PARTS:
            raise BadImageError("the boxes of the image are damaged")
        if start + length > end:
            raise incomplete(f"box {kind.decode('latin-1')!r}")
        yield Box(kind, start + head, start + length)
        start += length


def _only(data: Data, parent: Box, kind: bytes, skip: int = 0) -> Box:
    for box in _boxes(data, parent.start + skip, parent.end):
        if box.kind == kind:
            return box
    raise BadImageError(f"the image has no box {kind.decode('latin-1')!r}")


def read(data: bytes) -> Found:
    """Read the header of an AVIF or HEIC; see `image_repo.transform.headers`.

    Its turns and mirrors are properties that every decoder applies; the size is the
    one after them and the orientation always 1, whatever EXIF says.
    """
    view = Data(data, "boxes")
    meta = _only(view, Box(b"", 0, len(data)), b"meta")
    primary = _primary(view, _only(view, meta, b"pitm", 4))
    _check_places(view, meta, _only(view, meta, b"iloc", 4))
    iprp = _only(view, meta, b"iprp", 4)
    properties = list(_boxes(view, *_only(view, iprp, b"ipco")[1:]))
    full, profile = (0, 0), b""
    for index in _associated(view, _only(view, iprp, b"ipma"), primary):
        if not 1 <= index <= len(properties):
            raise BadImageError("the image names a property that it does not have")
        item = properties[index - 1]
        full = _shape(view, item, full)
        if item.kind == b"colr" and view.part(item.start, 4) in {b"prof", b"rICC"}:
            profile = data[item.start + 4 : item.end]
    return Found(size(*full), profile=profile)


def _shape(data: Data, item: Box, full: tuple[int, int]) -> tuple[int, int]:
    """Return the width and height after property *item*."""
    if item.kind == b"ispe":
        return data.number(item.start + 4), data.number(item.start + 8)
    if item.kind == b"clap":
        wide, wide_by, high, high_by = data.numbers(item.start, 4, 4)
        if 0 < wide <= full[0] * wide_by and 0 < high <= full[1] * high_by:
            return wide // wide_by, high // high_by
    if item.kind == b"irot" and data.number(item.start, 1) & 1:
        return full[1], full[0]
    return full


def _primary(data: Data, pitm: Box) -> int:
    return data.number(pitm.start + 4, 2 if data.number(pitm.start, 1) == 0 else 4)


def _associated(data: Data, ipma: Box, item: int) -> list[int]:
    """Return the numbers of the properties of *item*, in their order."""
    wide_item = 4 if data.number(ipma.start, 1) else 2
    wide_index = 2 if data.number(ipma.start + 3, 1) & 1 else 1
    at, found = ipma.start + 8, []
    for _ in range(min(data.number(ipma.start + 4), _MAX_PARTS)):
        of, count = data.number(at, wide_item), data.number(at + wide_item, 1)
        at += wide_item + 1
        if of == item:
            mask = (1 << (8 * wide_index - 1)) - 1  # the top bit says "essential"
            found += [n & mask for n in data.numbers(at, count, wide_index)]
        at += count * wide_index
    return found


def _sized(data: Data, at: int, width: int) -> int:
    if width not in {0, 4, 8}:
        raise BadImageError("the boxes of the image are damaged")
    return data.number(at, width) if width else 0


def _check_places(data: Data, meta: Box, iloc: Box) -> None:
    """Raise BadImageError unless the bytes of every item are there."""
    version, at = data.number(iloc.start, 1), iloc.start + 6
    sizes = data.number(iloc.start + 4, 2)
    offset_size, length_size, base_size, index_size = (
        (sizes >> shift) & 15 for shift in (12, 8, 4, 0)
    )
    wide = 4 if version == 2 else 2  # noqa: PLR2004
    idat = next(
        (b for b in _boxes(data, meta.start + 4, meta.end) if b.kind == b"idat"), None
    )
    items = data.number(at, wide)
    at += wide
    for _ in range(min(items, _MAX_PARTS)):
        at += wide
        method = data.number(at, 2) & 15 if version else 0
        at += 2 * bool(version) + 2
        base = _sized(data, at, base_size)
        at += base_size
        extents = data.number(at, 2)
        at += 2
        if extents > _MAX_EXTENTS:
            raise BadImageError("the boxes of the image are damaged")
        for _ in range(extents):
            at += index_size if version else 0
            start = base + _sized(data, at, offset_size)
            length = _sized(data, at + offset_size, length_size)
            at += offset_size + length_size
            if method == 0 and (not length or start + length > len(data)):
                raise incomplete("its pixels")
            if method == 1 and (idat is None or start + length > idat.end - idat.start):
                raise incomplete("its item data")
