"""What is said about images, on a server that answers directly."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import jpeg
from servers import Client, Start

from image_repo import names
from image_repo.config import Config
from image_repo.peers import PEER_HEADER
from image_repo.stores.disk import DirectoryStore
from image_repo.transform.pool import Pool
from image_repo.web.answers import LEVEL_HEADER
from image_repo.web.handlers import ROOM

X = names.image_name("x")
SECRET = "0123456789abcdef"


async def put(client: Client, name: str = "x") -> None:
    answer = await client.put(f"/images/{name}", data=jpeg(600, 400))
    assert answer.status in {200, 201}


async def level(client: Client) -> str:
    answer = await client.get("/images/x/_/w_90.jpg")
    assert answer.status == 200
    return answer.headers[LEVEL_HEADER]


# Explanations


async def test_an_explanation_says_what_an_image_is_and_makes_none(
    client: Client, pool: Pool
) -> None:
    await put(client, "caf\u00e9 1")
    derivations = pool.derivations

    answer = await client.get("/images/caf%C3%A9%201/_/explain.json?xsize=90&kind=WEBP")

    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    told = await answer.json()
    assert told["name"] == "caf\u00e9 1/_/w_90.webp"
    assert told["path"] == "/images/caf%C3%A9%201/_/w_90.webp"
    assert told["modifiers"] == {"w": "90"}
    assert (told["kind"], told["media_type"]) == ("webp", "image/webp")
    assert told["nginx"]["key"].endswith("/images/caf\u00e9 1/_/w_90.webp")
    assert told["original"]["media_type"] == "image/jpeg"
    assert told["original"]["bytes"] == len(jpeg(600, 400))
    assert not any(told["found"].values())
    assert told["failure"] is None
    assert told["assumed"] is False
    assert pool.derivations == derivations


async def test_what_is_explained_is_what_comes(client: Client) -> None:
    await put(client)
    told = await (await client.get("/images/x/_/explain.json?w=90")).json()

    plain = await client.get(told["path"])
    versioned = await client.get(told["versioned_path"], allow_redirects=False)

    assert (plain.status, versioned.status) == (200, 200)
    assert plain.headers["ETag"] == versioned.headers["ETag"] == told["etag"]
    assert plain.headers["Cache-Tag"] == told["cache_tag"]
    assert told["tag"] in told["key"]


async def test_an_explanation_says_which_levels_have_the_image(client: Client) -> None:
    await put(client)
    await level(client)

    told = await (await client.get("/images/x/_/explain.json?w=90")).json()

    assert told["found"]["memory"] is True


async def test_an_explanation_says_what_would_be_done(client: Client) -> None:
    await put(client)

    told = await (await client.get("/images/x/_/explain.json?w=90")).json()

    assert told["cost"].keys() >= {"intermediate", "fetch", "waiting", "seconds"}


async def test_a_failure_that_is_remembered_is_explained(
    start: Start, config: Config
) -> None:
    async with DirectoryStore(Path(config.data) / "originals") as store:
        await store.put("x", io.BytesIO(b"no image"), media_type="image/jpeg")
    client = await start(config)
    refused = await client.get("/images/x/_/w_90.jpg")

    told = await (await client.get("/images/x/_/explain.json?w=90")).json()

    assert refused.status == 422
    assert told["failure"] == (await refused.json())["detail"]


@pytest.mark.parametrize(
    ("url", "status"),
    [
        ("/images/nowhere/_/explain.json", 404),
        ("/images/x/_/explain.json?w=0", 400),
        ("/images/x/_/explain.json?url=True", 400),
        ("/images/x/_/explain.json?kind=heic", 400),
    ],
)
async def test_what_would_be_refused_as_an_image_is_refused(
    client: Client, url: str, status: int
) -> None:
    await put(client)

    assert (await client.get(url)).status == status


async def test_info_and_explanation_say_the_same_tags(client: Client) -> None:
    await put(client)

    info = await (await client.get("/images/x/_/info.json")).json()
    told = await (await client.get("/images/x/_/explain.json")).json()

    for word in ("tag", "cache_tag"):
        assert info[word] == told[word]
    assert info["versioned"]["full"] == told["versioned_path"]


# Peers


async def test_a_peer_has_an_image_forgotten_here(client: Client) -> None:
    await put(client)
    assert [await level(client) for _ in range(2)] == ["derived", "memory"]
    peer = {PEER_HEADER: client.app[ROOM].peers._own_secret}

    answer = await client.post("/images/x/_/purge", headers=peer)

    assert answer.status == 204
    assert await level(client) != "memory"


async def test_a_peer_of_the_configuration_has_an_image_forgotten_too(
    start: Start, config: Config
) -> None:
    http = replace(config.http, refresh_secret=SECRET)
    client = await start(replace(config, http=http))
    await put(client)
    await level(client)

    answer = await client.post("/images/x/_/purge", headers={PEER_HEADER: SECRET})

    assert answer.status == 204
    assert await level(client) != "memory"


async def test_a_peer_may_know_of_an_image_that_is_unknown_here(client: Client) -> None:
    peer = {PEER_HEADER: client.app[ROOM].peers._own_secret}

    answers = [
        await client.post("/images/nowhere/_/purge", headers=headers)
        for headers in (peer, {})
    ]

    assert [answer.status for answer in answers] == [204, 404]


@pytest.mark.parametrize("secret", ["", "x", SECRET])
async def test_who_is_no_peer_and_says_so_is_refused(
    client: Client, secret: str
) -> None:
    await put(client)
    await level(client)

    answer = await client.post("/images/x/_/purge", headers={PEER_HEADER: secret})

    assert answer.status == 403
    assert await level(client) == "memory"
