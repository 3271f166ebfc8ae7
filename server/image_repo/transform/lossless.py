"""Reduced pictures in files: how a worker writes them, and goes on from them.

Runs in a worker only: it works on ImageMagick's images. A derived image has the same
bytes whether its picture was decoded or read here; so all that encoders heed is kept.
"""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from wand.api import library
from wand.image import Image

from image_repo.errors import DeriveError
from image_repo.geometry import Size
from image_repo.transform import colours
from image_repo.transform.decoding import CHAR, space
from image_repo.transform.headers import Header
from image_repo.transform.reduced import MOST_BYTES, Reduced, is_worth

_DEPTH = 8
_CHANNELS = {"srgb": "RGB", "gray": "I", "ycbcr": "RGB"}

_PROPERTIES = ("jpeg:colorspace", "jpeg:sampling-factor")
"""What the decoder says of a JPEG, and the encoder heeds."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A reduced picture with all that is to be kept of it.

    Attributes:
        reduced: What it is.
        parts: The bytes of the file.
    """

    reduced: Reduced
    parts: tuple[ctypes.Array[ctypes.c_char] | bytes, ...]


def pack(
    image: Image, header: Header, scale: int, credit: Mapping[str, str]
) -> Packed | None:
    """Return a reduced picture as it is kept; None: it is not worth it, or can't be.

    What has more than eight bits can't: they may be of linear light.
    """
    word = space(image)
    channels = _CHANNELS.get(word)
    if not is_worth(header, scale) or channels is None or image.depth > _DEPTH:
        return None
    channels += "A" if image.alpha_channel else ""
    profile = colours.heeded(image.profiles)
    said = {name: image.metadata.get(name) for name in _PROPERTIES}
    notes = json.dumps(
        {
            "credit": dict(credit),
            "space": word,
            "properties": {name: text for name, text in said.items() if text},
            "resolution": image.resolution,
            "units": image.units,
        }
    ).encode()
    reduced = Reduced(
        header, scale, Size(*image.size), channels, len(profile), len(notes)
    )
    return Packed(reduced, (_pixels(image, reduced), profile, notes))


def write(packed: Packed, file: int) -> Reduced | None:
    """Write a picture to an open file; None: it was not, or not wholly.

    Nothing that is written here is needed: an error costs nothing but time.
    """
    if packed.reduced.bytes > MOST_BYTES:
        return None
    at = 0
    try:
        for part in packed.parts:
            left = memoryview(part).cast("B")
            while left:
                written = os.pwrite(file, left, at)
                left, at = left[written:], at + written
    except OSError:
        return None
    return packed.reduced


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
        # From another space: to change sets what encoders write of the new one.
        for word in ("srgb", notes["space"]):
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
