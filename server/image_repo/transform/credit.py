"""Artist and copyright, the only metadata that a derived image may keep.

Runs in a worker only: it works on ImageMagick's images.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from wand.image import Image

from image_repo.formats import Format
from image_repo.transform import tiff

_TAGS = {"artist": 315, "copyright": 33432}
_ASCII = 2
_PNG_HEAD = 33  # bytes of signature and IHDR, which the others follow


def attach(image: Image, row: Format, kept: Mapping[str, str]) -> None:
    """Give *kept* to a stripped image, where ImageMagick writes it in that format."""
    if row.kind == "tif":
        for name, text in kept.items():
            image.artifacts[f"tiff:{name}"] = text
    elif row.kind in {"jpg", "webp"} and kept:
        image.profiles["exif"] = b"Exif\0\0" + _exif(kept)


def insert(body: bytes, row: Format, kept: Mapping[str, str]) -> bytes:
    """Return the encoded image with *kept*, where ImageMagick does not write it."""
    if row.kind != "png" or not kept:
        return body
    content = b"eXIf" + _exif(kept)
    check = struct.pack(">I", zlib.crc32(content))
    chunk = struct.pack(">I", len(content) - 4) + content + check
    return body[:_PNG_HEAD] + chunk + body[_PNG_HEAD:]


def _exif(kept: Mapping[str, str]) -> bytes:
    return tiff.write(
        {_TAGS[name]: (_ASCII, text.encode() + b"\0") for name, text in kept.items()}
    )
