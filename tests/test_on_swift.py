"""The whole server on a real Swift and a real Keystone: beside others, with faults."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from cloud import between as faults
from cloud.between import Between, between
from cloud.calls import Login, log_in
from cloud.cluster import Cloud
from multidict import CIMultiDict
from pictures import colour, decode, encode
from PIL import Image
from servers import Client, on_swift

from image_repo import assemble
from image_repo.config import Config
from image_repo.stores.account import SwiftOptions
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app

Serving = Callable[..., Awaitable[Client]]

HASTY = SwiftOptions(connect_seconds=1, read_seconds=1, patience=3, transfer_seconds=3)
"""So that tests need not wait long for what doesn't come."""


def picture(shade: tuple[int, int, int], side: int = 60) -> bytes:
    return encode(Image.new("RGB", (side, side), shade), "PNG")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = replace(Config(), data=str(tmp_path / "data"), swift=HASTY)
    return on_swift(config)


@pytest.fixture
def tool(cloud: Cloud) -> Login:
    """Another tool with the same account."""
    return log_in(cloud.environment)


@pytest_asyncio.fixture
async def serve(pool: Pool, cloud: Cloud) -> AsyncIterator[Serving]:
    """Start a server; with the environment of the cloud unless told otherwise."""
    async with AsyncExitStack() as stack:

        async def run(
            config: Config, environ: Mapping[str, str] | None = None
        ) -> Client:
            opened = assemble.open_room(config, pool, environ or cloud.environment)
            room = await stack.enter_async_context(opened)
            server = TestServer(make_app(room), skip_url_asserts=True)
            return await stack.enter_async_context(TestClient(server))

        yield run


@pytest_asyncio.fixture
async def client(serve: Serving, config: Config) -> Client:
    return await serve(config)


@pytest_asyncio.fixture
async def middle(cloud: Cloud) -> AsyncIterator[Between]:
    async with between(cloud.storage_url) as made:
        yield made


@pytest.fixture
def harmed(cloud: Cloud, middle: Between) -> Mapping[str, str]:
    """An environment in which Swift is behind a proxy that does harm when told to."""
    path = cloud.storage_url.partition("/v1/")[2]
    return {**cloud.environment, "OS_STORAGE_URL": f"{middle.url}/v1/{path}"}


def originals(config: Config) -> str:
    return config.persistent_store_configuration.container


def derived(config: Config) -> str:
    return config.swift_cache_configuration.container


async def listed(tool: Login, container: str) -> list[str]:
    answer = await asyncio.to_thread(tool.ask, f"/{container}?format=json")
    return [item["name"] for item in json.loads(answer.body)]


async def put(
    client: Client, shade: tuple[int, int, int], name: str = "x", status: int = 201
) -> None:
    answer = await client.put(f"/images/{name}", data=picture(shade))
    assert answer.status == status, await answer.text()


async def seen(client: Client, path: str = "/images/x/_/w_20.png") -> tuple[int, ...]:
    answer = await client.get(path)
    assert answer.status == 200, await answer.text()
    return colour(decode(await answer.read()), (5, 5))


async def soon(there: Callable[[], Awaitable[bool]], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await there():
            await asyncio.sleep(0.05)


# -- names and neighbours --------------------------------------------------------------


async def test_swift_lists_originals_and_derived_images_under_their_names(
    client: Client, config: Config, tool: Login
) -> None:
    await put(client, (250, 0, 0), "plots/site 7")
    await client.get("/images/plots/site%207/_/w_20.png")

    async def kept() -> bool:
        return bool(await listed(tool, derived(config)))

    await soon(kept)
    assert await listed(tool, originals(config)) == ["plots/site 7"]
    (name,) = await listed(tool, derived(config))
    image, _, rest = name.partition("/_/")
    tag, _, text = rest.partition("/")
    assert (image, len(tag), text) == ("plots/site 7", 16, "w_20.png")
    said = await asyncio.to_thread(
        tool.ask, f"/{derived(config)}/plots/site%207/_/{tag}/{text}", "HEAD"
    )
    lifetime = config.swift_cache_configuration.lifetime
    assert abs(int(said.headers["X-Delete-At"]) - time.time() - lifetime) < 60


async def test_a_second_server_serves_what_the_first_has_derived(
    client: Client, serve: Serving, config: Config, tool: Login, pool: Pool
) -> None:
    await put(client, (0, 250, 0))
    assert await seen(client) == (0, 250, 0)

    async def kept() -> bool:
        return bool(await listed(tool, derived(config)))

    await soon(kept)
    derivations = pool.derivations

    second = await serve(replace(config, data=f"{config.data}-2"))
    answer = await second.get("/images/x/_/w_20.png")

    assert answer.status == 200
    assert answer.headers["X-Image-Repo"] == "store"
    assert pool.derivations == derivations


async def test_a_change_on_one_server_is_seen_by_another_in_bounded_time(
    client: Client, serve: Serving, config: Config
) -> None:
    quick = replace(config, service=replace(config.service, revision_lifetime=0.2))
    second = await serve(quick)
    await put(client, (250, 0, 0))
    assert await seen(second) == (250, 0, 0)

    await put(client, (0, 0, 250), status=200)
    await asyncio.sleep(0.25)

    assert await seen(second) == (0, 0, 250)
    assert await seen(client) == (0, 0, 250)
    assert (await client.delete("/images/x")).status == 204
    await asyncio.sleep(0.25)
    assert (await second.get("/images/x")).status == 404


async def test_one_container_may_hold_originals_and_derived_images(
    serve: Serving, config: Config, tool: Login
) -> None:
    both = on_swift(config, originals(config), originals(config))
    client = await serve(both)
    await put(client, (250, 0, 0))
    await seen(client)

    async def kept() -> bool:
        return len(await listed(tool, originals(config))) == 2

    await soon(kept)
    assert await (await client.get("/images")).json() == ["x"]
    assert (await client.delete("/images/x")).status == 204
    assert await listed(tool, originals(config)) == []


async def test_a_container_that_other_tools_have_filled_is_adopted(
    client: Client, config: Config, tool: Login
) -> None:
    for name in ("deep/tree/of/a.JPG", "deep/tree/b.png", "notes.txt", "deep/"):
        body = b"" if name == "deep/" else picture((0, 0, 250))
        await asyncio.to_thread(tool.ask, f"/{originals(config)}/{name}", "PUT", body)

    names = await (await client.get("/images")).json()
    assert names == ["deep/tree/b", "deep/tree/of/a", "notes.txt"]
    assert await seen(client, "/images/deep/tree/of/a/_/w_20.png") == (0, 0, 250)
    info = await (await client.get("/images/deep/tree/b/_/info.json")).json()
    assert (info["name"], info["width"]) == ("deep/tree/b", 60)

    refused = await client.post("/images/deep/tree/b", data=picture((9, 9, 9)))
    assert refused.status == 409
    await put(client, (0, 250, 0), "deep/tree/b", status=200)
    assert await seen(client, "/images/deep/tree/b/_/w_20.png") == (0, 250, 0)
    assert (await client.delete("/images/deep/tree/b")).status == 204
    assert "deep/tree/b.png" not in await listed(tool, originals(config))


# -- links -----------------------------------------------------------------------------


async def test_a_link_to_swift_needs_no_token_and_is_never_one_to_an_original(
    client: Client, config: Config
) -> None:
    await put(client, (0, 250, 0), "plots/\u00fc 7")
    path = "/images/plots/%C3%BC%207"
    given = await (await client.get(f"{path}.png?w=20&url=True")).json()
    again = await (await client.get(f"{path}/_/w_20.png?url=1")).json()

    assert given["url"] == again["url"]
    assert f"/{derived(config)}/" in given["url"]
    assert originals(config) not in given["url"]
    async with aiohttp.ClientSession() as anyone:
        async with anyone.get(given["url"]) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Disposition"].startswith("inline; filename=")
            assert colour(decode(await answer.read()), (5, 5)) == (0, 250, 0)
        async with anyone.get(given["url"].replace("w_20", "w_21")) as answer:
            assert answer.status == 401
    await client.delete("/images/plots/%C3%BC%207")
    async with aiohttp.ClientSession() as anyone, anyone.get(given["url"]) as answer:
        assert answer.status == 404


async def test_what_is_known_to_be_stored_is_not_asked_of_swift_again(
    serve: Serving, config: Config, harmed: Mapping[str, str], middle: Between
) -> None:
    client = await serve(config, harmed)
    await put(client, (0, 250, 0))
    first = await (await client.get("/images/x?w=20&url=True")).json()
    asked = len(middle.asked)

    for _ in range(20):
        again = await (await client.get("/images/x?w=20&url=True")).json()
        assert again == first

    assert len(middle.asked) - asked <= 1  # the revision, which is believed for 5 s


# -- lag -------------------------------------------------------------------------------


async def test_a_replica_that_lags_spoils_nothing(
    serve: Serving,
    config: Config,
    harmed: Mapping[str, str],
    middle: Between,
    tool: Login,
) -> None:
    quick = replace(config, service=replace(config.service, revision_lifetime=0.0))
    client = await serve(quick, harmed)
    await put(client, (250, 0, 0))
    assert await seen(client) == (250, 0, 0)
    path = f"/{originals(config)}/x"
    old_get = await recorded(tool, path, "GET")
    old_head = await recorded(tool, path, "HEAD")
    await put(client, (0, 0, 250), status=200)

    middle.harm(faults.stale(old_head), times=1000, method="HEAD", ends=path)
    middle.harm(faults.stale(old_get), times=1000, method="GET", ends=path)
    answer = await client.get("/images/x/_/w_30.png")
    assert answer.headers["Cache-Control"] == "no-store"
    middle.spare()

    assert await seen(client, "/images/x/_/w_30.png") == (0, 0, 250)
    fresh = await client.get("/images/x/_/w_30.png")
    assert fresh.headers["Cache-Control"].startswith("public")
    # Whatever is kept under a tag was made from the bytes of that tag.
    for name in await listed(tool, derived(config)):
        body = (await asyncio.to_thread(tool.ask, f"/{derived(config)}/{name}")).body
        tag = name.split("/_/")[1].split("/")[0]
        current = fresh.headers["Link"]
        assert current
        shade = colour(decode(body), (5, 5))
        versioned = await client.get(
            f"/images/x/_/v_{tag}/w_30.png", allow_redirects=False
        )
        assert shade == ((0, 0, 250) if versioned.status == 200 else (250, 0, 0))


async def test_an_etag_that_is_not_that_of_the_bytes_is_never_believed(
    serve: Serving, config: Config, harmed: Mapping[str, str], middle: Between
) -> None:
    client = await serve(config, harmed)
    await put(client, (250, 0, 0))
    path = f"/{originals(config)}/x"
    middle.harm(faults.headers(Etag="0" * 32), times=1000, method="GET", ends=path)

    refused = await client.get("/images/x/_/w_20.png")

    assert refused.status == 502
    assert int(refused.headers["Retry-After"]) > 0
    middle.spare()
    assert await seen(client) == (250, 0, 0)


async def test_an_image_that_another_replica_has_not_heard_of_yet_is_no_404(
    serve: Serving, config: Config, harmed: Mapping[str, str], middle: Between
) -> None:
    quick = replace(config, service=replace(config.service, revision_lifetime=0.0))
    client = await serve(quick, harmed)
    await put(client, (250, 0, 0))
    path = f"/{originals(config)}/x"
    middle.harm(faults.status(404), times=1, method="HEAD", ends=path)
    assert await seen(client) == (250, 0, 0)

    middle.harm(faults.status(404), times=1000, method="HEAD", ends=path)
    answer = await client.get("/images/x/_/w_30.png")
    assert answer.status == 200
    assert answer.headers["X-Image-Repo"].endswith("store=away")
    middle.spare()
    assert await seen(client, "/images/x/_/w_30.png") == (250, 0, 0)


async def recorded(tool: Login, path: str, method: str) -> faults.Said:
    """Return what Swift says now, to be said again later."""
    said = await asyncio.to_thread(tool.ask, path, method)
    return faults.Said(said.status, CIMultiDict(said.headers), said.body)


# -- faults ----------------------------------------------------------------------------


async def test_an_upload_during_a_fault_is_stored_whole_or_refused(
    serve: Serving,
    config: Config,
    harmed: Mapping[str, str],
    middle: Between,
    tool: Login,
) -> None:
    client = await serve(config, harmed)
    body = picture((250, 0, 0))
    for number, fault in enumerate(
        (
            faults.status(503),
            faults.status(500, passed_on=True),
            faults.lost(passed_on=True),
            faults.lost(passed_on=False),
            faults.headers(Etag="0" * 32),
        )
    ):
        path = f"/{originals(config)}/{number}"
        middle.harm(fault, times=1000, method="PUT", ends=path)
        answer = await client.put(f"/images/{number}", data=body)
        assert answer.status in {502, 503}, await answer.text()
        assert (await answer.json())["detail"].startswith(f"cannot write '{number}': ")
        middle.spare()

        now = await asyncio.to_thread(tool.ask, path)
        assert now.status == 404 or now.body == body
        assert (await client.put(f"/images/{number}", data=body)).status in {200, 201}
        assert await seen(client, f"/images/{number}/_/w_20.png") == (250, 0, 0)


async def test_a_write_that_lands_after_it_was_refused_is_noticed(
    serve: Serving, config: Config, harmed: Mapping[str, str], middle: Between
) -> None:
    client = await serve(config, harmed)
    await put(client, (250, 0, 0))
    assert await seen(client) == (250, 0, 0)
    path = f"/{originals(config)}/x"
    # Three attempts, of which the first goes through long after all have failed.
    middle.harm(faults.late(6, passed_on=False), method="PUT", ends=path)
    middle.harm(faults.status(503), times=2, method="PUT", ends=path)

    refused = await client.put("/images/x", data=picture((0, 0, 250)))
    assert refused.status == 502

    async def landed() -> bool:
        return await seen(client) == (0, 0, 250)

    await soon(landed, 20)


async def test_the_server_starts_without_keystone_and_says_so(
    cloud: Cloud, serve: Serving, config: Config
) -> None:
    async with between(cloud.auth_url) as keystone:
        environ = {**cloud.environment, "OS_AUTH_URL": f"{keystone.url}/v3"}
        keystone.harm(faults.status(503), times=1000)
        client = await serve(config, environ)

        assert (await client.get("/healthz")).status == 200
        unready = await client.get("/readyz")
        assert unready.status == 502
        assert "Keystone" in (await unready.json())["detail"]
        assert (await client.put("/images/x", data=picture((9, 9, 9)))).status == 502
        keystone.spare()

        async def ready() -> bool:
            return (await client.get("/readyz")).status == 200

        await soon(ready, 5)
        await put(client, (0, 250, 0))
        assert await seen(client) == (0, 250, 0)


async def test_what_is_cached_is_served_while_swift_is_away_and_all_is_well_after(
    cloud: Cloud, client: Client
) -> None:
    await put(client, (0, 250, 0))
    await put(client, (0, 0, 250), "far")
    assert await seen(client) == (0, 250, 0)
    proxy = cloud.processes["proxy"]
    try:
        await asyncio.to_thread(proxy.stop)
        # For as long as the revision is believed nothing is asked of Swift.
        assert await seen(client) == (0, 250, 0)
        # The original that this was made from is near at hand, too.
        assert await seen(client, "/images/x/_/w_30.png") == (0, 250, 0)
        started = time.monotonic()
        cold = await client.get("/images/far/_/w_30.png")
        assert cold.status == 502
        assert time.monotonic() - started < HASTY.patience + HASTY.read_seconds + 2
        assert (await client.get("/readyz")).status == 502
        assert (await client.put("/images/y", data=picture((9, 9, 9)))).status == 502
    finally:
        await asyncio.to_thread(cloud.heal)
    assert await seen(client, "/images/far/_/w_30.png") == (0, 0, 250)
    assert (await client.get("/readyz")).status == 200
    assert (await client.get("/images/y")).status == 404


@pytest.mark.parametrize("name", ["object", "proxy"])
async def test_a_swift_that_hangs_is_waited_for_in_bounded_time(
    cloud: Cloud, client: Client, name: str
) -> None:
    await put(client, (0, 250, 0))
    try:
        await asyncio.to_thread(cloud.processes[name].pause)
        started = time.monotonic()
        answers = await asyncio.gather(
            *(client.get(f"/images/x/_/w_{w}.png") for w in range(20, 40)),
            client.put("/images/z", data=picture((9, 9, 9))),
        )
        assert {answer.status for answer in answers} == {502}
        assert time.monotonic() - started < 30
    finally:
        await asyncio.to_thread(cloud.heal)
    for answer in answers:
        assert "127.0.0.1" not in await answer.text()
    assert await seen(client) == (0, 250, 0)


async def test_five_hundred_readers_get_over_all_tokens_being_revoked(
    cloud: Cloud, serve: Serving, config: Config
) -> None:
    async with between(cloud.auth_url) as keystone, between(cloud.storage_url) as swift:
        path = cloud.storage_url.partition("/v1/")[2]
        environ = {
            **cloud.environment,
            "OS_AUTH_URL": f"{keystone.url}/v3",
            "OS_STORAGE_URL": f"{swift.url}/v1/{path}",
        }
        patient = replace(config, swift=replace(HASTY, patience=60, read_seconds=10))
        nothing = replace(
            patient, service=replace(config.service, revision_lifetime=0.0)
        )
        client = await serve(nothing, environ)
        await put(client, (0, 250, 0))
        first = keystone.count("POST", "/v3/auth/tokens")
        token = next(iter(swift.tokens))

        async def refuse_old(request: web.Request, ask: faults.Ask) -> faults.Said:
            if request.headers.get("X-Auth-Token") == token:
                return faults.Said(401, CIMultiDict(), b"")
            return await ask()

        swift.harm(refuse_old, times=100_000)
        answers = await asyncio.gather(
            *(client.get(f"/images/x/_/w_{20 + n % 5}.png") for n in range(500))
        )

        assert {answer.status for answer in answers} == {200}
        assert keystone.count("POST", "/v3/auth/tokens") == first + 1
