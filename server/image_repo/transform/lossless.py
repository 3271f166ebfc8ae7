"""Reduced pictures in files: how a worker writes them, and goes on from them.

Runs in a worker only: it works on ImageMagick's images. A derived image has the same
bytes whether its picture was decoded or read here; so all that encoders heed is kept.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping

from wand.api import library
from wand.image import Image

from image_repo.errors import DeriveError
from image_repo.geometry import Size
from image_repo.transform import colours
from image_repo.transform.decoding import CHAR, space
from image_repo.transform.headers import Header
from image_repo.transform.reduced import MOST_BYTES, WORTH, Reduced

_DEPTH = 8
_CHANNELS = {"srgb": "RGB", "gray": "I"}

_PROPERTIES = "jpeg:"
"""How those properties begin that a decoder leaves and the JPEG encoder heeds."""


def write(
    image: Image, header: Header, scale: int, credit: Mapping[str, str], file: int
) -> Reduced | None:
    """Write a decoded picture to an open file; None: it was not, or not wholly.

    Nothing that is written here is needed: an error costs nothing but time.
    """
    channels = _CHANNELS.get(space(image))
    if scale not in WORTH or channels is None:
        return None
    if image.depth != _DEPTH or image.alpha_channel:
        return None
    profile = colours.heeded(image.profiles)
    notes = json.dumps(
        {
            "credit": dict(credit),
            "properties": {
                name: text
                for name, text in image.metadata.items()
                if name.startswith(_PROPERTIES)
            },
            "resolution": image.resolution,
            "units": image.units,
        }
    ).encode()
    made = Reduced(header, scale, Size(*image.size), channels, len(profile), len(notes))
    if made.bytes > MOST_BYTES:
        return None
    try:
        _write(file, (_pixels(image, made), profile, notes))
    except (OSError, MemoryError):
        return None
    return made


def read(image: Image, reduced: Reduced, data: bytes) -> dict[str, str]:
    """Give a picture that was kept to an empty image; return the credit kept with it.

    Raises:
        DeriveError: *data* are not what `write` has written.
    """
    if len(data) != reduced.bytes:
        raise DeriveError("the reduced picture has another length than is known of it")
    after = reduced.pixels + reduced.profile
    try:
        notes = json.loads(data[after:])
        credit = {str(name): str(text) for name, text in notes["credit"].items()}
        if not library.MagickConstituteImage(
            image.wand, *reduced.size, reduced.channels.encode(), CHAR, data
        ):
            image.raise_exception()
        # Forces the defaults of the space, its primaries among them.
        for word in ("srgb", "gray") if reduced.channels == "I" else ():
            image.colorspace = word
        image.resolution = notes["resolution"]
        image.units = notes["units"]
        for name, text in notes["properties"].items():
            image.metadata[name] = text
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise DeriveError("the notes of the reduced picture are damaged") from e
    if reduced.profile:
        image.profiles["icc"] = data[reduced.pixels : after]
    return credit


def _pixels(image: Image, made: Reduced) -> ctypes.Array[ctypes.c_char]:
    pixels = (ctypes.c_char * made.pixels)()
    if not library.MagickExportImagePixels(
        image.wand, 0, 0, *made.size, made.channels.encode(), CHAR, pixels
    ):
        image.raise_exception()
    return pixels


def _write(file: int, parts: tuple[ctypes.Array[ctypes.c_char] | bytes, ...]) -> None:
    at = 0
    for part in parts:
        left = memoryview(part).cast("B")
        while left:
            written = os.pwrite(file, left, at)
            left, at = left[written:], at + written
