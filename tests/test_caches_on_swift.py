"""The caches as their user sees them, between a server and Swift."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from tempfile import mkdtemp

import pytest
import pytest_asyncio
from caching import picture, server, shade_of, sizes, upload
from cloud.between import Between, between
from cloud.cluster import Cloud
from nginx.harness import Front, free_port, nginx
from pictures import colour, decode

from image_repo import config
from image_repo.nginx import settings


@pytest_asyncio.fixture
async def middle(cloud: Cloud) -> AsyncIterator[Between]:
    async with between(cloud.storage_url) as made:
        yield made


@pytest.fixture
def swift(cloud: Cloud, middle: Between) -> dict[str, str]:
    """An environment with two new containers in a Swift behind a proxy."""
    path, unique = cloud.storage_url.partition("/v1/")[2], token_hex(8)
    return {
        **cloud.environment,
        "OS_STORAGE_URL": f"{middle.url}/v1/{path}",
        "IMAGE_REPO_STORE": "swift",
        "IMAGE_REPO_PERSISTENT_STORE_CONFIGURATION_CONTAINER": f"images-{unique}",
        "IMAGE_REPO_SWIFT_CACHE_CONFIGURATION_CONTAINER": f"derived-{unique}",
    }


async def test_ten_sizes_asked_for_at_once_fetch_their_original_once(
    tmp_path: Path, swift: dict[str, str], middle: Between
) -> None:
    async with server(tmp_path, **swift) as one:
        await upload(one, 1, 900)
        targets = sizes(1, range(20, 30))
        await one.bodies(targets, 10)

        assert middle.count("GET", "/0") == 1
        for width in range(20, 30):
            assert middle.count("GET", f"/w_{width}.png") == 1
        assert await one.derivations() == 10


async def test_a_machine_that_has_lost_its_disk_finds_all_in_swift(
    tmp_path: Path, swift: dict[str, str]
) -> None:
    targets = sizes(5, range(20, 30))
    async with server(tmp_path, **swift) as first:
        await upload(first, 5)
        before = await first.bodies(targets)
        await first.stop()  # at once after the last answer
    shutil.rmtree(tmp_path / "data")
    async with server(tmp_path, **swift) as second:
        assert await second.bodies(targets) == before

        assert await second.derivations() == 0
        assert await second.found() == {"store": 50}


async def test_a_name_without_an_image_is_asked_for_once_and_an_upload_seen_at_once(
    tmp_path: Path, swift: dict[str, str], middle: Between
) -> None:
    swift |= {"IMAGE_REPO_SERVICE_MISSING_LIFETIME": "60"}
    target = "/images/0/_/w_20.png"
    async with server(tmp_path, **swift) as one, server(tmp_path, **swift) as other:
        for to in (one, other):
            assert (await to.ask(target)).status == 404
            before = len(middle.asked)
            assert {(await to.ask(target)).status for _ in range(5)} == {404}
            assert len(middle.asked) == before

        await upload(one, 1)

        for to in (one, other):
            assert (await to.ask(target)).status == 200


@pytest_asyncio.fixture
async def front(swift: dict[str, str]) -> AsyncIterator[Front]:
    """An nginx that keeps nothing for long, before a server that is still to come."""
    directory = Path(mkdtemp(prefix="image-repo-test."))
    directory.chmod(0o755)
    swift |= {
        "IMAGE_REPO_LISTEN": f"127.0.0.1:{free_port()}",
        "IMAGE_REPO_BEHIND_NGINX": "true",
        "IMAGE_REPO_NGINX_LISTEN": f"127.0.0.1:{free_port()}",
        "IMAGE_REPO_NGINX_CACHE_PATH": str(directory / "nginx-cache"),
        "IMAGE_REPO_HTTP_S_MAXAGE": "1",
        "IMAGE_REPO_HTTP_STALE_WHILE_REVALIDATE": "0",
        "IMAGE_REPO_SERVICE_REVISION_LIFETIME": "1",
        "IMAGE_REPO_SWIFT_READ_SECONDS": "3",
        "IMAGE_REPO_SWIFT_PATIENCE": "5",
    }
    try:
        async with nginx(settings(config.load(None, swift), directory)) as made:
            yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", ["stop", "pause"])
async def test_while_swift_is_away_what_was_seen_is_served_and_all_is_well_after(
    tmp_path: Path, cloud: Cloud, swift: dict[str, str], front: Front, how: str
) -> None:
    proxy = cloud.processes["proxy"]
    try:
        async with server(tmp_path, **swift) as first:
            await upload(first, 4)
            for number in (0, 1, 2):
                await shown(front, number, away=False)
            assert (await front.ask("/images/2", "DELETE")).status == 204
            await asyncio.to_thread(proxy.stop if how == "stop" else proxy.pause)
            await asyncio.sleep(2)  # until nothing is believed without a question
            await check_away(front)
            await first.stop()
        async with server(tmp_path, **swift):
            await check_away(front)
            await asyncio.to_thread(cloud.heal)
            await asyncio.wait_for(back(front), 10)

            for number in (0, 1, 3):
                await shown(front, number, away=False)
            gone = await front.ask("/images/2/_/w_20.png")
            assert gone.status == 404, gone
            put = await front.ask("/images/5", "PUT", body=picture(shade_of(5)))
            assert put.status == 201, put
    finally:
        await asyncio.to_thread(cloud.heal)


async def back(front: Front) -> None:
    """Return when the store is no longer away for anybody."""
    for target in ("/readyz", *sizes(2, range(20, 21))):
        while True:
            answer = await front.ask(target)
            away = answer.headers.get("X-Image-Repo", "").endswith("; store=away")
            if answer.status == 200 and not away:
                break
            await asyncio.sleep(0.1)


async def check_away(front: Front) -> None:
    """Check that what is known is served, and all else fails soon and cleanly."""
    body = picture(shade_of(5))
    for number in (0, 1):
        await shown(front, number, away=True)
    for target, method, sent in (
        ("/images/3/_/w_20.png", "GET", b""),
        ("/images/5", "PUT", body),
        ("/images/0", "PUT", body),
        ("/images/0", "DELETE", b""),
    ):
        begun = time.monotonic()
        answer = await front.ask(target, method, body=sent)
        assert answer.status == 502, (target, method, answer)
        assert answer.headers["Content-Type"] == "application/problem+json"
        # A Swift that hangs is waited for anew for revision, level and original.
        assert time.monotonic() - begun < 25
    deleted = await front.ask("/images/2/_/w_20.png")
    assert deleted.status in {404, 502}, deleted
    assert (await front.ask("/healthz")).status == 200
    await shown(front, 1, away=True)


async def shown(front: Front, number: int, *, away: bool) -> None:
    """Check that an image is served, and on which terms."""
    answer = await front.ask(f"/images/{number}/_/w_20.png")
    assert answer.status == 200, answer
    assert colour(decode(answer.body), (5, 5)) == shade_of(number)
    assert answer.headers["X-Image-Repo"].endswith("; store=away") is away, answer
    control = (
        "public, max-age=10, s-maxage=1" if away else "public, max-age=300, s-maxage=1"
    )
    assert answer.headers["Cache-Control"] == control
