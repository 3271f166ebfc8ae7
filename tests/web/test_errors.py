"""Faults of the server's parts, as answers."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer
from pictures import jpeg
from servers import CONFINED, Client, Start

from image_repo import assemble, errors
from image_repo.config import Config
from image_repo.service import Service
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app
from image_repo.web.errors import STATUSES, status_of


@asynccontextmanager
async def with_workers(
    config: Config, **workers: float
) -> AsyncIterator[tuple[Client, Pool]]:
    """A server with workers of its own, which a test may harm."""
    options = replace(config.workers, **({"count": 1} | workers))  # type: ignore[arg-type] # checked by the class
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            Pool(options, config.limits, config.render, confined=CONFINED)
        )
        room = await stack.enter_async_context(assemble.open_room(config, pool))
        server = TestServer(make_app(room))
        yield await stack.enter_async_context(TestClient(server)), pool


async def status(client: Client, url: str) -> int:
    async with client.get(url) as answer:
        assert answer.status == 200 or answer.content_type == "application/problem+json"
        return answer.status


Class = type[errors.ImageRepoError]


def every_error(cls: Class = errors.ImageRepoError) -> list[Class]:
    return [cls, *(below for sub in cls.__subclasses__() for below in every_error(sub))]


@pytest.mark.parametrize("error", every_error(), ids=lambda error: error.__name__)
def test_every_error_has_a_status(error: Class) -> None:
    row = status_of(error.__new__(error))

    assert row in STATUSES.values()
    assert 400 <= row.derive < 600
    assert 400 <= row.upload < 600


async def test_a_worker_that_dies_costs_its_request_a_500_and_nothing_else(
    config: Config,
) -> None:
    async with with_workers(config) as (client, pool):
        await client.put("/images/x", data=jpeg(3000, 2000))
        for expected in (500, 422, 422):
            while not pool.idle:  # the worker of the round before is being replaced
                await asyncio.sleep(0.01)
            asked = asyncio.create_task(status(client, "/images/x/_/full.webp"))
            while pool.idle and not asked.done():
                await asyncio.sleep(0.001)
            if not asked.done():
                for worker in pool._all:
                    os.kill(worker.process.pid, signal.SIGKILL)

            assert await asked == expected
            assert await status(client, "/images/x/_/w_40.jpg") == 200
        assert await status(client, "/images/x/_/w_41.jpg") == 422
        assert pool.crashes == 2


@pytest.mark.parametrize("at_once", [False, True])
async def test_an_original_that_kills_costs_two_workers_whatever_the_size(
    config: Config, *, at_once: bool
) -> None:
    async with with_workers(config) as (client, pool):
        await client.put("/images/x", data=jpeg(3000, 2000))
        urls = [f"/images/x/_/w_{2000 + n}.webp" for n in range(6)]

        async def kill() -> None:
            while True:
                for worker in pool._all - set(pool._idle):
                    worker.process.kill()
                await asyncio.sleep(0.001)

        killing = asyncio.create_task(kill())
        if at_once:
            found = await asyncio.gather(*(status(client, url) for url in urls))
        else:
            found = [await status(client, url) for url in urls]
        killing.cancel()

        assert sorted(found) == [422, 422, 422, 422, 422, 500]
        assert pool.crashes == 2


async def test_a_derivation_past_its_deadline_is_a_422_and_not_tried_again(
    config: Config,
) -> None:
    async with with_workers(config, deadline=0.3) as (client, pool):
        await client.put("/images/x", data=jpeg(4000, 3000))

        first = await status(client, "/images/x/_/full.webp")
        second = await status(client, "/images/x/_/full.webp")

        assert (first, second) == (422, 422)
        assert pool.timeouts == 1


async def test_a_full_queue_is_a_503_that_says_when_to_come_back(
    config: Config,
) -> None:
    async with with_workers(config, queue=1) as (client, _):
        await client.put("/images/x", data=jpeg(1600, 1200))

        answers = await asyncio.gather(
            *(client.get(f"/images/x/_/w_{700 + n}.webp") for n in range(6))
        )

        statuses = sorted(answer.status for answer in answers)
        assert statuses == [200, 200, 503, 503, 503, 503]
        for answer in answers:
            if answer.status == 503:
                assert int(answer.headers["Retry-After"]) >= 1


async def test_a_damaged_original_is_a_502_and_the_others_go_on(
    client: Client, tmp_path: Path
) -> None:
    for name in ("x", "y"):
        await client.put(f"/images/{name}", data=jpeg())
    (damaged,) = (tmp_path / "data" / "originals").rglob("x.o")
    damaged.write_bytes(damaged.read_bytes()[:-9])
    await asyncio.sleep(0)

    assert await status(client, "/images/x/_/w_40.jpg") == 502
    assert await status(client, "/images/y/_/w_40.jpg") == 200


async def test_no_error_shows_a_path_or_a_traceback(
    start: Start, config: Config, tmp_path: Path
) -> None:
    client = await start(config)
    await client.put("/images/x", data=jpeg())
    (damaged,) = (tmp_path / "data" / "originals").rglob("x.o")
    damaged.write_bytes(b"")

    for url in ("/images/x/_/w_40.jpg", "/images/nothing", "/images/x?w=0", "/else"):
        async with client.get(url) as answer:
            text = await answer.text()
        assert answer.status >= 400
        assert str(tmp_path) not in text
        assert "Traceback" not in text


async def test_what_nobody_foresaw_is_a_500_without_details(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Service, "tag", None)

    answer = await client.get("/images/x")

    assert answer.status == 500
    assert "NoneType" not in await answer.text()
    assert "NoneType" in caplog.text
