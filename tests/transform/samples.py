"""Originals of every kind that is read, and files that only look like one."""

from __future__ import annotations

import io
import struct
import tempfile
import zlib
from typing import BinaryIO

import pillow_heif
from pictures import encode, quarters
from PIL import Image, ImageCms

SIZE = (64, 48)


def psd(picture: Image.Image) -> bytes:
    width, height = picture.size
    planes = b"".join(band.tobytes() for band in picture.convert("RGB").split())
    header = b"8BPS" + struct.pack(">H6xHIIHH", 1, 3, height, width, 8, 3)
    return header + bytes(12) + struct.pack(">H", 0) + planes


def heic(picture: Image.Image, **options: object) -> bytes:
    out = io.BytesIO()
    pillow_heif.from_pillow(picture).save(out, quality=90, **options)
    return out.getvalue()


def every_kind(picture: Image.Image) -> dict[str, bytes]:
    """Return the picture in each kind that is read, and their usual variants."""
    return {
        "jpg": encode(picture, "JPEG", quality=95, subsampling=0),
        "jpg-progressive": encode(picture, "JPEG", quality=95, progressive=True),
        "png": encode(picture, "PNG"),
        "gif": encode(picture, "GIF"),
        "webp": encode(picture, "WEBP", quality=95),
        "webp-lossless": encode(picture, "WEBP", lossless=True),
        "tif": encode(picture, "TIFF"),
        "tif-lzw": encode(picture, "TIFF", compression="tiff_lzw"),
        "tif-deflate": encode(picture, "TIFF", compression="tiff_adobe_deflate"),
        "bmp": encode(picture, "BMP"),
        "avif": encode(picture, "AVIF", quality=90),
        "heic": heic(picture),
        "psd": psd(picture),
    }


KINDS = every_kind(quarters(*SIZE))

P3 = (
    (0.51512, 0.2412, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.1571, 0.06657, 0.78407),
)
ADOBE = (
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
)


def profile(primaries: tuple[tuple[float, float, float], ...], gamma: float) -> bytes:
    """Return an ICC profile of a display with these primaries, adapted to D50."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    curve = b"curv\0\0\0\0" + struct.pack(">IH2x", 1, round(gamma * 256))
    text = b"text\0\0\0\0none\0\0\0\0"
    desc = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(79)
    tags = {
        b"desc": desc,
        b"cprt": text,
        b"wtpt": xyz((0.9642, 1.0, 0.8249)),
        **dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(xyz, primaries), strict=True)),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, body, at = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, tag in tags.items():
        table += struct.pack(">4sII", name, at + len(body), len(tag))
        body += tag
    head = struct.pack(
        ">I4xI4s4s4s12x4s",
        at + len(body),
        0x02400000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        b"acsp",
    )
    head = head.ljust(68, b"\0") + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def as_srgb(picture: Image.Image, icc: bytes) -> Image.Image:
    """Return what the picture shows, in sRGB, by LittleCMS."""
    found = ImageCms.profileToProfile(
        picture,
        ImageCms.ImageCmsProfile(io.BytesIO(icc)),
        ImageCms.createProfile("sRGB"),
    )
    assert found is not None
    return found


def exif(orientation: int) -> bytes:
    """Return EXIF data with an orientation, a place and a comment."""
    data = Image.Exif()
    data[0x0112] = orientation
    data[0x010F] = "SECRETMAKER"
    data.get_ifd(0x8825).update(
        {1: "N", 2: (51.0, 30.0, 0.0), 3: "E", 4: (7.0, 0.0, 0.0)}
    )
    return data.tobytes()


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def opened(data: bytes) -> BinaryIO:
    """Return a real file with *data*."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    file.write(data)
    file.flush()
    return file
