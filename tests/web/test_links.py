"""Temporary URLs, asked for and followed, on a server that keeps images itself."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
import pytest
from aiohttp.test_utils import TestClient, TestServer
from cloud.cluster import Cloud
from pictures import decode, jpeg
from servers import Client, Start, on_swift
from yarl import URL

from image_repo import assemble
from image_repo.config import Config
from image_repo.stores.containers import SwiftCacheOptions
from image_repo.stores.linkkeys import LinkKeys
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app
from image_repo.web.handlers import ROOM


async def put(client: Client, name: str = "plots/site-7") -> None:
    answer = await client.put(URL(f"/images/{name}"), data=jpeg(600, 400))
    assert answer.status in {200, 201}


async def link(client: Client, path: str = "/images/plots/site-7?url=True") -> str:
    answer = await client.get(URL(path, encoded=True))
    assert answer.status == 200, await answer.text()
    url: str = (await answer.json())["url"]
    return url


@pytest.mark.parametrize(
    ("path", "name", "size"),
    [
        ("plots/site-7?url=True", "full.jpg", (600, 400)),
        ("plots/site-7?xsize=400&kind=webp&url=1", "w_400.webp", (400, 267)),
        ("plots/site-7/_/w_400.webp?url=True", "w_400.webp", (400, 267)),
        ("plots/site-7.png?thumbnail=True&url=yes", None, (50, 33)),
    ],
)
async def test_a_link_leads_to_the_image_that_was_asked_for(
    client: Client, path: str, name: str | None, size: tuple[int, int]
) -> None:
    await put(client)

    asked = await client.get(f"/images/{path}")

    assert asked.status == 200
    assert asked.headers["Cache-Control"] == "no-store"
    said = await asked.json()
    assert set(said) == {"name", "url", "expires"}
    assert name is None or said["name"] == f"/images/plots/site-7/_/{name}"
    plain = await client.get(said["name"])
    followed = await client.get(URL(said["url"], encoded=True))
    assert followed.status == 200
    assert followed.content_type == plain.content_type
    body = await followed.read()
    assert body == await plain.read()
    assert decode(body).size == size


async def test_a_link_says_when_it_ends(client: Client) -> None:
    await put(client)
    asked = time.time()

    said = await (await client.get("/images/plots/site-7?url=True")).json()

    ends = datetime.fromisoformat(said["expires"])
    assert ends.tzinfo == UTC
    assert 3600 <= ends.timestamp() - asked <= 4201
    followed = await client.get(URL(said["url"], encoded=True))
    assert parsedate_to_datetime(followed.headers["Expires"]) == ends
    private, _, left = followed.headers["Cache-Control"].partition(", max-age=")
    assert private == "private"
    assert 0 <= ends.timestamp() - time.time() - int(left) < 5


async def test_lifetime_and_key_are_configured(start: Start, config: Config) -> None:
    options = SwiftCacheOptions(url_lifetime=60, url_lifetime_slack=0)
    client = await start(replace(config, swift_cache_configuration=options))
    await put(client)
    asked = time.time()

    said = await (await client.get("/images/plots/site-7?url=True")).json()

    left = datetime.fromisoformat(said["expires"]).timestamp() - asked
    assert 60 <= left <= 70


async def test_a_link_begins_with_the_public_url(start: Start, config: Config) -> None:
    http = replace(config.http, public_url="https://img.example.org")
    client = await start(replace(config, http=http))
    await put(client)

    url = await link(client)

    assert url.startswith("https://img.example.org/links/plots/site-7/_/")
    path = url.removeprefix("https://img.example.org")
    assert (await client.get(URL(path, encoded=True))).status == 200


async def test_a_link_shows_the_image_under_a_name_of_its_own(client: Client) -> None:
    await put(client, 'Überblick/säge "7"; x.y%\'')
    path = "/images/%C3%9Cberblick/s%C3%A4ge%20%227%22%3B%20x.y%25'.webp?url=True"

    followed = await client.get(URL(await link(client, path), encoded=True))

    name = "s%C3%A4ge%20%227%22%3B%20x.y%25%27.webp"
    quoted = name.replace("%20", " ")
    assert followed.headers["Content-Disposition"] == (
        f"inline; filename=\"{quoted}\"; filename*=UTF-8''{name}"
    )
    assert followed.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "attachment; filename=\"full.jpg\"; filename*=UTF-8''full.jpg"),
        ("&inline", "inline"),
        ("&filename=a.jpg", "attachment; filename=\"a.jpg\"; filename*=UTF-8''a.jpg"),
        (
            "&inline&filename=%0D%0AX:%22",
            "inline; filename=\"%0D%0AX%3A%22\"; filename*=UTF-8''%0D%0AX%3A%22",
        ),
    ],
)
async def test_how_it_is_shown_is_not_signed(
    client: Client, words: str, expected: str
) -> None:
    await put(client)
    signed = (await link(client)).partition("&inline")[0]

    followed = await client.get(URL(signed + words, encoded=True))

    assert followed.headers["Content-Disposition"] == expected


async def test_a_link_can_be_asked_for_its_size_and_again(client: Client) -> None:
    await put(client)
    url = URL(await link(client), encoded=True)
    whole = await client.get(url)

    head = await client.head(url)
    again = await client.get(
        url, headers={"If-None-Match": f'"x", W/{whole.headers["ETag"]}'}
    )

    assert (head.status, await head.read()) == (200, b"")
    for name in ("Content-Length", "Content-Type", "ETag", "Content-Disposition"):
        assert head.headers[name] == whole.headers[name]
    assert (again.status, await again.read()) == (304, b"")
    for name in ("ETag", "Expires"):
        assert again.headers[name] == whole.headers[name]


async def test_what_is_not_what_was_signed_is_refused_alike(client: Client) -> None:
    await put(client)
    await put(client, "other")
    url, other = await link(client), await link(client, "/images/other?url=True")
    path, _, query = url.partition("?")
    changed = query[:14] + ("0" if query[14] != "0" else "1") + query[15:]

    asked = [
        ("GET", path),
        ("GET", f"{path}?inline"),
        ("GET", f"{path}?{changed}"),
        ("GET", f"{path}?{query.replace('expires=1', 'expires=2')}"),
        ("GET", f"{other.partition('?')[0]}?{query}"),
        *((method, url) for method in ("PUT", "POST", "DELETE")),
    ]
    answers = [await client.request(m, URL(to, encoded=True)) for m, to in asked]

    assert {answer.status for answer in answers} == {401}
    assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
    assert len({await answer.text() for answer in answers}) == 1
    assert (await client.get(URL(url, encoded=True))).status == 200


async def test_an_expired_link_is_refused(client: Client, config: Config) -> None:
    await put(client)
    key = (await link(client)).removeprefix("/links/").partition("?")[0]
    keys = LinkKeys(Path(config.data))
    now = int(time.time())

    for expires, status in ((now - 1, 401), (now + 100, 200)):
        url = await keys.link(key, expires, "x.jpg")
        assert (await client.get(URL(url, encoded=True))).status == status


@pytest.mark.parametrize("change", ["PUT", "DELETE", "purge"])
async def test_a_link_ends_with_what_it_leads_to(client: Client, change: str) -> None:
    await put(client)
    url = URL(await link(client), encoded=True)

    if change == "PUT":
        body = jpeg(300, 200)
        await client.put("/images/plots/site-7", data=body)
    elif change == "DELETE":
        await client.delete("/images/plots/site-7")
    else:
        await client.post("/images/plots/site-7/_/purge")

    assert (await client.get(url)).status == 404
    if change != "DELETE":
        new = URL(await link(client), encoded=True)
        assert (await client.get(new)).status == 200
        assert (new == url) == (change == "purge")


async def test_no_link_leads_to_an_original(client: Client, config: Config) -> None:
    await put(client)
    keys = LinkKeys(Path(config.data))
    await link(client)

    for key in ("plots/site-7", "../originals/plots/site-7", "plots/site-7/_/x"):
        url = await keys.link(key, int(time.time()) + 100, "x.jpg")
        assert (await client.get(URL(url, encoded=True))).status == 400


async def test_words_that_a_link_does_not_have_are_refused(client: Client) -> None:
    await put(client)
    url = await link(client)

    for more in ("&w=400", "&temp_url_prefix=", "&inline"):
        assert (await client.get(URL(url + more, encoded=True))).status == 400


async def test_a_link_to_a_version_is_given_while_it_is_current(client: Client) -> None:
    await put(client)
    tag = (await link(client)).split("/")[-2]
    other = "0" * 16

    current = await client.get(f"/images/plots/site-7/_/v_{tag}/full.jpg?url=True")
    former = await client.get(
        f"/images/plots/site-7/_/v_{other}/full.jpg?url=True", allow_redirects=False
    )

    assert (await current.json())["url"].startswith("/links/plots/site-7/_/")
    assert former.status == 302
    assert former.headers["Location"] == "/images/plots/site-7/_/full.jpg?url=true"


async def test_many_who_ask_get_one_link(client: Client) -> None:
    await put(client)
    await link(client)  # so that none of them comes in another period than the rest

    urls = await asyncio.gather(*(link(client) for _ in range(50)))

    assert len(set(urls)) <= 2
    assert client.app is not None
    assert client.app[ROOM].service.found["none"] == 1


async def test_there_is_no_link_to_an_unknown_image(client: Client) -> None:
    assert (await client.get("/images/x?url=True")).status == 404
    assert (await client.get("/images/x?url=True&meta=True")).status == 400


async def test_on_swift_a_link_leads_there_and_not_through_this_server(
    cloud: Cloud, config: Config, pool: Pool
) -> None:
    async with assemble.open_room(on_swift(config), pool, cloud.environment) as room:
        server = TestServer(make_app(room), skip_url_asserts=True)
        async with TestClient(server) as client:
            await put(client)
            url = await link(client)

            async with aiohttp.request("GET", URL(url, encoded=True)) as followed:
                body = await followed.read()
            path = "/links/plots" + url.partition("/plots")[2]
            here = await client.get(URL(path, encoded=True))
            await client.post("/images/plots/site-7/_/purge")
            async with aiohttp.request("GET", URL(url, encoded=True)) as purged:
                pass

    assert url.startswith(f"{cloud.storage_url}/derived-")
    assert followed.status == 200
    said = followed.headers["Content-Disposition"]
    assert said == "inline; filename=\"site-7.jpg\"; filename*=UTF-8''site-7.jpg"
    assert decode(body).size == (600, 400)
    assert (here.status, purged.status) == (404, 404)


async def test_a_signature_is_not_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await put(client)
    url = await link(client)
    await client.get(URL(url + "x", encoded=True))

    signature = url.partition("temp_url_sig=")[2][:64]
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("image_repo")]
    assert any("temporary URL" in line for line in ours)
    assert not any(signature in line for line in ours)
