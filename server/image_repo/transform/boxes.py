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

# Of HEIF in AVIF and, by ITU-T H.265 F.14.2.8, in HEIC.
_ALPHAS = (
    b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha\0",
    b"urn:mpeg:hevc:2015:auxid:1\0",
)


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
    graphic = any(
        item.kind == b"auxC" and data.startswith(_ALPHAS, item.start + 4)
        for item in properties
    )
    return Found(size(*full), profile=profile, graphic=graphic)


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


class _Place(NamedTuple):
    """Where an item is: in the file (method 0) or in the box of item data (1)."""

    item: int
    method: int
    extents: tuple[tuple[int, int], ...]  # start and length


def _places(data: Data, iloc: Box) -> Iterator[_Place]:
    version, at = data.number(iloc.start, 1), iloc.start + 6
    sizes = data.number(iloc.start + 4, 2)
    offset_size, length_size, base_size, index_size = (
        (sizes >> shift) & 15 for shift in (12, 8, 4, 0)
    )
    wide = 4 if version == 2 else 2  # noqa: PLR2004
    items = data.number(at, wide)
    at += wide
    for _ in range(min(items, _MAX_PARTS)):
        item = data.number(at, wide)
        at += wide
        method = data.number(at, 2) & 15 if version else 0
        at += 2 * bool(version) + 2
        base = _sized(data, at, base_size)
        at += base_size
        count = data.number(at, 2)
        at += 2
        if count > _MAX_EXTENTS:
            raise BadImageError("the boxes of the image are damaged")
        extents = []
        for _ in range(count):
            at += index_size if version else 0
            start = base + _sized(data, at, offset_size)
            extents.append((start, _sized(data, at + offset_size, length_size)))
            at += offset_size + length_size
        yield _Place(item, method, tuple(extents))


def _item_data(data: Data, meta: Box) -> Box | None:
    return next(
        (b for b in _boxes(data, meta.start + 4, meta.end) if b.kind == b"idat"), None
    )


def _check_places(data: Data, meta: Box, iloc: Box) -> None:
    """Raise BadImageError unless the bytes of every item are there."""
    idat = _item_data(data, meta)
    for _, method, extents in _places(data, iloc):
        for start, length in extents:
            if method == 0 and (not length or start + length > len(data)):
                raise incomplete("its pixels")
            if method == 1 and (idat is None or start + length > idat.end - idat.start):
                raise incomplete("its item data")


# -- metadata --------------------------------------------------------------------------

_MIME, _XMP_TYPE = b"mime", b"application/rdf+xml\0"


class Extras(NamedTuple):
    """What an AVIF or HEIC tells besides `read`.

    Attributes:
        exif: From `Exif` or the byte order mark on; empty: none.
        xmp: Empty: none.
        channels: How many channels of colour it has, and the bits of each.
    """

    exif: bytes
    xmp: bytes
    channels: tuple[int, ...]


def extras(data: bytes, most: int) -> Extras:
    """Return what is attached to an image that `read` has read, *most* bytes of each.

    Raises:
        BadImageError: The boxes of what is attached are damaged.
    """
    view = Data(data, "boxes")
    meta = _only(view, Box(b"", 0, len(data)), b"meta")
    found = dict.fromkeys((b"Exif", _MIME), b"")
    named = dict(_attached(view, _only(view, meta, b"iinf", 4)))
    for item, method, extents in _places(view, _only(view, meta, b"iloc", 4)):
        kind = named.get(item)
        if kind is not None and not found[kind]:
            idat = _item_data(view, meta) if method == 1 else None
            base = idat.start if idat is not None else 0
            parts = (data[base + a : base + a + min(n, most)] for a, n in extents)
            found[kind] = b"".join(parts)[:most]
    exif = found[b"Exif"]
    # The offset to the byte order mark comes first, and is most often that of its end.
    start = 4 + int.from_bytes(exif[:4])
    return Extras(exif[start:], found[_MIME], _channels(view, meta))


def _attached(data: Data, iinf: Box) -> Iterator[tuple[int, bytes]]:
    """Yield number and type of the items that are EXIF or XMP."""
    head = 6 if data.number(iinf.start, 1) == 0 else 8
    for box in _boxes(data, iinf.start + head, iinf.end):
        version = data.number(box.start, 1)
        wide = 4 if version == 3 else 2  # noqa: PLR2004
        item = data.number(box.start + 4, wide)
        at = box.start + 4 + wide + 2
        kind, rest = data.part(at, 4), data.bytes[at + 4 : box.end]
        if kind == b"Exif" or (kind == _MIME and _XMP_TYPE in rest):
            yield item, kind


def _channels(data: Data, meta: Box) -> tuple[int, ...]:
    iprp = _only(data, meta, b"iprp", 4)
    properties = list(_boxes(data, *_only(data, iprp, b"ipco")[1:]))
    primary = _primary(data, _only(data, meta, b"pitm", 4))
    for index in _associated(data, _only(data, iprp, b"ipma"), primary):
        item = properties[index - 1]
        if item.kind == b"pixi":
            return data.numbers(item.start + 5, data.number(item.start + 4, 1), 1)
    return ()
