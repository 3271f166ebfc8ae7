"""From an original's bytes to pixels, none of which may be missing.

Runs in a worker only: it loads ImageMagick.
"""

from __future__ import annotations

import ctypes

from wand.api import libmagick, library
from wand.exceptions import CacheError, ResourceLimitError, WandException
from wand.image import COLORSPACE_TYPES, STORAGE_TYPES, Image

from image_repo.errors import BadImageError, TooLargeError
from image_repo.geometry import Size
from image_repo.transform.headers import Header, pixels_only
from image_repo.transform.reduced import reduced_size

library.MagickSetFilename.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
library.MagickResetImagePage.argtypes = (ctypes.c_void_p, ctypes.c_char_p)
library.MagickGetImageColorspace.argtypes = (ctypes.c_void_p,)

CHAR = STORAGE_TYPES.index("char")
"""A sample of eight bits, to ImageMagick."""

_HEIF_ROUNDING = 1  # pixels by which libheif may crop otherwise than written

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


def decode(image: Image, data: bytes, header: Header, scale: int) -> None:
    """Read the first frame at 1/*scale* of its size, on its canvas.

    Args:
        image: An empty one.
        data: The whole original.
        header: Of it; says the one coder that is used.
        scale: One of `image_repo.geometry.SCALES`.

    Raises:
        BadImageError: Pixels are missing, or it is another image than *header* says.
        TooLargeError: There is not memory enough.
    """
    in_decoder = scale if header.format.kind == "jpg" else 1
    if header.format.kind == "jpg":
        # ImageMagick asks libjpeg for 1/n with n = size / hint, rounded down.
        hint = (side / (scale + 0.25) for side in header.size)
        image.options["jpeg:size"] = "x".join(f"{side:.3f}" for side in hint)
    data = pixels_only(data, header)
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
    _check_decoded(image, header, in_decoder)
    if header.profile:
        image.profiles["icc"] = header.profile
    _canvas(image)
    if scale > in_decoder:
        image.scale(*reduced_size(Size(*image.size), scale))
    elif scale > 1 and space(image) == "gray":
        _forget_palette(image)


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
        wanted = reduced_size(header.size, scale)
        good = (
            min(width, height) > 0
            and abs(width - wanted.width) <= slack
            and abs(height - wanted.height) <= slack
        )
    if not good:
        raise BadImageError("the image has another size than its header says")


def space(image: Image) -> str:
    """Return ImageMagick's word for the colour space; Wand does not know them all."""
    return str(COLORSPACE_TYPES[library.MagickGetImageColorspace(image.wand)])


def _canvas(image: Image) -> None:
    """Lay the first frame of an animation on its canvas."""
    page = image.page
    if page[:2] != (0, 0) and (page[:2] != image.size or page[2:] != (0, 0)):
        image.alpha_channel = True
        image.coalesce()
    library.MagickResetImagePage(image.wand, None)


def _forget_palette(image: Image) -> None:
    """Let a grey JPEG be a picture without palette, which BMP would write otherwise.

    A reduced picture that was kept has none, and must give the same bytes.
    """
    pixel = (ctypes.c_char * 1)()
    library.MagickExportImagePixels(image.wand, 0, 0, 1, 1, b"I", CHAR, pixel)
    library.MagickImportImagePixels(image.wand, 0, 0, 1, 1, b"I", CHAR, pixel)
