"""Sending images, on a server that answers directly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from pictures import decode, encode, jpeg, quarters
from PIL import Image
from servers import Client, Start

from image_repo.config import Config
from image_repo.transform.pool import Pool


def form(
    body: bytes, filename: str = "photo.jpg", field: str = "file"
) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    data.add_field(field, body, filename=filename)
    return data


async def names(client: Client) -> list[str]:
    found: list[str] = await (await client.get("/images")).json()
    return found


@pytest.mark.parametrize("way", ["form", "post", "put"])
async def test_an_upload_is_stored_and_described(client: Client, way: str) -> None:
    body = jpeg(640, 480)
    method = "PUT" if way == "put" else "POST"
    data = form(body) if way == "form" else body

    answer = await client.request(method, "/images/plots/site 7.jpg", data=data)

    assert answer.status == 201
    assert answer.headers["Location"] == "/images/plots/site%207"
    told = await answer.json()
    assert told["name"] == "plots/site 7"
    assert (told["width"], told["height"], told["bytes"]) == (640, 480, len(body))
    assert (told["format"], told["media_type"]) == ("jpg", "image/jpeg")
    assert told["urls"].keys() == told["versioned"].keys()
    for url in (*told["urls"].values(), *told["versioned"].values()):
        shown = await client.get(url, allow_redirects=False)
        assert shown.status == 200
        assert shown.headers["Cache-Tag"] == told["cache_tag"]
    assert all(f"/_/v_{told['tag']}/" in url for url in told["versioned"].values())


async def test_urls_in_answers_begin_with_the_public_address(
    start: Start, config: Config
) -> None:
    public = replace(config.http, public_url="https://img.example.org")
    client = await start(replace(config, http=public))

    answer = await client.put("/images/x", data=jpeg())

    assert answer.headers["Location"] == "https://img.example.org/images/x"
    told = await answer.json()
    for url in (*told["urls"].values(), *told["versioned"].values()):
        assert url.startswith("https://img.example.org/")


async def test_post_to_an_existing_name_is_a_conflict_and_changes_nothing(
    client: Client,
) -> None:
    await client.post("/images/x", data=jpeg(64, 48))

    answer = await client.post("/images/x", data=jpeg(32, 32))

    assert answer.status == 409
    info = await (await client.get("/images/x/_/info.json")).json()
    assert (info["width"], info["height"]) == (64, 48)


async def test_of_many_posts_of_one_name_exactly_one_wins(client: Client) -> None:
    async def post(side: int) -> int:
        return (await client.post("/images/x", data=jpeg(side, side))).status

    statuses = await asyncio.gather(*(post(20 + n) for n in range(20)))

    assert sorted(statuses) == [201] + [409] * 19


async def test_put_replaces_the_whole_image_and_all_made_from_it(
    client: Client,
) -> None:
    await client.put("/images/x", data=jpeg(64, 48))
    before = await client.get("/images/x/_/w_40.png")

    answer = await client.put(
        "/images/x", data=encode(Image.new("RGB", (80, 80), (0, 0, 0)), "PNG")
    )
    after = await client.get("/images/x/_/w_40.png")

    assert answer.status == 200
    assert after.headers["ETag"] != before.headers["ETag"]
    assert decode(await after.read()).convert("RGB").getpixel((5, 5)) == (0, 0, 0)


async def test_delete_removes_the_image_and_all_made_from_it(
    client: Client, tmp_path: Path
) -> None:
    await client.put("/images/x", data=jpeg())
    await client.get("/images/x/_/w_40.png")

    assert (await client.delete("/images/x.jpg")).status == 204

    assert (await client.get("/images/x/_/w_40.png")).status == 404
    assert (await client.delete("/images/x")).status == 404
    assert await names(client) == []
    left = [
        path
        for path in (tmp_path / "data").rglob("*")
        if path.is_file() and path.name not in {"lock", "total", "evicting"}
    ]
    assert left == []


@pytest.mark.parametrize(
    "body",
    [b"hello", b"<svg/>", jpeg()[:-200], jpeg()[:20], b"GIF89a", b"\x00" * 99, b""],
)
@pytest.mark.parametrize("way", ["raw", "form"])
async def test_bytes_that_are_no_image_are_refused_and_not_stored(
    client: Client, body: bytes, way: str
) -> None:
    data = form(body) if way == "form" else body or None

    answer = await client.put("/images/x", data=data)

    assert answer.status == 415
    assert answer.content_type == "application/problem+json"
    assert await names(client) == []


@pytest.mark.parametrize("way", ["raw", "form", "chunked"])
async def test_too_many_bytes_are_refused_and_not_stored(
    start: Start, config: Config, way: str
) -> None:
    limits = replace(config.limits, upload_bytes=2000)
    client = await start(replace(config, limits=limits))
    big = encode(Image.effect_noise((300, 300), 90), "PNG")

    async def chunks() -> AsyncIterator[bytes]:
        yield big

    data = {"raw": big, "form": form(big), "chunked": chunks()}[way]
    answer = await client.put("/images/x", data=data)

    assert answer.status == 413
    assert await names(client) == []


async def test_a_file_sent_to_a_path_keeps_its_own_name(client: Client) -> None:
    answer = await client.post("/images/plots/", data=form(jpeg(), "site 9.JPG"))

    assert answer.status == 201
    assert await names(client) == ["plots/site 9"]


@pytest.mark.parametrize("filename", ["../../etc/x.jpg", "C:\\tmp\\x.jpg"])
async def test_folders_of_the_sender_are_no_part_of_the_name(
    client: Client, filename: str
) -> None:
    await client.post("/images/in/", data=form(jpeg(), filename))

    assert await names(client) == ["in/x"]


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_path_takes_no_raw_writes(client: Client, method: str) -> None:
    answer = await client.request(method, "/images/plots/", data=jpeg())

    assert answer.status == 400


async def test_a_form_has_exactly_one_file(client: Client) -> None:
    none, two = aiohttp.FormData(), form(jpeg(), field="a")
    none.add_field("note", "x", content_type="text/plain")
    two.add_field("b", jpeg(), filename="b.jpg")

    for data in (none, two):
        assert (await client.post("/images/x", data=data)).status == 400
    assert await names(client) == []


async def test_a_malformed_form_is_a_400(client: Client) -> None:
    answer = await client.post(
        "/images/x",
        data=b"nothing",
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )

    assert answer.status == 400


async def test_a_page_of_another_origin_may_not_write(client: Client) -> None:
    for origin in ("https://evil.example", "null", "", "garbage"):
        answer = await client.put("/images/x", data=jpeg(), headers={"Origin": origin})
        assert answer.status == 403
    own = await client.put(
        "/images/x",
        data=jpeg(),
        headers={"Origin": f"http://{client.host}:{client.port}"},
    )

    assert own.status == 201


async def test_a_write_may_depend_on_what_is_there(client: Client) -> None:
    await client.put("/images/x", data=jpeg())

    only_new = await client.put(
        "/images/x", data=jpeg(), headers={"If-None-Match": "*"}
    )
    only_old = await client.put("/images/y", data=jpeg(), headers={"If-Match": "*"})

    assert (only_new.status, only_old.status) == (412, 412)
    assert await names(client) == ["x"]


async def test_a_write_may_depend_on_the_bytes_it_found(client: Client) -> None:
    first = await client.put("/images/x", data=jpeg(20, 20))
    info = await client.get("/images/x/_/info.json")
    known = {"If-Match": first.headers["ETag"]}

    replaced = await client.put("/images/x", data=jpeg(30, 30), headers=known)
    late = await client.put("/images/x", data=jpeg(40, 40), headers=known)
    deleted = await client.delete("/images/x", headers=known)

    assert info.headers["ETag"] == first.headers["ETag"]
    assert (replaced.status, late.status, deleted.status) == (200, 412, 412)


async def test_of_many_writes_of_a_new_name_exactly_one_wins(client: Client) -> None:
    async def put(side: int) -> int:
        answer = await client.put(
            "/images/x", data=jpeg(side, side), headers={"If-None-Match": "*"}
        )
        return answer.status

    statuses = await asyncio.gather(*(put(20 + n) for n in range(8)))

    assert sorted(statuses) == [201] + [412] * 7


async def test_purge_keeps_the_original(client: Client, pool: Pool) -> None:
    await client.put("/images/x", data=encode(quarters(), "PNG"))
    await client.get("/images/x/_/w_40.png")
    derivations = pool.derivations

    answer = await client.post("/images/x/_/purge")

    assert answer.status == 204
    assert (await client.get("/images/x/_/w_40.png")).status == 200
    assert pool.derivations == derivations + 1


async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(
    client: Client,
) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        b"PUT /images/x HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + jpeg()
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    await asyncio.sleep(0.1)

    assert await names(client) == []
    assert await reader.read() == b""
