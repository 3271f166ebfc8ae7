"""Many images in one request: zips, lists of temporary URLs, metadata."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import subprocess
import time
import zipfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from hypothesis import given
from pictures import decode, jpeg
from servers import Client, Start
from strategies import image_names
from yarl import URL

from image_repo.config import Config
from image_repo.errors import BadImageError
from image_repo.formats import by_kind
from image_repo.levels import Derived
from image_repo.names import DerivedName, ImageName
from image_repo.stores.disk import DirectoryStore
from image_repo.transform.pool import Pool
from image_repo.web import streams
from image_repo.web.archive import _Archive, entry_name
from image_repo.web.handlers import ROOM, Room

NAMES = ("plots/site-7", "plots/site-8", "plots/deep/er", "plots", "other/x")


def room(client: Client) -> Room:
    assert client.app is not None
    return client.app[ROOM]


async def put(client: Client, *names: str, body: bytes = b"") -> None:
    for name in names:
        url = URL(f"/images/{quote(name)}", encoded=True)
        answer = await client.put(url, data=body or jpeg(60, 40))
        assert answer.status in {200, 201}, await answer.text()


async def put_broken(config: Config, *names: str) -> None:
    """Put what is no image, as no upload could, but other tools can."""
    async with DirectoryStore(Path(config.data) / "originals") as store:
        for name in names:
            await store.put(name, io.BytesIO(b"no image"), media_type="image/jpeg")


async def get(client: Client, path: str, **more: Any) -> aiohttp.ClientResponse:
    return await client.get(URL(f"/images/{path}", encoded=True), **more)


async def zipped(client: Client, path: str) -> zipfile.ZipFile:
    answer = await get(client, path)
    assert answer.status == 200, await answer.text()
    assert answer.content_type == "application/zip"
    found = zipfile.ZipFile(io.BytesIO(await answer.read()))
    assert found.testzip() is None
    return found


def manifest(found: zipfile.ZipFile) -> list[dict[str, Any]]:
    assert found.namelist()[-1] == "manifest.json"
    records: list[dict[str, Any]] = json.loads(found.read("manifest.json"))
    return records


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not done():
            await asyncio.sleep(0.01)


# Zips


async def test_everything_below_a_path_comes_as_a_zip(client: Client) -> None:
    await put(client, *NAMES)

    found = await zipped(client, "plots/?w=30&kind=png")

    assert found.namelist() == [
        "plots/deep/er.png",
        "plots/site-7.png",
        "plots/site-8.png",
        "manifest.json",
    ]
    for entry in found.namelist()[:-1]:
        picture = decode(found.read(entry))
        assert (picture.size, picture.format) == ((30, 20), "PNG")
    assert {entry.compress_type for entry in found.infolist()} == {zipfile.ZIP_STORED}


async def test_a_zip_is_a_stream_that_names_itself(client: Client) -> None:
    await put(client, "a/säge 7/x", "a/säge 7/y")

    answer = await get(client, "a/s%C3%A4ge%207/")
    head = await client.head(URL("/images/a/s%C3%A4ge%207/", encoded=True))

    assert answer.headers["Content-Disposition"] == (
        "attachment; filename=\"s%C3%A4ge 7.zip\"; filename*=UTF-8''s%C3%A4ge%207.zip"
    )
    assert answer.headers["Cache-Control"] == "no-store"
    assert "Content-Length" not in answer.headers
    assert (head.status, await head.read()) == (200, b"")
    for name in ("Content-Type", "Content-Disposition", "Cache-Control"):
        assert head.headers[name] == answer.headers[name]


async def test_the_manifest_says_what_is_in_the_zip(client: Client) -> None:
    await put(client, *NAMES)

    found = await zipped(client, "plots/?w=30")

    records = manifest(found)
    assert [record["name"] for record in records] == [
        "plots/deep/er",
        "plots/site-7",
        "plots/site-8",
    ]
    for record in records:
        body = found.read(record["entry"])
        assert record == {
            "name": record["name"],
            "path": f"/images/{record['name']}/_/w_30.jpg",
            "entry": f"{record['name']}.jpg",
            "bytes": len(body),
            "sha256": hashlib.sha256(body).hexdigest(),
            "media_type": "image/jpeg",
        }
        assert await (await client.get(record["path"])).read() == body


async def test_what_cannot_be_made_is_told_and_ends_nothing(
    client: Client, config: Config
) -> None:
    await put(client, "a/1", "a/4")
    await put_broken(config, "a/2", "a/3")

    found = await zipped(client, "a/")

    assert found.namelist() == ["a/1.jpg", "a/4.jpg", "manifest.json"]
    _, second, third, _ = manifest(found)
    for record in (second, third):
        assert set(record) == {"name", "path", "error"}
        assert record["error"]["status"] == 422
        assert record["error"]["detail"]


async def test_the_same_images_are_the_same_zip(client: Client) -> None:
    await put(client, *NAMES)

    first = await (await get(client, "plots/")).read()
    again = await (await get(client, "plots/")).read()

    assert first == again


async def test_any_program_can_unpack_a_zip(client: Client, tmp_path: Path) -> None:
    await put(client, *NAMES, "plots/ü %25 'x'", "plots/a\\..\\..\\b")
    (tmp_path / "found.zip").write_bytes(await (await get(client, "plots/")).read())

    def unzip(*arguments: str) -> int:
        command = ["unzip", "-q", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=False).returncode

    assert await asyncio.to_thread(unzip, "-t", "found.zip") == 0
    assert await asyncio.to_thread(unzip, "found.zip") == 0
    unpacked = tmp_path / "plots" / "site-7.jpg"
    assert unpacked.stat().st_mode & 0o777 == 0o644
    assert decode(unpacked.read_bytes()).size == (60, 40)
    assert (tmp_path / "plots" / "a%5C..%5C..%5Cb.jpg").is_file()
    assert (tmp_path / "plots" / "ü %2525 'x'.jpg").is_file()


@given(image_names, image_names)
def test_no_two_images_share_an_entry_and_none_leads_out(
    first: ImageName, second: ImageName
) -> None:
    entries = [entry_name(DerivedName(n, (), by_kind("png"))) for n in (first, second)]

    assert (entries[0] == entries[1]) == (first == second)
    for entry in entries:
        assert not entry.startswith("/")
        assert not {"", ".", ".."} & set(entry.replace("\\", "/").split("/"))
        assert "\\" not in entry


@pytest.mark.parametrize("below", ["x.png/y", "x.PNG/y", "x.png/y.png/z"])
def test_no_entry_is_a_folder_of_another(below: str) -> None:
    entry, other, escaped = (
        entry_name(DerivedName(ImageName(name), (), by_kind("png")))
        for name in ("x", below, below.replace(".", "%2E"))
    )

    assert not other.lower().startswith(f"{entry}/")
    assert other != escaped


def test_entries_of_names_that_look_escaped_differ() -> None:
    names = ["a\\b", "a%5Cb", "a%255Cb", "a%25b", "a%b", "%", "\\", "%2\\5"]

    entries = {entry_name(DerivedName(ImageName(n), (), by_kind("png"))) for n in names}

    assert len(entries) == len(names)
    assert "a%b.png" in entries


@pytest.mark.parametrize("limit", ["ZIP64_LIMIT", "ZIP_FILECOUNT_LIMIT"])
def test_a_zip_that_is_too_large_for_the_old_form_has_the_new_one(
    limit: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The limits are lowered: 4 GiB and 65535 entries take too long."""
    monkeypatch.setattr(zipfile, limit, 3)
    archive = _Archive()
    pieces = []
    names = [DerivedName(ImageName(f"a/{n}"), (), by_kind("png")) for n in range(6)]
    for n, name in enumerate(names[:5]):
        pieces += archive.add(name, Derived(b"body of %d" % n, "image/png"))
    pieces += archive.add(names[5], BadImageError("broken"))
    pieces += archive.end()
    body = b"".join(pieces)

    assert b"PK\x06\x06" in body
    file = tmp_path / "found.zip"
    file.write_bytes(body)
    assert subprocess.run(["unzip", "-tq", str(file)], check=False).returncode == 0
    with zipfile.ZipFile(file) as found:
        assert found.read("a/4.png") == b"body of 4"


def test_a_zip_keeps_nothing_of_what_was_taken() -> None:
    archive = _Archive()
    names = [DerivedName(ImageName(n), (), by_kind("png")) for n in "abc"]

    sizes = [
        sum(map(len, archive.add(name, Derived(b"x" * 1000, "image/png"))))
        for name in names
    ]

    assert len(set(sizes)) == 1
    assert sizes[0] < 1100


# Choosing


async def test_one_match_comes_as_itself(client: Client) -> None:
    await put(client, *NAMES)

    one = await get(client, "plots?regex=site-7&w=30&kind=webp")
    same = await client.get("/images/plots/site-7/_/w_30.webp")

    assert (one.status, one.content_type) == (200, "image/webp")
    assert await one.read() == await same.read()
    for name in ("ETag", "Content-Location", "Link", "Cache-Control"):
        assert one.headers[name] == same.headers[name]
    known = {"If-None-Match": one.headers["ETag"]}
    again = await get(client, "plots?regex=site-7&w=30&kind=webp", headers=known)
    assert again.status == 304


async def test_behind_nginx_one_match_is_sent_to_its_canonical_path(
    client: Client,
) -> None:
    room(client).behind_nginx = True
    await put(client, *NAMES)

    one = await get(client, "plots/?regex=site-7&w=30")

    redirect = one.headers["X-Accel-Redirect"]
    assert redirect == "/_c/images/plots/site-7/_/w_30.jpg"


async def test_a_regex_is_searched_in_full_names(client: Client) -> None:
    await put(client, "b/säge/1", "b/säge/2", "b/x", "b/y")

    for regex, found in (
        ("s%C3%A4ge", ["b/säge/1", "b/säge/2"]),
        ("%5Eb%2F%5Bxy%5D%24", ["b/x", "b/y"]),
        ("s(.)ge%2F", ["b/säge/1", "b/säge/2"]),
        ("sa%CC%88ge", ["b/säge/1", "b/säge/2"]),
    ):
        for path in ("b", "b/"):
            records = manifest(await zipped(client, f"{path}?regex={regex}"))
            assert [record["name"] for record in records] == found


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("plots/none/", 404, "no image below 'plots/none'"),
        ("other/x/", 404, "no image below"),
        ("plots/?regex=none", 404, "in whose name the regex is found"),
        ("plots/?regex=none&url=True", 404, "no image"),
        ("plots/?regex=none&meta=True", 404, "no image"),
        ("plots/?regex=(", 400, "parameter 'regex'"),
        ("plots/?regex=(%3F%3D7)", 400, "without lookaround"),
        ("plots/?regex=a%7B999%7D", 400, "parameter 'regex'"),
        ("plots/?regex=%ff", 400, "UTF-8"),
        ("plots/?url=True&meta=True", 400, "together"),
        ("plots/?kind=heic", 400, "kind"),
    ],
)
async def test_what_cannot_be_answered_says_why(
    client: Client, path: str, status: int, reason: str
) -> None:
    await put(client, *NAMES)

    answer = await get(client, path)

    assert answer.status == status
    assert answer.content_type == "application/problem+json"
    assert reason in (await answer.json())["detail"]


async def test_more_than_may_be_chosen_are_refused(
    start: Start, config: Config
) -> None:
    client = await start(replace(config, http=replace(config.http, selected=2)))
    await put(client, *NAMES)

    refused = await get(client, "plots/")

    assert refused.status == 400
    assert "more than 2 images" in (await refused.json())["detail"]
    assert len(manifest(await zipped(client, "plots/?regex=site"))) == 2


async def test_a_form_can_still_be_uploaded_into_a_path(client: Client) -> None:
    await put(client, *NAMES)
    form = aiohttp.FormData()
    form.add_field("file", jpeg(), filename="new.jpg")

    answer = await client.post("/images/plots/", data=form)

    assert answer.status == 201
    assert (await answer.json())["name"] == "plots/new"


# Links and metadata


async def test_links_to_all_come_as_a_list(client: Client, config: Config) -> None:
    await put(client, *NAMES)
    await put_broken(config, "plots/site-0")

    answer = await get(client, "plots/?url=True&regex=site&w=30")

    assert answer.content_type == "application/json"
    broken, *made = await answer.json()
    assert broken["name"] == "/images/plots/site-0/_/w_30.jpg"
    assert broken["error"]["status"] == 422
    assert [link["name"] for link in made] == [
        "/images/plots/site-7/_/w_30.jpg",
        "/images/plots/site-8/_/w_30.jpg",
    ]
    for link in made:
        assert set(link) == {"name", "url", "expires"}
        followed = await client.get(URL(link["url"], encoded=True))
        assert decode(await followed.read()).size == (30, 20)


async def test_a_link_to_one_match_is_a_list_too(client: Client) -> None:
    await put(client, *NAMES)

    (link,) = await (await get(client, "plots/?url=True&regex=site-7")).json()

    assert link["name"] == "/images/plots/site-7/_/full.jpg"


async def test_metadata_of_all_comes_by_their_names(
    client: Client, config: Config
) -> None:
    await put(client, *NAMES)
    await put_broken(config, "plots/site-0")

    found = await (await get(client, "plots/?meta=True&regex=site")).json()
    one = await (await get(client, "plots/?meta=True&regex=site-7")).json()

    assert list(found) == ["plots/site-0", "plots/site-7", "plots/site-8"]
    assert found["plots/site-0"]["error"]["status"] == 422
    alone = await (await get(client, "plots/site-7?meta=True")).json()
    assert found["plots/site-7"] == alone
    assert one == {"plots/site-7": alone}


# Beside others


async def test_only_so_many_are_sent_at_once(start: Start, config: Config) -> None:
    client = await start(replace(config, http=replace(config.http, archives=1)))
    await put(client, *NAMES)

    with room(client).batches.begun():
        for path in ("plots/", "plots/?url=1", "plots/?meta=1"):
            refused = await get(client, path)
            assert refused.status == 503
            assert int(refused.headers["Retry-After"]) >= 1
        assert (await get(client, "plots/?regex=site-7")).status == 200

    assert (await get(client, "plots/")).status == 200


async def fill(client: Client, count: int) -> None:
    for n in range(count):
        await put(client, f"many/{n:03}", body=jpeg(900, 700))


async def test_a_client_that_leaves_stops_the_work(client: Client, pool: Pool) -> None:
    await fill(client, 60)
    before = pool.derivations

    answer = await get(client, "many/?kind=png")
    await answer.content.readany()
    answer.close()
    left = time.monotonic()
    await until(lambda: room(client).batches._free == 8)
    assert time.monotonic() - left < 1
    made = pool.derivations
    await asyncio.sleep(0.5)

    assert pool.derivations <= made + 1
    assert made - before < 60


async def test_a_client_that_reads_nothing_holds_up_only_itself(
    client: Client, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "PATIENCE", 0.5)
    await fill(client, 60)
    before = pool.derivations

    reader, writer = await asyncio.open_connection(
        client.host, client.port or 0, limit=2**10
    )
    writer.write(b"GET /images/many/?kind=bmp HTTP/1.1\r\nHost: x\r\n\r\n")
    await until(lambda: room(client).batches._free == 7)
    await until(lambda: room(client).batches._free == 8)

    assert pool.derivations - before < 60
    assert b"200 OK" in await reader.readline()
    writer.close()


async def test_single_images_do_not_wait_behind_an_archive(
    client: Client, pool: Pool
) -> None:
    await fill(client, 100)
    before = pool.derivations

    async def archive() -> int:
        return len(manifest(await zipped(client, "many/?w=500&kind=png")))

    async def timed(work: Awaitable[aiohttp.ClientResponse]) -> float:
        begun = time.perf_counter()
        answer = await work
        assert answer.status == 200
        await answer.read()
        return time.perf_counter() - begun

    alone = [await timed(get(client, f"many/{n:03}?w=400")) for n in range(5)]
    running = asyncio.create_task(archive())
    await until(lambda: pool.derivations > before + 7)
    beside = [await timed(get(client, f"many/{n:03}?w=401")) for n in range(10)]
    assert not running.done()
    running.cancel()

    # One derivation of the archive may be ahead, and shares the processor.
    assert sorted(beside)[5] < 5 * sorted(alone)[2] + 0.1
