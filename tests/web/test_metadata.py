"""What is told of originals, and that derived images tell nothing of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp.test_utils import TestClient, TestServer
from pictures import decode, jpeg
from servers import CONFINED, Client, Start
from transform.attaching import HIDDEN, SECRET, exiftool, tagged
from transform.samples import KINDS

from image_repo import assemble, names
from image_repo.config import Config
from image_repo.formats import FORMATS
from image_repo.modifiers import RenderOptions
from image_repo.transform.fields import FIELDS, MetadataOptions
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app
from image_repo.web.handlers import ROOM

SERVED = [row.kind for row in FORMATS if row.served]
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

NEVER = ("GPS", "Make", "Model", "Thumbnail", "Preview", "Artist", "Copyright", "Comm")
"""Beginnings of tags that no derived image has."""

ORIGINALS = ("jpg", "png", "tif", "webp", "gif", "psd", "heic", "avif")
MARKED = (
    "Artist",
    "Copyright",
    "Comment",
    "UserComment",
    "Software",
    "ImageDescription",
    "IPTC:By-line",
    "IPTC:Keywords",
    "XMP:Creator",
    "XMP:Description",
    "XMP:Title",
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Images full of metadata, of every kind that holds some."""
    folder = tmp_path_factory.mktemp("originals")
    thumbnail = folder / "thumbnail.jpg"
    thumbnail.write_bytes(jpeg(16, 12))
    found = {}
    for kind in ORIGINALS:
        tags = [*HIDDEN, *(f"-{tag}={SECRET}" for tag in MARKED), "-Make=Camera"]
        if kind == "jpg":
            tags.append(f"-ThumbnailImage<={thumbnail}")
        found[kind] = tagged(folder / f"x.{kind}", KINDS[kind], tags)
        assert SECRET.encode() in found[kind]
    return found


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A photograph that says all that can be told."""
    file = tmp_path_factory.mktemp("photo") / "x.jpg"
    return tagged(file, jpeg(300, 200))


async def put(client: Client, name: str, body: bytes) -> None:
    assert (await client.put(f"/images/{name}", data=body)).status in {200, 201}


# -- of derived images -----------------------------------------------------------------


def told_of(files: list[Path]) -> list[dict[str, object]]:
    found = json.loads(exiftool("-j", "-a", "-G1", "-s", *map(str, files)))
    assert isinstance(found, list)
    return found


async def test_no_kind_made_from_any_other_tells_anything(
    client: Client, originals: dict[str, bytes], tmp_path: Path
) -> None:
    files = []
    for original, body in originals.items():
        await put(client, original, body)
        for kind in SERVED:
            answer = await client.get(f"/images/{original}.{kind}?w=60")
            assert answer.status == 200
            files.append(tmp_path / f"from-{original}.{kind}")
            files[-1].write_bytes(await answer.read())

    found = told_of(files)

    assert len(found) == len(files) == len(ORIGINALS) * len(SERVED)
    for file, tags in zip(files, found, strict=True):
        names = {tag.rpartition(":")[2]: tag.partition(":")[0] for tag in tags}
        assert set(names.values()) <= STRUCTURE, (file.name, names)
        assert not [name for name in names if name.startswith(NEVER)]
        assert str(tags.get("IFD0:Orientation", "Horizontal")).startswith("Hor")
        assert SECRET not in json.dumps(tags)
        assert SECRET.encode() not in file.read_bytes()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def keeping() -> AsyncIterator[Pool]:
    """Workers that keep artist and copyright."""
    config = Config(render=RenderOptions(keep_credit=True))
    options = replace(config.workers, count=1)
    async with Pool(options, config.limits, config.render, confined=CONFINED) as pool:
        yield pool


async def test_artist_and_copyright_alone_are_kept_where_configured(
    keeping: Pool, config: Config, photo: bytes, tmp_path: Path
) -> None:
    async with (
        assemble.open_room(config, keeping) as room,
        TestClient(TestServer(make_app(room))) as client,
    ):
        await put(client, "photo", photo)
        files = []
        for kind in SERVED:
            answer = await client.get(f"/images/photo.{kind}?w=60")
            body = await answer.read()
            assert decode(body).size == (60, 40)
            files.append(tmp_path / f"kept.{kind}")
            files[-1].write_bytes(body)
        found = dict(zip(SERVED, told_of(files), strict=True))

    for kind, tags in found.items():
        credit = [tags.get("IFD0:Artist"), tags.get("IFD0:Copyright")]
        holds = kind in {"jpg", "png", "webp", "tif"}
        assert credit == (["Jürgen Groß", "© Me 2024"] if holds else [None, None])
        assert {tag.partition(":")[0] for tag in tags} <= STRUCTURE
        others = {"IFD0:Make", "IFD0:Model", "IFD0:Software", "IFD0:ImageDescription"}
        assert not others & tags.keys()
        assert SECRET not in json.dumps(tags)


async def test_to_keep_credit_is_part_of_the_recipe() -> None:
    keeping = Config(render=RenderOptions(keep_credit=True))

    assert keeping.settings_recipe != Config().settings_recipe


# -- of originals ----------------------------------------------------------------------


async def test_metadata_of_an_original_come_as_json(
    client: Client, photo: bytes
) -> None:
    await put(client, "plots/photo", photo)

    answer = await client.get("/images/plots/photo?meta=True")

    assert (answer.status, answer.content_type) == (200, "application/json")
    found = await answer.json()
    assert list(found)[:8] == [
        "name",
        "format",
        "media_type",
        "bytes",
        "width",
        "height",
        "frames",
        "orientation",
    ]
    assert found["name"] == "plots/photo"
    assert found["bytes"] == len(photo)
    assert (found["width"], found["height"]) == (300, 200)
    assert found["taken"] == "2024-05-06T07:08:09.12+09:30"
    assert found["keywords"] == ["tree", "bush"]


async def test_private_metadata_are_told_only_where_configured(
    start: Start, config: Config, photo: bytes
) -> None:
    plain = await start(config)
    await put(plain, "photo", photo)
    told = await (await plain.get("/images/photo?meta=yes")).text()

    reveal = replace(config, metadata=MetadataOptions("location"))
    revealing = await start(reveal)
    more = await (await revealing.get("/images/photo?meta=yes")).json()
    again = await (await plain.get("/images/photo?meta=yes")).text()

    assert SECRET not in told
    assert not [field.name for field in FIELDS if field.group and field.name in told]
    assert (more["latitude"], more["city"]) == (-34.9, SECRET)
    assert not {"owner", "camera_serial"} & more.keys()
    assert again == told


async def test_an_etag_saves_the_answer_until_the_image_is_replaced(
    client: Client, photo: bytes
) -> None:
    await put(client, "photo", photo)
    url = "/images/photo?meta=true"
    first = await client.get(url)
    etag = {"If-None-Match": first.headers["ETag"]}

    same = await client.get(url, headers=etag)
    await put(client, "photo", jpeg(50, 40))
    other = await client.get(url, headers=etag)

    assert (same.status, await same.read()) == (304, b"")
    assert same.headers["ETag"] == first.headers["ETag"]
    assert same.headers["Cache-Control"] == first.headers["Cache-Control"]
    assert first.headers["Cache-Control"].startswith("public, max-age=")
    assert other.status == 200
    assert (await other.json())["width"] == 50


async def test_metadata_are_read_once_for_all_who_ask_and_kept(
    start: Start, config: Config, photo: bytes
) -> None:
    client = await start(config)
    await put(client, "photo", photo)

    answers = await asyncio.gather(
        *(client.get("/images/photo?meta=true") for _ in range(20))
    )
    await asyncio.sleep(0.1)  # until the disk has it
    restarted = await start(config)
    late = await restarted.get("/images/photo?meta=true")

    assert len({await answer.text() for answer in (*answers, late)}) == 1
    assert client.app is not None
    assert restarted.app is not None
    assert client.app[ROOM].service.found["none"] <= 20
    assert restarted.app[ROOM].service.found == {"disk": 1}


async def test_a_delete_forgets_metadata(client: Client, photo: bytes) -> None:
    await put(client, "photo", photo)
    await client.get("/images/photo?meta=true")

    await client.delete("/images/photo")

    assert (await client.get("/images/photo?meta=true")).status == 404


async def test_head_is_get_without_a_body(client: Client, photo: bytes) -> None:
    await put(client, "photo", photo)
    get = await client.get("/images/photo?meta=true")

    head = await client.head("/images/photo?meta=true")

    assert head.headers["Content-Length"] == get.headers["Content-Length"]
    assert await head.read() == b""


@pytest.mark.parametrize(
    "target",
    [
        "photo?meta=true&w=40",
        "photo.png?meta=true",
        "photo/_/full.jpg?meta=true",
        "photo?meta=true&url=true",
        "photo?meta=maybe",
    ],
)
async def test_metadata_take_no_modifiers(
    client: Client, photo: bytes, target: str
) -> None:
    await put(client, "photo", photo)

    assert (await client.get(f"/images/{target}")).status == 400


async def test_no_path_leads_to_what_is_kept(client: Client, photo: bytes) -> None:
    await put(client, "photo", photo)
    await client.get("/images/photo?meta=true")
    assert client.app is not None
    service = client.app[ROOM].service
    image = names.image_name("photo")
    name, tag = service.metadata_name(image), await service.tag(image)

    for path in (
        str(name),
        names.stored_key(name, tag),
        f"photo/_/v_{tag}/{name.text}",
    ):
        assert (await client.get(f"/images/{path}")).status == 400
