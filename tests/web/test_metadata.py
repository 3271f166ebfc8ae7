"""Derived images carry nothing of what was attached to the original."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest_asyncio
from pictures import encode, jpeg, quarters
from servers import Client

from image_repo.formats import FORMATS

MARKER = "whereabouts"
TAGS = [
    f"-{tag}={MARKER}"
    for tag in (
        "Artist",
        "Copyright",
        "Comment",
        "SerialNumber",
        "XMP:Creator",
        "IPTC:Keywords",
        "XMP:Location",
        "ImageDescription",
        "OwnerName",
    )
] + ["-GPSLatitude=34.9", "-GPSLatitudeRef=S", "-Make=Camera", "-Orientation#=1"]
STRUCTURE = {
    "ExifTool",
    "System",
    "File",
    "JFIF",
    "PNG",
    "RIFF",
    "GIF",
    "Composite",
    "QuickTime",
    "Meta",
    "ItemProp",
    "IFD0",
    "SourceFile",
}
"""Groups in which exiftool tells of the format itself; TIFF keeps its own in IFD0."""


ORIGINALS = {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP"}


def exiftool(*arguments: str) -> str:
    return subprocess.run(
        ["exiftool", *arguments], capture_output=True, text=True, check=True
    ).stdout


@pytest_asyncio.fixture
async def told(client: Client, tmp_path: Path) -> Client:
    """A server with images that tell a lot."""
    thumbnail = tmp_path / "thumbnail.jpg"
    thumbnail.write_bytes(jpeg(16, 12))
    for name, kind in ORIGINALS.items():
        file = tmp_path / f"full.{name}"
        file.write_bytes(encode(quarters(90, 60), kind))
        preview = [f"-ThumbnailImage<={thumbnail}"] if name == "jpg" else []
        exiftool("-q", "-m", *TAGS, *preview, str(file))
        body = file.read_bytes()
        assert MARKER.encode() in body
        assert (await client.put(f"/images/{name}", data=body)).status == 201
    return client


async def test_no_kind_made_from_any_other_tells_anything(
    told: Client, tmp_path: Path
) -> None:
    files = []
    for original in ORIGINALS:
        for row in FORMATS:
            if not row.served:
                continue
            answer = await told.get(f"/images/{original}.{row.kind}?w=60")
            files.append(tmp_path / f"from-{original}.{row.kind}")
            files[-1].write_bytes(await answer.read())

    told_of = json.loads(exiftool("-j", "-a", "-G1", "-s", *map(str, files)))

    assert len(told_of) == len(files) == 28
    for file, found in zip(files, told_of, strict=True):
        tags = {tag.rpartition(":")[2]: tag.partition(":")[0] for tag in found}
        assert set(tags.values()) <= STRUCTURE, (file.name, tags)
        assert not [t for t in tags if t.startswith(("GPS", "Make", "Thumbnail"))]
        assert found.get("IFD0:Orientation", "Horizontal (normal)").startswith("Hor")
        assert MARKER not in json.dumps(found)
        assert MARKER.encode() not in file.read_bytes()
