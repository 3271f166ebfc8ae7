"""What is attached to an image, and its colours: found in the bytes, not read yet.

The image has been read by `image_repo.transform.headers` before, so that its outer
shape is sound; what is inside the attached data may be anything.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace

from image_repo.errors import BadImageError
from image_repo.formats import Format
from image_repo.transform import boxes, tiff
from image_repo.transform.headers import SOF, SOS, chunks, riff, segments
from image_repo.transform.reading import Data

MAX_EXIF = 256 * 2**10
MAX_IPTC = 64 * 2**10
MAX_XMP = 256 * 2**10
MAX_PROFILE = 256 * 2**10
"""Bytes of each that are heeded; what is longer is cut there. Of a profile only the
name is, which is at its beginning."""


@dataclass(frozen=True, slots=True)
class Attached:
    """Attached data as they lie in the image; each is empty if there is none.

    Attributes:
        exif: From the byte order mark on, or with `Exif` and two zero bytes before it.
        iptc: The records of IPTC-IIM.
        xmp: A packet of XMP.
        profile: ICC profile, its beginning at least.
        texts: Of a PNG, by keyword.
        colour: What its channels are: grey, rgb, cmyk, lab; or empty: not known.
        bits: Of a channel; 0: not known.
    """

    exif: bytes = b""
    iptc: bytes = b""
    xmp: bytes = b""
    profile: bytes = b""
    texts: Mapping[str, str] = field(default_factory=dict)
    colour: str = "rgb"
    bits: int = 8


def find(data: bytes, row: Format) -> Attached:
    """Return what is attached to the image of that format that *data* are."""
    try:
        found = _FINDERS[row.kind](data)
    except BadImageError:  # its own fault: the image has been read
        return Attached(colour="", bits=0)
    return replace(
        found,
        exif=found.exif if row.kind == "tif" else found.exif[:MAX_EXIF],
        iptc=found.iptc[:MAX_IPTC],
        xmp=found.xmp[:MAX_XMP],
        profile=found.profile[:MAX_PROFILE],
    )


_CHANNELS = {1: "grey", 3: "rgb", 4: "cmyk"}

# -- JPEG ------------------------------------------------------------------------------

_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_PHOTOSHOP, _ICC = b"Photoshop 3.0\0", b"ICC_PROFILE\0"
_ICC_HEAD = len(_ICC) + 2  # number of the part, and how many there are
_PARTS = {0xE1: (_EXIF, _XMP), 0xE2: (_ICC,), 0xED: (_PHOTOSHOP,)}  # APP1, 2, 13


def _jpg(data: bytes) -> Attached:
    found: dict[bytes, bytes] = {}
    colour, bits = "", 0
    view = Data(data, "JPEG segments")
    for marker, start, end in segments(view):
        if marker == SOS:
            break
        if marker in SOF:
            bits, colour = data[start], _CHANNELS.get(view.number(start + 5, 1), "")
        for head in _PARTS.get(marker, ()):
            if not data.startswith(head, start):
                continue
            part = data[start + (_ICC_HEAD if head == _ICC else len(head)) : end]
            if head in {_EXIF, _XMP}:  # a second one is none that others read
                found.setdefault(head, part)
            elif len(found.get(head, b"")) < MAX_PROFILE:
                found[head] = found.get(head, b"") + part
    inside = _resources(found.get(_PHOTOSHOP, b""))
    return Attached(
        exif=found.get(_EXIF, b""),
        iptc=inside.iptc,
        xmp=found.get(_XMP, b""),
        profile=found.get(_ICC, b""),
        colour=colour,
        bits=bits,
    )


# -- PSD, and the blocks of Photoshop in others ----------------------------------------

_BLOCKS = {1028: "iptc", 1058: "exif", 1060: "xmp", 1039: "profile"}
_PSD_MODES = {0: "grey", 1: "grey", 2: "rgb", 3: "rgb", 4: "cmyk", 8: "grey", 9: "lab"}


def _resources(data: bytes) -> Attached:
    """Return what is in image resource blocks (Photoshop File Formats, 2019)."""
    found: dict[str, bytes] = {}
    view, at = Data(data, "resource blocks"), 0
    with suppress(BadImageError):
        while data[at : at + 4] == b"8BIM":
            name = view.number(at + 6, 1)
            start = at + 6 + (name + 2) // 2 * 2 + 4
            length = view.number(start - 4)
            word = _BLOCKS.get(view.number(at + 4, 2))
            if word is not None:
                found.setdefault(word, data[start : start + min(length, MAX_EXIF)])
            at = start + length + (length & 1)
    return Attached(
        found.get("exif", b""),
        found.get("iptc", b""),
        found.get("xmp", b""),
        found.get("profile", b""),
    )


def _psd(data: bytes) -> Attached:
    view = Data(data, "PSD sections")
    start = 26 + 4 + view.number(26)
    return replace(
        _resources(view.part(start + 4, view.number(start))),
        colour=_PSD_MODES.get(view.number(24, 2), ""),
        bits=view.number(22, 2),
    )


# -- PNG -------------------------------------------------------------------------------

_PNG_COLOURS = {0: "grey", 2: "rgb", 3: "rgb", 4: "grey", 6: "rgb"}
_PALETTE = 3  # its colours have 8 bits, whatever the indices have
_TEXTS = ("Title", "Author", "Description", "Copyright", "Software")
_XML = "XML:com.adobe.xmp"
_RAW = re.compile(rb"\s*[A-Za-z0-9]+\s+\d+\s+")  # before the digits of such a text
_RAW_WORDS = {f"Raw profile type {word}": word for word in ("exif", "APP1", "iptc")}
_HEARD = frozenset({*_TEXTS, _XML, *_RAW_WORDS})
_MAX_TEXT = 2 * MAX_EXIF + 100  # in hexadecimal digits


def _png(data: bytes) -> Attached:
    texts: dict[str, bytes] = {}
    exif, profile = b"", b""
    view = Data(data, "PNG chunks")
    for kind, start, end in chunks(view):
        if kind == b"eXIf":
            exif = exif or data[start:end]
        elif kind == b"iCCP" and not profile:
            profile = _inflated(data[start:end].partition(b"\0")[2][1:], MAX_PROFILE)
        elif kind in _PNG_TEXTS:
            keyword, _, rest = data[start:end].partition(b"\0")
            word = keyword.decode("latin-1")
            if word in _HEARD and word not in texts:
                texts[word] = _PNG_TEXTS[kind](rest)
    raw = {short: _unhex(texts.get(word, b"")) for word, short in _RAW_WORDS.items()}
    app1 = raw["APP1"]
    colour = data[25]
    return Attached(
        exif=exif or raw["exif"] or (b"" if app1.startswith(_XMP) else app1),
        iptc=_resources(raw["iptc"]).iptc or raw["iptc"],
        xmp=texts.get(_XML) or (app1[len(_XMP) :] if app1.startswith(_XMP) else b""),
        profile=profile,
        texts={
            word: texts[word].decode("utf-8", "replace")
            for word in _TEXTS
            if word in texts
        },
        colour=_PNG_COLOURS.get(colour, ""),
        bits=8 if colour == _PALETTE else data[24],
    )


def _plain(rest: bytes) -> bytes:
    return rest[:_MAX_TEXT].decode("latin-1").encode()


def _compressed(rest: bytes) -> bytes:
    return _plain(_inflated(rest[1:], _MAX_TEXT))


def _international(rest: bytes) -> bytes:
    packed = rest[:1] == b"\1"
    text = rest[2:].partition(b"\0")[2].partition(b"\0")[2]  # language, translation
    return _inflated(text, _MAX_TEXT) if packed else text[:_MAX_TEXT]


_PNG_TEXTS: Mapping[bytes, Callable[[bytes], bytes]] = {
    b"tEXt": _plain,
    b"zTXt": _compressed,
    b"iTXt": _international,
}


def _inflated(packed: bytes, most: int) -> bytes:
    """Return what *packed* unfolds to, *most* bytes of it; empty if it is damaged."""
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(packed, most)
    return b""


def _unhex(text: bytes) -> bytes:
    head = _RAW.match(text)
    digits = b"" if head is None else b"".join(text[head.end() :].split())
    with suppress(ValueError):
        return bytes.fromhex(digits.decode("latin-1"))
    return b""


# -- the others ------------------------------------------------------------------------

_WEBP_CHUNKS = {b"EXIF": "exif", b"XMP ": "xmp", b"ICCP": "profile"}


def _webp(data: bytes) -> Attached:
    view = Data(data, "WebP chunks", "<")
    found: dict[str, bytes] = {}
    for kind, start, end in riff(view, 8 + view.number(4)):
        if kind in _WEBP_CHUNKS:
            found.setdefault(_WEBP_CHUNKS[kind], data[start:end])
    return Attached(
        exif=found.get("exif", b""),
        xmp=found.get("xmp", b""),
        profile=found.get("profile", b""),
    )


_XMP_TAG, _IPTC_TAG, _PHOTOSHOP_TAG, _ICC_TAG = 700, 33723, 34377, 34675
_PHOTOMETRIC = {0: "grey", 1: "grey", 2: "rgb", 3: "rgb", 5: "cmyk", 6: "rgb", 8: "lab"}


def _tif(data: bytes) -> Attached:
    colour, bits = tiff.colours(data)
    iptc = tiff.blob(data, _IPTC_TAG, MAX_IPTC)
    return Attached(
        exif=data,
        iptc=iptc or _resources(tiff.blob(data, _PHOTOSHOP_TAG, 2**20)).iptc,
        xmp=tiff.blob(data, _XMP_TAG, MAX_XMP),
        profile=tiff.blob(data, _ICC_TAG, MAX_PROFILE),
        colour=_PHOTOMETRIC.get(colour, ""),
        bits=bits,
    )


_GIF_XMP = b"\x21\xff\x0bXMP DataXMP"  # an extension; the packet follows as it is


def _gif(data: bytes) -> Attached:
    at = data.find(_GIF_XMP)
    start = at + len(_GIF_XMP)
    return Attached(xmp=b"" if at < 0 else data[start : start + MAX_XMP])


def _heif(data: bytes) -> Attached:
    found = boxes.extras(data, MAX_EXIF)
    return Attached(
        exif=found.exif,
        xmp=found.xmp,
        profile=boxes.read(data).profile,
        colour=_CHANNELS.get(len(found.channels), ""),
        bits=max(found.channels, default=0),
    )


_FINDERS: Mapping[str, Callable[[bytes], Attached]] = {
    "jpg": _jpg,
    "png": _png,
    "gif": _gif,
    "webp": _webp,
    "tif": _tif,
    "bmp": lambda _: Attached(),
    "avif": _heif,
    "heic": _heif,
    "psd": _psd,
}


# -- the name of a profile -------------------------------------------------------------


def profile_name(profile: bytes) -> str:
    """Return the description of an ICC profile (ICC.1:2022, 9.2.41); empty: none."""
    view = Data(profile, "ICC profile")
    with suppress(BadImageError):
        for at in range(132, 132 + 12 * min(view.number(128), 100), 12):
            if view.part(at, 4) == b"desc":
                return _described(view, view.number(at + 4))
    return ""


def _described(view: Data, at: int) -> str:
    if view.part(at, 4) == b"mluc":  # the first language, in UTF-16
        length, start = view.numbers(at + 20, 2, 4)
        raw = view.part(at + start, min(length, 512))
        return "".join(map(chr, _units(raw)))
    return view.part(at + 12, min(view.number(at + 8), 256)).decode("latin-1")


def _units(raw: bytes) -> Iterator[int]:
    # A name beyond the basic plane isn't worth it that a worker loads a codec.
    for at in range(0, len(raw) - 1, 2):
        unit = int.from_bytes(raw[at : at + 2])
        if not 0xD800 <= unit < 0xE000:  # noqa: PLR2004 - surrogates
            yield unit
