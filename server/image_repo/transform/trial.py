"""ImageMagick tried before it is trusted: what it writes, and what it refuses."""

from __future__ import annotations

from wand.api import library
from wand.exceptions import WandException
from wand.image import Image
from wand.version import MAGICK_VERSION, QUANTUM_DEPTH

from image_repo.formats import Format

_SIDE = 4
_SAMPLE = b"push graphic-context\nviewbox 0 0 4 4\npop graphic-context\n"


def version() -> str:
    """Return ImageMagick's name, version and build, in one line."""
    return f"{MAGICK_VERSION} Q{QUANTUM_DEPTH}"


def can_read(coder: str) -> bool:
    """Return whether ImageMagick makes an image of a text by that coder."""
    with Image() as image:
        try:
            library.MagickSetFilename(image.wand, f"{coder}:x".encode())
            library.MagickReadImageBlob(image.wand, _SAMPLE, len(_SAMPLE))
        finally:
            library.MagickClearException(image.wand)
        return bool(image.width)


def can_write(row: Format) -> bool:
    """Return whether an image can be written in that format, and really was."""
    try:
        with Image(width=_SIDE, height=_SIDE) as image:
            image.format = row.coder
            body = image.make_blob()
    except (WandException, ValueError):
        return False
    return bool(body) and row.magic is not None and bool(row.magic.match(body))


def load(row: Format) -> None:
    """Let ImageMagick load the coder of that format, which it does on first use."""
    with Image() as image:
        try:
            library.MagickSetFilename(image.wand, row.coder.lower().encode() + b":x")
            library.MagickReadImageBlob(image.wand, _SAMPLE, len(_SAMPLE))
        finally:
            library.MagickClearException(image.wand)
