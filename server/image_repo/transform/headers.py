"""What the first bytes of an image say, read without ImageMagick.

ImageMagick finds out too late: its sizes come after memory was reserved, its JPEG
hint passes by its size limits, and it shows an incomplete file as if it were whole,
the rest filled with whatever memory held. So format, size and completeness are
settled here, by readers that never look at a pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from image_repo.errors import BadImageError, TooLargeError
from image_repo.formats import FORMATS, SNIFF_BYTES, Format, sniff
from image_repo.geometry import Size
from image_repo.options import option
from image_repo.transform import boxes, tiff
from image_repo.transform.reading import MAX_FRAMES, Data, Found, incomplete, size

MAX_SCANS = 100
"""Most scans of a JPEG: each costs a pass over all pixels; encoders write about ten."""

_MEBI = 2**20


@dataclass(frozen=True, slots=True)
class Limits:
    """How large an image may be."""

    pixels: int = option(
        80_000_000, "most pixels, width times height, of an image", low=1
    )
    heif_pixels: int = option(
        50_000_000, "most pixels of an AVIF or HEIC, the dearest to decode", low=1
    )
    side: int = option(20_000, "longest side of an image in pixels", low=1, high=65_500)
    frames: int = option(
        1000,
        "most frames of an animation, or pages of a TIFF",
        low=1,
        high=MAX_FRAMES - 1,
    )
    upload_bytes: int = option(100 * _MEBI, "most bytes of an upload", low=1, size=True)


@dataclass(frozen=True, slots=True)
class Header:
    """The facts about an image that come before its pixels.

    Attributes:
        format: Found by the first bytes, never by a name.
        size: As stored, before any turn by the orientation.
        frames: Of the animation, or pages.
        orientation: 1 to 8 as in EXIF; from 5 on width and height change places.
        scans: Passes of a progressive JPEG.
        profile: ICC profile of an AVIF or HEIC, where ImageMagick does not find it.
        graphic: Whether it may be transparent, or has a table of colours: then it is
            no photograph, and a JPEG would spoil it.
    """

    format: Format
    size: Size
    frames: int
    orientation: int
    scans: int
    profile: bytes = field(default=b"", repr=False)
    graphic: bool = False

    @property
    def upright(self) -> Size:
        """The size after the turn by the orientation."""
        return self.size.turned() if self.orientation >= 5 else self.size  # noqa: PLR2004


def read_header(data: bytes) -> Header:
    """Return the header of the image that *data* are.

    Raises:
        BadImageError: No format that is read, damaged, or incomplete.
    """
    row = sniff(data[:SNIFF_BYTES])
    if row is None:
        words = ", ".join(r.kind for r in FORMATS if r.magic is not None)
        raise BadImageError(
            f"the bytes are not an image of a format read here: {words}"
        )
    return Header(row, *_PARSERS[row.kind](data))


def check(header: Header, limits: Limits) -> None:
    """Raise TooLargeError if the image is beyond *limits*."""
    heif = header.format.kind in {"avif", "heic"}
    full = header.size
    pixels = min(limits.pixels, limits.heif_pixels) if heif else limits.pixels
    for what, value, most in (
        ("pixels on its longest side", max(full), limits.side),
        ("pixels", full.pixels, pixels),
        ("frames", header.frames, limits.frames),
        ("scans", header.scans, MAX_SCANS),
    ):
        if value > most:
            said = f"{value}" if value < MAX_FRAMES or what != "frames" else "too many"
            raise TooLargeError(
                f"the image has {said} {what}: at most {most} are allowed"
            )


SOF = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})  # not DHT, JPG, DAC
_SOI, _EOI, SOS, _APP1 = 0xD8, 0xD9, 0xDA, 0xE1
_STANDALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # TEM, RSTn
_NEXT_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]", re.DOTALL)


def segments(data: Data) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of content for each segment, EOI included."""
    at = 2
    while True:
        if data.part(at, 1) != b"\xff":
            raise BadImageError("the segments of the JPEG are damaged")
        marker = data.number(at + 1, 1)
        if marker == 0xFF:  # noqa: PLR2004 - fill bytes are allowed before a marker
            at += 1
            continue
        at += 2
        if marker in _STANDALONE:
            continue
        if marker == _EOI:
            yield marker, at, at
            return
        end = at + max(2, data.number(at, 2))
        data.need(end)
        yield marker, at + 2, end
        at = end
        if marker == SOS:
            found = _NEXT_MARKER.search(data.bytes, at)
            if found is None:
                raise incomplete("its pixels")
            at = found.start()


def _jpg(data: bytes) -> Found:
    view = Data(data, "JPEG segments")
    full, scans, turn = None, 0, 1
    for marker, start, end in segments(view):
        if marker in SOF and full is None:
            high, wide = view.numbers(start + 1, 2, 2)
            full = size(wide, high)
        elif marker == SOS:
            scans += 1
            if scans > MAX_SCANS:  # each costs a search; `check` refuses it
                break
        elif marker == _APP1 and turn == 1 and data.startswith(b"Exif\0\0", start):
            turn = tiff.orientation(data[start:end])
    if full is None or not scans:
        raise BadImageError("the JPEG has no pixels")
    return Found(full, orientation=turn, scans=scans)


def chunks(view: Data) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of content of every PNG chunk, up to IEND."""
    at, kind = 8, b""
    while kind != b"IEND":
        length, kind = view.number(at), view.part(at + 4, 4)
        view.need(at + 12 + length)
        yield kind, at + 8, at + 8 + length
        at += 12 + length


def _png(data: bytes) -> Found:
    view = Data(data, "PNG chunks")
    if data[12:16] != b"IHDR":
        raise BadImageError("the PNG does not begin with its header")
    full, turn, frames, pixels = size(*view.numbers(16, 2, 4)), 1, 1, False
    graphic = view.number(25, 1) in _PNG_GRAPHIC
    for kind, start, end in chunks(view):
        if kind == b"eXIf":
            turn = tiff.orientation(data[start:end])
        elif kind == b"acTL" and not pixels:
            frames = max(1, view.number(start))
        pixels = pixels or kind == b"IDAT"
        graphic = graphic or kind == b"tRNS"
    if not pixels:
        raise BadImageError("the PNG has no pixels")
    return Found(full, frames, turn, graphic=graphic)


_PNG_GRAPHIC = frozenset({3, 4, 6})  # colour types: a table; grey or colours with alpha
_PNG_KEPT = frozenset(
    {b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP"}
)


def pixels_only(data: bytes, header: Header) -> bytes:
    """Return *data* without the parts that hold no pixels and can be bombs.

    A PNG of 10 MB can hold texts that unfold to 10 GB; nothing here needs a text.
    """
    if header.format.kind != "png":
        return data
    view = Data(data, "PNG chunks")
    every = list(chunks(view))
    if all(kind in _PNG_KEPT for kind, _, _ in every):
        return data
    kept = (data[a - 8 : b + 4] for kind, a, b in every if kind in _PNG_KEPT)
    return data[:8] + b"".join(kept)


def _gif(data: bytes) -> Found:
    view = Data(data, "GIF blocks", "<")
    wide, high = view.numbers(6, 2, 2)
    frames, at = 0, 13 + _colours(view.number(10, 1))
    while (kind := view.number(at, 1)) != 0x3B:  # noqa: PLR2004 - the trailer
        if kind == 0x21:  # noqa: PLR2004 - an extension
            at = _after_blocks(view, at + 2)
        elif kind == 0x2C:  # noqa: PLR2004 - a frame
            left, top, across, down = view.numbers(at + 1, 4, 2)
            if not frames and not (wide and high):  # some encoders leave it out
                wide, high = left + across, top + down
            at = _after_blocks(view, at + 11 + _colours(view.number(at + 9, 1)))
            frames += 1
            if frames >= MAX_FRAMES:
                break
        else:
            raise BadImageError("the blocks of the GIF are damaged")
    if not frames:
        raise BadImageError("the GIF has no pixels")
    return Found(size(wide, high), frames, graphic=True)


def _colours(flags: int) -> int:
    """Return how many bytes the table of colours has that GIF *flags* announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _after_blocks(view: Data, at: int) -> int:
    data, end = view.bytes, len(view)
    while at < end:
        length = data[at]
        at += 1 + length
        if not length:
            return at
    raise incomplete("a GIF block")


def riff(view: Data, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of content of every chunk of a WebP."""
    at = 12
    while at + 8 <= end:
        length = view.number(at + 4)
        if at + 8 + length > end:
            raise incomplete("a WebP chunk")
        yield view.bytes[at : at + 4], at + 8, at + 8 + length
        at += 8 + length + (length & 1)


def _webp(data: bytes) -> Found:
    view = Data(data, "WebP chunks", "<")
    end = 8 + view.number(4)
    view.need(end)
    canvas, first, turn, frames, pixels = None, None, 1, 0, False
    graphic = False
    for kind, start, stop in riff(view, end):
        graphic = graphic or kind == b"VP8L" or _has_alpha(view, kind, start)
        if kind == b"VP8X":
            canvas = size(_three(view, start + 4) + 1, _three(view, start + 7) + 1)
        elif kind in {b"VP8 ", b"VP8L"}:
            pixels, first = True, first or _webp_size(view, kind, start, stop)
        elif kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            turn = tiff.orientation(data[start:stop])
    full = canvas or first
    if full is None or not (pixels or frames):
        raise BadImageError("the WebP has no pixels")
    return Found(full, min(max(1, frames), MAX_FRAMES), turn, graphic=graphic)


def _has_alpha(view: Data, kind: bytes, start: int) -> bool:
    return kind == b"VP8X" and bool(view.number(start, 1) & 0x10)


def _three(view: Data, at: int) -> int:
    return view.number(at, 2) | view.number(at + 2, 1) << 16


def _webp_size(view: Data, kind: bytes, start: int, stop: int) -> Size:
    if kind == b"VP8L":
        bits = view.number(start + 1)
        return size((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    first_part = (view.number(start, 2) | view.number(start + 2, 1) << 16) >> 5
    if start + 10 + first_part > stop:
        raise incomplete("a WebP chunk")
    wide, high = view.numbers(start + 6, 2, 2)
    return size(wide & 0x3FFF, high & 0x3FFF)


def _bmp(data: bytes) -> Found:
    view = Data(data, "BMP header", "<")
    start, head = view.number(10), view.number(14)
    if head == 12:  # noqa: PLR2004 - OS/2's header, 16-bit sides
        wide, high, planes, bits = view.numbers(18, 4, 2)
        compression, length = 0, 0
    else:
        wide, high = view.numbers(18, 2, 4)
        planes, bits = view.numbers(26, 2, 2)
        compression, length = view.numbers(30, 2, 4)
    if high >= 2**31:  # negative: rows from the top
        high = 2**32 - high
    if (
        planes != 1
        or bits not in {1, 4, 8, 16, 24, 32}
        or compression not in _BMP_KINDS
    ):
        raise BadImageError("the BMP is of a kind that is not read")
    full = size(wide, high)
    if compression not in _BMP_RLE:
        length = (wide * bits + 31) // 32 * 4 * high
    view.need(start + max(1, length), "its pixels")
    pixels = (
        data[start : start + length].rstrip(b"\0") if compression in _BMP_RLE else b""
    )
    if compression in _BMP_RLE and not pixels.endswith(b"\0\1"):
        raise incomplete("its pixels")  # 00 01 ends run lengths
    return Found(full, graphic=bits <= 8)  # noqa: PLR2004 - a table of colours


_BMP_RLE = frozenset({1, 2})
_BMP_KINDS = _BMP_RLE | {0, 3, 6}  # plain and with bit masks; not JPEG or PNG inside


def _psd(data: bytes) -> Found:
    view = Data(data, "PSD sections")
    channels = view.number(12, 2)
    high, wide = view.numbers(14, 2, 4)
    depth = view.number(22, 2)
    at = 26
    for _ in range(3):  # colour data, resources, layers: each with its length before
        at += 4 + view.number(at)
    full, method = size(wide, high), view.number(at, 2)
    rows = channels * high
    if method == 0:
        length = rows * ((wide * depth + 7) // 8)
    elif method == 1:
        view.need(at + 2 + 2 * rows)
        length = 2 * rows + sum(view.numbers(at + 2, rows, 2))
    else:
        raise BadImageError("the PSD is of a kind that is not read")
    view.need(at + 2 + length, "its pixels")
    return Found(full)


_PARSERS: dict[str, Callable[[bytes], Found]] = {
    "jpg": _jpg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "tif": tiff.read,
    "bmp": _bmp,
    "psd": _psd,
    "avif": boxes.read,
    "heic": boxes.read,
}
