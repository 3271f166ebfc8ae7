"""The steps from an original's bytes to a derived image's, in their order.

Runs in a worker only: it loads ImageMagick.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from time import perf_counter

from wand.api import library
from wand.image import COLORSPACE_TYPES, ORIENTATION_TYPES, Image

from image_repo import modifiers as modifiers_
from image_repo.errors import DeriveError, TooLargeError
from image_repo.formats import Format
from image_repo.modifiers import Modifier, RenderOptions
from image_repo.transform import colours, credit, lossless, metadata
from image_repo.transform.decoding import decode, space
from image_repo.transform.headers import Header, Limits, check, read_header
from image_repo.transform.reduced import Reduced, scale_for

library.MagickProfileImage.argtypes = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)

_PLAIN_SPACES = frozenset({"srgb", "gray"})
_PROFILES = 8  # that are remembered: cameras and programs have few

_PNG_QUALITY = 75  # deflate level 7 and a filter chosen for each row
_GIF_COLOURS = 256

_ENCODER_OPTIONS = {
    "jpeg:optimize-coding": "false",  # saves 1 ms of 50, costs 2 % of the bytes
    "png:exclude-chunk": "bKGD,cHRM,gAMA,iCCP,pHYs,sRGB,tEXt,zTXt,iTXt,tIME,date,eXIf",
    "tiff:alpha": "unassociated",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The derived image to be made: what `image_repo.names.read_job` returns."""

    modifiers: Sequence[Modifier]
    format: Format


@dataclass(frozen=True, slots=True)
class Source:
    """What a derived image is made from.

    Attributes:
        data: The original, or the file of a reduced picture of it.
        reduced: What that picture is; None: the data are the original.
    """

    data: bytes
    reduced: Reduced | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A derived image.

    Attributes:
        body: Its bytes.
        reduced: The decoded picture that was written; None: nothing was.
        seconds: What each step took, in order.
    """

    body: bytes
    reduced: Reduced | None
    seconds: dict[str, float]


class Laps:
    """Tells how long each step takes, from the end of the one before.

    Attributes:
        seconds: Of each step, in order.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = perf_counter()

    def end(self, step: str) -> None:
        """Say that *step* has come to its end."""
        now = perf_counter()
        self.seconds[step] = now - self._since
        self._since = now


def probe(data: bytes, limits: Limits) -> Header:
    """Return the header of an image within *limits*."""
    header = read_header(data)
    check(header, limits)
    return header


def derive(
    source: Source,
    wanted: Wanted,
    limits: Limits,
    render: RenderOptions,
    keep: int | None = None,
) -> Made:
    """Return a derived image.

    Args:
        source: What it is made from.
        wanted: What is to be made.
        limits: How large the original may be.
        render: What steers pixels besides.
        keep: An open file for the decoded picture, should it be worth keeping.

    Raises:
        BadImageError: The original is not a complete image.
        TooLargeError: It is beyond *limits*, or the result beyond its format.
        DeriveError: The reduced picture is damaged, or not what the result needs.
    """
    laps = Laps()
    header = source.reduced.header if source.reduced else read_header(source.data)
    check(header, limits)
    target = modifiers_.result(wanted.modifiers, header.upright, render)
    if max(target) > wanted.format.max_side:
        raise TooLargeError(
            f"{wanted.format.kind} holds at most {wanted.format.max_side} pixels a side"
        )
    scale = scale_for(header, wanted.modifiers, render)
    with Image() as image:
        kept = _open(image, source, header, scale, render)
        laps.end("decode")
        reduced = None
        if source.reduced is None:
            reduced = _keep(image, header, scale, kept, keep)
            laps.end("keep")
        # The original's own quality came with it; a modifier may choose another.
        image.compression_quality = render.quality(wanted.format) or _PNG_QUALITY
        _modify(image, header, wanted.modifiers, render)
        laps.end("modify")
        _flatten(image, wanted.format, render)
        body = _encode(image, wanted.format, kept)
        laps.end("encode")
    return Made(body, reduced, laps.seconds)


def _open(
    image: Image, source: Source, header: Header, scale: int, render: RenderOptions
) -> Mapping[str, str]:
    """Give *image* the picture at *scale*; return the credit that goes with it."""
    if source.reduced is None:
        decode(image, source.data, header, scale)
        return metadata.credit(source.data, header) if render.keep_credit else {}
    if source.reduced.scale != scale:
        raise DeriveError("the reduced picture is not of the scale that is needed")
    return lossless.read(image, source.reduced, source.data)


def _keep(
    image: Image, header: Header, scale: int, kept: Mapping[str, str], file: int | None
) -> Reduced | None:
    """Write the picture to *file* if it is worth it; say what was written.

    A JPEG comes out of its decoder as it is kept. The average of other pictures does
    not, and so it is taken as if from a file, whether there is one or not.
    """
    averaged = header.format.kind != "jpg" and scale > 1
    if file is None and not averaged:
        return None
    packed = lossless.pack(image, header, scale, kept)
    if packed is None:
        return None
    if averaged:
        image.clear()
        lossless.read(image, packed.reduced, b"".join(packed.parts))
    return None if file is None else lossless.write(packed, file)


class _Picture:
    """An image as modifiers see it: in sRGB, from the moment that it matters.

    A conversion costs by the pixel, and to resize comes first and leaves few.
    """

    def __init__(self, image: Image) -> None:
        self._image = image
        self._srgb = False

    @property
    def width(self) -> int:
        return int(self._image.width)

    @property
    def height(self) -> int:
        return int(self._image.height)

    @property
    def compression_quality(self) -> int:
        return int(self._image.compression_quality)

    @compression_quality.setter
    def compression_quality(self, quality: int) -> None:
        self._image.compression_quality = quality

    def srgb(self) -> Image:
        """Return the image, after its conversion to sRGB."""
        if not self._srgb:
            self._srgb = True
            _to_srgb(self._image)
        return self._image

    def resize(self, width: int, height: int, kernel: str, /) -> None:
        self._image.resize(width, height, kernel)

    def liquid_rescale(self, width: int, height: int, /) -> None:
        self.srgb().liquid_rescale(width, height)

    def equalize(self) -> None:
        self.srgb().equalize()

    def unsharp_mask(
        self, radius: float, sigma: float, amount: float, threshold: float, /
    ) -> None:
        self.srgb().unsharp_mask(radius, sigma, amount, threshold)


def _modify(
    image: Image, header: Header, modifiers: Sequence[Modifier], render: RenderOptions
) -> None:
    """Apply the modifiers, and turn the picture upright, where it costs least."""
    picture = _Picture(image)
    turned = [modifier.turned() for modifier in modifiers]
    lying = [modifier for modifier in turned if modifier is not None]
    if header.upright == header.size:
        _turn(image, header)
        modifiers_.apply(modifiers, picture, header.size, render)
    elif len(lying) == len(modifiers):
        modifiers_.apply(lying, picture, header.size, render)
        _turn(image, header)
    else:
        _turn(image, header)
        modifiers_.apply(modifiers, picture, header.upright, render)
    picture.srgb()


def _turn(image: Image, header: Header) -> None:
    """Turn and mirror by our own reading; ImageMagick's misses PNG and WebP."""
    image.orientation = ORIENTATION_TYPES[header.orientation]
    if header.orientation > 1:
        image.auto_orient()
        library.MagickResetImagePage(image.wand, None)


def _to_srgb(image: Image) -> None:
    profile, from_space = colours.heeded(image.profiles), space(image)
    if profile and _converts(profile, from_space):
        _convert(image)
    elif from_space not in _PLAIN_SPACES:
        image.transform_colorspace("srgb")


def _convert(image: Image) -> bool:
    """Convert to sRGB by the image's own profile; return whether it could be done."""
    done = library.MagickProfileImage(
        image.wand, b"icc", colours.SRGB, len(colours.SRGB)
    )
    return bool(done)


@lru_cache(_PROFILES)
def _converts(profile: bytes, from_space: str) -> bool:
    """Return whether *profile* can be used; a damaged one says nothing.

    Tried on a picture of one pixel: ImageMagick 6 does not forget an error of an
    image, and some encoders then refuse it.
    """
    with Image(width=1, height=1) as image:
        library.MagickSetImageColorspace(image.wand, COLORSPACE_TYPES.index(from_space))
        image.profiles["icc"] = profile
        done = _convert(image)
        library.MagickClearException(image.wand)
        return done


def _flatten(image: Image, row: Format, render: RenderOptions) -> None:
    if image.alpha_channel and not (row.alpha and holds_alpha(row)):
        image.background_color = render.background
        image.alpha_channel = "remove"
        image.alpha_channel = "off"


@cache
def holds_alpha(row: Format) -> bool:
    """Return whether this ImageMagick writes transparency, as 6 does not for AVIF."""
    with Image(width=4, height=4, background="transparent") as image:
        image.format = row.coder
        body = image.make_blob()
    with Image() as image:
        library.MagickSetFilename(image.wand, row.coder.lower().encode() + b":x[0]")
        library.MagickReadImageBlob(image.wand, body, len(body))
        return bool(image.alpha_channel)


def _strip(image: Image) -> None:
    image.strip()
    image.depth = 8
    for name, value in _ENCODER_OPTIONS.items():
        image.options[name] = value


def _encode(image: Image, row: Format, kept: Mapping[str, str]) -> bytes:
    """Return *image* in that format, with nothing attached but the credit *kept*."""
    _strip(image)
    credit.attach(image, row, kept)
    if row.kind == "gif":
        image.quantize(_GIF_COLOURS, "srgb", 0, False, False)
    elif row.kind == "tif":
        image.compression = "lzw"
    image.format = row.coder
    body: bytes | None = image.make_blob()
    if not body:
        raise DeriveError(f"the image can't be encoded as {row.kind}")
    return credit.insert(body, row, kept)
