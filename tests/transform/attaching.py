"""Metadata of every sort, put into originals by exiftool or by hand."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

from pictures import encode, quarters
from PIL import Image
from transform.samples import KINDS

SECRET = "whereabouts"
"""Stands in everything that is not told by default."""

TAGS = (
    "-Artist=Jürgen Groß",
    "-Copyright=© Me 2024",
    "-Make=Cam",
    "-Model=X1",
    "-LensModel=50mm",
    "-Software=Shop 1.0",
    "-ImageDescription=Ein Bäumchen",
    "-ExposureTime=1/200",
    "-FNumber=2.8",
    "-ISO=400",
    "-FocalLength=50",
    "-DateTimeOriginal=2024:05:06 07:08:09",
    "-SubSecTimeOriginal=12",
    "-OffsetTimeOriginal=+09:30",
    "-Rating=4",
    "-XMP:Title=A tree",
    "-XMP:Subject=tree",
    "-XMP:Subject=bush",
    "-Comment=a comment",
    "-UserComment=another",
)
HIDDEN = (
    "-GPSLatitude=34.9",
    "-GPSLatitudeRef=S",
    "-GPSLongitude=117.5",
    "-GPSLongitudeRef=E",
    "-GPSAltitude=12.5",
    "-GPSAltitudeRef#=1",
    f"-XMP:City={SECRET}",
    f"-IPTC:City={SECRET}",
    f"-XMP:Location={SECRET}",
    f"-SerialNumber={SECRET}",
    f"-LensSerialNumber={SECRET}",
    f"-XMP-aux:SerialNumber={SECRET}",
    f"-OwnerName={SECRET}",
    f"-XMP-aux:OwnerName={SECRET}",
    f"-IPTC:Contact={SECRET}",
    f"-ImageUniqueID={SECRET}",
)


def exiftool(*arguments: str) -> str:
    return subprocess.run(
        ["exiftool", *arguments], capture_output=True, text=True, check=True
    ).stdout


def tagged(file: Path, body: bytes, tags: Sequence[str] = (*TAGS, *HIDDEN)) -> bytes:
    """Return the original *body* with *tags*; *file* gets it too."""
    file.write_bytes(body)
    exiftool(
        "-q", "-m", "-overwrite_original", "-codedcharacterset=utf8", *tags, str(file)
    )
    return file.read_bytes()


def jpeg_with(marker: int, content: bytes) -> bytes:
    """Return a JPEG with *content* in as many segments as it takes."""
    body, parts = KINDS["jpg"], b""
    for at in range(0, len(content), 65_000):
        part = content[at : at + 65_000]
        parts += bytes((0xFF, marker)) + struct.pack(">H", len(part) + 2) + part
    return body[:2] + parts + body[2:]


def jpeg_with_exif(tiff: bytes) -> bytes:
    return jpeg_with(0xE1, b"Exif\0\0" + tiff[:65_000])


def png_with_exif(tiff: bytes) -> bytes:
    """PNG, unlike JPEG, holds EXIF of any length."""
    return encode(Image.new("RGB", (8, 8)), "PNG", exif=tiff)


def webp_with_xmp(packet: bytes) -> bytes:
    return encode(quarters(16, 16), "WEBP", xmp=packet)


def directory(*entries: tuple[int, int, int, bytes]) -> bytes:
    """Return a TIFF of one directory: tag, type, count, and four bytes of each."""
    body = b"".join(struct.pack("<HHI", *e[:3]) + e[3] for e in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + body + bytes(4)


def xmp(inside: str, attributes: str = "") -> bytes:
    spaces = {
        "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
        "dc": "http://purl.org/dc/elements/1.1/",
        "xmp": "http://ns.adobe.com/xap/1.0/",
        "photoshop": "http://ns.adobe.com/photoshop/1.0/",
        "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
        "cc": "http://creativecommons.org/ns#",
    }
    names = " ".join(f'xmlns:{name}="{uri}"' for name, uri in spaces.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {names}>'
        f'<rdf:Description rdf:about="" {attributes}>{inside}</rdf:Description>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()
