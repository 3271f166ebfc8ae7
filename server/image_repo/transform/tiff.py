"""The header of a TIFF, and of EXIF data, which are a small TIFF.

Source: TIFF 6.0; tag numbers are decimal as there.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress

from image_repo.errors import BadImageError
from image_repo.transform.reading import (
    MAX_FRAMES,
    Data,
    Found,
    Order,
    incomplete,
    size,
)

_WIDTHS = {1: 1, 3: 2, 4: 4}  # BYTE, SHORT, LONG: the types of all tags read here
_MAX_ENTRIES = 4096

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = (
    273,
    274,
    277,
    278,
    279,
)
PLANAR, TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 284, 322, 323, 324, 325
COLOUR_MAP, EXTRA_SAMPLES = 320, 338

_COMPRESSIONS = frozenset(
    # none, three for fax, LZW, JPEG, both deflates, PackBits, LZMA, Zstandard and
    # WebP; not 6, the JPEG of TIFF 6.0, which was never sound, nor the makers' own.
    {1, 2, 3, 4, 5, 7, 8, 32946, 32773, 34925, 50000, 50001}
)

_MAGICS = frozenset({b"II*\0", b"MM\0*"})

Entry = tuple[int, int, int]  # type, count, where the value or its offset is


def _entries(data: Data, at: int) -> Iterator[tuple[int, Entry]]:
    """Yield tag and entry of all in the directory at *at*."""
    count = data.number(at, 2)
    if count > _MAX_ENTRIES:
        raise BadImageError("a directory of the TIFF has too many entries")
    for place in range(at + 2, at + 2 + 12 * count, 12):
        kind, values = data.number(place + 2, 2), data.number(place + 4)
        yield data.number(place, 2), (kind, values, place + 8)


def _directory(data: Data, at: int) -> tuple[dict[int, Entry], int]:
    """Return the entries of the directory at *at*, and where the next one is."""
    entries = dict(_entries(data, at))
    return entries, data.number(at + 2 + 12 * data.number(at, 2))


def _values(data: Data, entry: Entry, most: int) -> tuple[int, ...]:
    """Return up to *most* numbers of *entry*; empty for types not of numbers."""
    kind, count, place = entry
    width = _WIDTHS.get(kind)
    if width is None:
        return ()
    at = place if width * count <= 4 else data.number(place)  # noqa: PLR2004
    return data.numbers(at, min(count, most), width)


def _first(data: Data, entries: Mapping[int, Entry], tag: int, default: int) -> int:
    values = _values(data, entries[tag], 1) if tag in entries else ()
    return values[0] if values else default


def _open(data: bytes, what: str) -> tuple[Data, int]:
    """Return the data with their byte order and where the first directory is."""
    view = Data(data, what, "<" if data[:2] == b"II" else ">")
    return view, view.number(4)


def orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF data give; 1 if they are damaged.

    Args:
        exif: From the byte order mark on; `Exif` and two zero bytes may precede it.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in _MAGICS:
        return 1
    try:
        view, at = _open(exif, "EXIF data")
        entries, _ = _directory(view, at)
        return _upright(_first(view, entries, ORIENTATION, 1))
    except BadImageError:
        return 1


def _upright(value: int) -> int:
    return value if value in range(1, 9) else 1


def read(data: bytes) -> Found:
    """Read the header of a TIFF; see `image_repo.transform.headers`."""
    view, at = _open(data, "TIFF directory")
    entries, following = _directory(view, at)
    _values(
        view, entries.get(BITS, (1, 1, 0)), MAX_FRAMES
    )  # each sample's must be there
    full = size(_first(view, entries, WIDTH, 0), _first(view, entries, HEIGHT, 0))
    if _first(view, entries, COMPRESSION, 1) not in _COMPRESSIONS:
        raise BadImageError("the TIFF has a compression that is not read")
    _check_pieces(view, entries, *full)
    return Found(
        full,
        _count(view, {at}, following),
        _upright(_first(view, entries, ORIENTATION, 1)),
        graphic=COLOUR_MAP in entries or EXTRA_SAMPLES in entries,
    )


def _count(view: Data, seen: set[int], at: int) -> int:
    while at and len(seen) < MAX_FRAMES:
        if at in seen:
            raise BadImageError("the directories of the TIFF form a loop")
        seen.add(at)
        _, at = _directory(view, at)
    return len(seen)


def _check_pieces(
    view: Data, entries: Mapping[int, Entry], width: int, height: int
) -> None:
    """Raise BadImageError unless every strip or tile is there in full."""
    samples = _first(view, entries, SAMPLES, 1)
    planes = samples if _first(view, entries, PLANAR, 1) == 2 else 1  # noqa: PLR2004
    if TILE_OFFSETS in entries:
        across = max(1, _first(view, entries, TILE_WIDTH, width))
        down = max(1, _first(view, entries, TILE_HEIGHT, height))
        offsets_tag, bytes_tag = TILE_OFFSETS, TILE_BYTES
    else:
        across = width
        down = min(height, max(1, _first(view, entries, ROWS_PER_STRIP, height)))
        offsets_tag, bytes_tag = STRIP_OFFSETS, STRIP_BYTES
    if offsets_tag not in entries or bytes_tag not in entries:
        raise BadImageError("the TIFF does not say where its pixels are")
    count = -(-width // across) * -(-height // down) * planes
    offsets = _values(view, entries[offsets_tag], count)
    lengths = _values(view, entries[bytes_tag], count)
    if len(offsets) < count or len(lengths) < count:
        raise incomplete("the list of its strips")
    ends = (offset + length for offset, length in zip(offsets, lengths, strict=True))
    if min(lengths) == 0 or max(ends) > len(view):
        raise incomplete("its strips")
    if _first(view, entries, COMPRESSION, 1) == 1:
        bits = _first(view, entries, BITS, 1) * (samples if planes == 1 else 1)
        rows = height * -(-width // across) if TILE_OFFSETS in entries else height
        if sum(lengths) < planes * rows * ((min(across, width) * bits + 7) // 8):
            raise incomplete("its strips")


# -- metadata: what has no say about pixels may be damaged, and is left out then -------

_ASCII = 2
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8, 11: 4, 12: 8}
"""Bytes of one value of each type; the others are of no tag that is told."""

_LEADING = frozenset({34665, 34853})  # to EXIF's directory, and to that of the place
_MOST_BYTES = 8192  # of one value; a text is cut there
_MOST_DIRECTORIES = 1 + len(_LEADING)


def colours(data: bytes) -> tuple[int, int]:
    """Return the photometric interpretation of a TIFF, and the bits of a sample."""
    view, at = _open(data, "TIFF directory")
    entries, _ = _directory(view, at)
    return _first(view, entries, PHOTOMETRIC, -1), _first(view, entries, BITS, 1)


def blob(data: bytes, tag: int, most: int) -> bytes:
    """Return the first *most* bytes of the value of a tag of a TIFF; empty: none."""
    view, at = _open(data, "TIFF directory")
    found = next((entry for name, entry in _entries(view, at) if name == tag), None)
    return b"" if found is None else _raw(view, found, most)


def _raw(data: Data, entry: Entry, most: int) -> bytes:
    """Return the bytes of a value; cut at *most*, and where the data end."""
    kind, count, place = entry
    length = count * _BYTES.get(kind, 0)
    at = place if length <= 4 else data.number(place)  # noqa: PLR2004
    return data.bytes[at : at + min(length, most)]


def excerpt(exif: bytes, wanted: Container[int]) -> bytes:
    """Return a small TIFF of one directory: the *wanted* values of EXIF data.

    Whatever the data are, its offsets are right, and it is no longer than they are.

    Args:
        exif: As `orientation` has it, or a whole TIFF.
        wanted: Tags of its first directory, and of those for EXIF and the place.

    Returns:
        Empty if there is none of them.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    if exif[:4] not in _MAGICS:
        return b""
    view = Data(exif, "EXIF data", "<" if exif[:2] == b"II" else ">")
    found: dict[int, tuple[int, bytes]] = {}
    places = [4]  # where the offsets of directories are
    for place in places:
        with suppress(BadImageError):
            for tag, (kind, count, at) in _entries(view, view.number(place)):
                if tag in _LEADING and len(places) < _MOST_DIRECTORIES:
                    places.append(at)
                elif tag in wanted and tag not in found and kind in _BYTES:
                    value = _whole(view, (kind, count, at))
                    if value:
                        found[tag] = kind, value
    return write(found, view.order) if found else b""


def _whole(data: Data, entry: Entry) -> bytes:
    """Return the bytes of a value; empty if it is damaged or too long.

    A text may be cut, and other values not.
    """
    kind, count, _ = entry
    with suppress(BadImageError):
        value = _raw(data, entry, _MOST_BYTES)
        if kind == _ASCII or len(value) == count * _BYTES[kind]:
            return value
    return b""


def write(values: Mapping[int, tuple[int, bytes]], order: Order = "<") -> bytes:
    """Return a TIFF of one directory with type and bytes of the value of each tag."""
    start = 8
    at = start + 2 + 12 * len(values) + 4
    table, rest = struct.pack(order + "H", len(values)), b""
    for tag, (kind, value) in sorted(values.items()):
        table += struct.pack(order + "HHI", tag, kind, len(value) // _BYTES[kind])
        if len(value) <= 4:  # noqa: PLR2004 - it stands where its offset would
            table += value.ljust(4, b"\0")
        else:
            table += struct.pack(order + "I", at + len(rest))
            rest += value + bytes(len(value) & 1)
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(order + "I", start) + table + bytes(4) + rest
