"""The steps from an original's bytes to a derived image's, in their order.

Runs in a worker only: it loads ImageMagick.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from wand.api import libmagick, library
from wand.exceptions import CacheError, ResourceLimitError, WandException
from wand.image import COLORSPACE_TYPES, ORIENTATION_TYPES, Image

from image_repo import modifiers as modifiers_
from image_repo.errors import BadImageError, DeriveError, TooLargeError
from image_repo.formats import Format
from image_repo.geometry import Size, jpeg_scale
from image_repo.modifiers import Modifier, RenderOptions
from image_repo.transform import colours, credit, metadata
from image_repo.transform.headers import Header, Limits, check, pixels_only, read_header

library.MagickSetFilename.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
library.MagickProfileImage.argtypes = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_size_t,
)
library.MagickGetImageColorspace.argtypes = (ctypes.c_void_p,)
library.MagickResetImagePage.argtypes = (ctypes.c_void_p, ctypes.c_char_p)

_PLAIN_SPACES = frozenset({"srgb", "gray"})
_SCALE_FROM, _SCALE_TO = 3, 2
"""A picture this many times the target is first brought near to it the cheap way."""

_HEIF_ROUNDING = 1  # pixels by which libheif may crop otherwise than written

_PNG_QUALITY = 75  # deflate level 7 and a filter chosen for each row
_GIF_COLOURS = 256

# Words in ImageMagick's warnings that tell of pixels that are not in the data.
_INCOMPLETE = (
    "premature",
    "not enough",
    "too short",
    "truncat",
    "unexpected end",
    "read error",
    "insufficient",
)

_ENCODER_OPTIONS = {
    "jpeg:optimize-coding": "false",  # saves 1 ms of 50, costs 2 % of the bytes
    "png:exclude-chunk": "bKGD,cHRM,gAMA,iCCP,pHYs,sRGB,tEXt,zTXt,iTXt,tIME,date,eXIf",
    "tiff:alpha": "unassociated",
}


@dataclass(frozen=True, slots=True)
class Job:
    """A derived image to be made: what `image_repo.names.read_job` returns."""

    modifiers: Sequence[Modifier]
    format: Format


def probe(data: bytes, limits: Limits) -> Header:
    """Return the header of an image within *limits*."""
    header = read_header(data)
    check(header, limits)
    return header


def derive(data: bytes, job: Job, limits: Limits, render: RenderOptions) -> bytes:
    """Return the bytes of a derived image.

    Raises:
        BadImageError: *data* are not a complete image.
        TooLargeError: The image is beyond *limits*, or the result beyond its format.
    """
    header = probe(data, limits)
    target = modifiers_.result(job.modifiers, header.upright, render)
    if max(target) > job.format.max_side:
        raise TooLargeError(
            f"{job.format.kind} holds at most {job.format.max_side} pixels a side"
        )
    with Image() as image:
        _decode(image, pixels_only(data, header), header, target)
        if header.profile:
            image.profiles["icc"] = header.profile
        _canvas(image)
        _approach(image, header, target)
        # The original's own quality came with it; a modifier may choose another.
        image.compression_quality = render.quality(job.format) or _PNG_QUALITY
        _modify(image, header, job.modifiers, render)
        _flatten(image, job.format, render)
        _strip(image)
        kept = metadata.credit(data, header) if render.keep_credit else {}
        credit.attach(image, job.format, kept)
        return credit.insert(_encode(image, job.format), job.format, kept)


def _stored(header: Header, target: Size) -> Size:
    """Return *target* as it lies before the turn by the orientation."""
    return target.turned() if header.upright != header.size else target


def _decode(image: Image, data: bytes, header: Header, target: Size) -> None:
    """Read the first frame with the one coder that the header calls for."""
    full, scale = header.size, 1
    if header.format.kind == "jpg":
        scale = jpeg_scale(full, _stored(header, target))
        # ImageMagick asks libjpeg for 1/n with n = size / hint, rounded down.
        hint = (side / (scale + 0.25) for side in full)
        image.options["jpeg:size"] = "x".join(f"{side:.3f}" for side in hint)
    try:
        # This way alone both the coder and the frame are forced.
        coder = header.format.coder.lower().encode()
        library.MagickSetFilename(image.wand, coder + b":x[0]")
        if not library.MagickReadImageBlob(image.wand, data, len(data)):
            image.raise_exception()
            raise BadImageError("the image can't be decoded")
        _refuse_incomplete(image)
    except (CacheError, ResourceLimitError) as e:
        raise TooLargeError("the image needs more memory than is allowed") from e
    except WandException as e:
        raise BadImageError("the image can't be decoded") from e
    _check_decoded(image, header, scale)


def _refuse_incomplete(image: Image) -> None:
    said = _warnings(image).lower()
    library.MagickClearException(image.wand)
    if any(word.encode() in said for word in _INCOMPLETE):
        raise BadImageError("the image is incomplete: pixels are missing")


class _ExceptionInfo(ctypes.Structure):
    """The beginning of ImageMagick's ExceptionInfo."""

    _fields_ = (
        ("severity", ctypes.c_int),
        ("error_number", ctypes.c_int),
        ("reason", ctypes.c_char_p),
        ("description", ctypes.c_char_p),
    )


def _warnings(image: Image) -> bytes:
    """Return what a decoder complained of; ImageMagick 6 keeps it with the image."""
    if not hasattr(libmagick, "GetImageException"):  # 7: with the wand
        return _wand_warning(image)
    libmagick.AcquireExceptionInfo.restype = ctypes.POINTER(_ExceptionInfo)
    libmagick.DestroyExceptionInfo.argtypes = (ctypes.c_void_p,)
    libmagick.GetImageException.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
    library.GetImageFromMagickWand.argtypes = (ctypes.c_void_p,)
    library.GetImageFromMagickWand.restype = ctypes.c_void_p
    info = libmagick.AcquireExceptionInfo()
    libmagick.GetImageException(library.GetImageFromMagickWand(image.wand), info)
    said = (info.contents.reason or b"") + b" " + (info.contents.description or b"")
    libmagick.DestroyExceptionInfo(info)
    return said + b" " + _wand_warning(image)


def _wand_warning(image: Image) -> bytes:
    severity = ctypes.c_int()
    text = library.MagickGetException(image.wand, ctypes.byref(severity))
    try:
        return ctypes.string_at(text) if text else b""
    finally:
        library.MagickRelinquishMemory(text)


def _check_decoded(image: Image, header: Header, scale: int) -> None:
    """Raise BadImageError unless what was decoded has the size announced.

    ImageMagick can return an image without pixels and no error.
    """
    if len(image.sequence) != 1:
        raise BadImageError("the image can't be decoded")
    width, height = image.size
    if header.format.kind in {"gif", "webp"}:  # a frame: smaller than its canvas
        good = 0 < width <= header.size.width and 0 < height <= header.size.height
    else:
        slack = _HEIF_ROUNDING if header.format.kind in {"avif", "heic"} else 0
        wanted = (-(-header.size.width // scale), -(-header.size.height // scale))
        good = (
            min(width, height) > 0
            and abs(width - wanted[0]) <= slack
            and abs(height - wanted[1]) <= slack
        )
    if not good:
        raise BadImageError("the image has another size than its header says")


def _canvas(image: Image) -> None:
    """Lay the first frame of an animation on its canvas."""
    page = image.page
    if page[:2] != (0, 0) and (page[:2] != image.size or page[2:] != (0, 0)):
        image.alpha_channel = True
        image.coalesce()
    library.MagickResetImagePage(image.wand, None)


def _approach(image: Image, header: Header, target: Size) -> None:
    """Bring a picture much larger than *target* near to it by plain averaging."""
    stored = _stored(header, target)
    factor = min(image.width / stored.width, image.height / stored.height)
    if header.format.kind != "jpg" and factor > _SCALE_FROM:
        factor /= _SCALE_TO
        image.scale(round(image.width / factor), round(image.height / factor))


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
    profile = next(
        (image.profiles[n] for n in ("icc", "icm") if n in image.profiles), b""
    )
    if profile and not colours.is_srgb(profile) and len(profile) <= colours.MAX_PROFILE:
        if library.MagickProfileImage(
            image.wand, b"icc", colours.SRGB, len(colours.SRGB)
        ):
            return
        # A damaged profile, or one of another kind of picture, says nothing.
        library.MagickClearException(image.wand)
    space = COLORSPACE_TYPES[library.MagickGetImageColorspace(image.wand)]
    if space not in _PLAIN_SPACES:
        image.transform_colorspace("srgb")


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


def _encode(image: Image, row: Format) -> bytes:
    if row.kind == "gif":
        image.quantize(_GIF_COLOURS, "srgb", 0, False, False)
    elif row.kind == "tif":
        image.compression = "lzw"
    image.format = row.coder
    body: bytes | None = image.make_blob()
    if not body:
        raise DeriveError(f"the image can't be encoded as {row.kind}")
    return body
