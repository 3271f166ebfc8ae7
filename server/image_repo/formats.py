"""The one table of image formats: what is read, what is written, under which words."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from image_repo.errors import BadRequestError


@dataclass(frozen=True, slots=True)
class Format:
    """One row of the table.

    Attributes:
        kind: The word in URLs, and the first of its extensions.
        media_type: As in Content-Type.
        coder: ImageMagick's name; the only coder ever used for such bytes.
        magic: Matches the first bytes of such a file; None: never read.
        aliases: Other extensions that mean the same.
        served: Whether derived images may be of this kind.
        quality: Default quality, 1 to 100; None: the format has none to choose.
        alpha: Whether it can hold transparency; otherwise it is laid on a background.
        max_side: Longest side in pixels that the format (or its encoder) can hold.
    """

    kind: str
    media_type: str
    coder: str
    magic: re.Pattern[bytes] | None
    aliases: tuple[str, ...] = ()
    served: bool = True
    quality: int | None = None
    alpha: bool = True
    max_side: int = 65_500

    @property
    def extensions(self) -> tuple[str, ...]:
        """All extensions that mean this format, without dots."""
        return (self.kind, *self.aliases)


def _magic(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


# The order is that in which an image's name is looked for with an extension.
# Qualities: where the usual judges of photographs stop seeing a difference at the
# sizes of web pages; the scales of the encoders differ.
FORMATS: tuple[Format, ...] = (
    Format(
        "jpg",
        "image/jpeg",
        "JPEG",
        _magic(rb"\xff\xd8\xff"),
        aliases=("jpeg",),
        quality=80,
        alpha=False,
    ),
    Format("png", "image/png", "PNG", _magic(rb"\x89PNG\r\n\x1a\n")),
    Format(
        "webp",
        "image/webp",
        "WEBP",
        _magic(rb"RIFF....WEBPVP8[ LX]"),
        quality=80,
        max_side=16_383,  # libwebp's WEBP_MAX_DIMENSION
    ),
    Format("gif", "image/gif", "GIF", _magic(rb"GIF8[79]a")),
    Format(
        "tif",
        "image/tiff",
        "TIFF",
        _magic(rb"II\x2a\x00|MM\x00\x2a"),
        aliases=("tiff",),
    ),
    Format("bmp", "image/bmp", "BMP", _magic(rb"BM.{8}.{4}[\x0c-\x7c]"), alpha=False),
    Format(
        "avif",
        "image/avif",
        "AVIF",
        _magic(rb"....ftyp(?:avif|(?:mif1|miaf)....(?:....)*?avif)"),
        quality=50,
        max_side=16_384,  # libheif 1.15's limit for one image
    ),
    Format(
        "heic",
        "image/heic",
        "HEIC",
        _magic(rb"....ftyp(?:hei[cx]|(?:mif1)....(?:....)*?hei[cx])"),
        aliases=("heif",),
        served=False,
    ),
    Format(
        "psd",
        "image/vnd.adobe.photoshop",
        "PSD",
        _magic(rb"8BPS\x00\x01"),
        served=False,
    ),
)

AUTO = "auto"
"""Stands where a kind would, for the one that suits the client and the image best."""

SNIFF_BYTES = 128
"""How many first bytes `sniff` needs; ftyp boxes of known cameras are shorter."""

_BY_EXTENSION = {word: row for row in FORMATS for word in row.extensions}
_RANKS = {word: number for number, word in enumerate(_BY_EXTENSION)}


def by_extension(extension: str) -> Format | None:
    """Return the format whose extension this is, in any case, without its dot."""
    return _BY_EXTENSION.get(extension.lower()) if extension.isascii() else None


def rank(extension: str) -> int:
    """Return where an extension stands in the table, from 0; -1: nowhere."""
    return _RANKS.get(extension.lower(), -1) if extension.isascii() else -1


def by_kind(text: str) -> Format:
    """Return the format that *text* asks for as a kind.

    Raises:
        BadRequestError: No such kind is served; names those that are.
    """
    row = by_extension(text)
    if row is not None and row.served:
        return row
    words = [row.kind for row in FORMATS if row.served]
    near = difflib.get_close_matches(text[:40].lower(), words, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadRequestError(
        f"kind {text[:40]!r} is not served: it must be one of {', '.join(words)}{hint}"
    )


def sniff(head: bytes) -> Format | None:
    """Return the format whose first bytes these are; None: not one that is read."""
    head = head[:SNIFF_BYTES]
    return next(
        (r for r in FORMATS if r.magic is not None and r.magic.match(head)), None
    )
