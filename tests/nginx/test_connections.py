"""How many cold requests the connections of one process of nginx are enough for."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nginx.guide import TEXT, replaced
from nginx.harness import Front, Upstream, nginx_from, serving, settings
from nginx.test_limits import FREE, Busy

from image_repo.config import Config
from image_repo.nginx import render


@pytest.mark.parametrize(("connections", "count"), [(64, 14), (768, 180)])
async def test_a_cold_request_takes_four_connections(
    tmp_path: Path, connections: int, count: int
) -> None:
    """Of the last sixteenth nginx gives none, and some are sockets that listen."""
    async with cramped(tmp_path, connections) as (front, busy):
        await overloaded(front, busy, count + 30)
        waiting = busy.waiting
    enough = TEXT.partition(f"worker_connections {connections}`")[2].split()[4:5]

    assert 0.9 * count <= waiting <= 1.1 * count
    assert enough in ([], [str(count)])


async def overloaded(front: Front, busy: Busy, count: int) -> Counter[int]:
    """Ask for so many cold images at once, and let them go; return the statuses."""

    async def ask(n: int) -> int:
        try:
            return (await front.ask(f"/images/slow{n}/_/w_4.webp")).status
        except (OSError, EOFError):  # cut off
            return 0

    begun = [asyncio.create_task(ask(n)) for n in range(count)]
    before = -1
    while busy.waiting > before:
        before = busy.waiting
        await asyncio.sleep(0.5)
    busy.free.set()
    return Counter(await asyncio.gather(*begun))


@asynccontextmanager
async def cramped(
    directory: Path, connections: int
) -> AsyncIterator[tuple[Front, Busy]]:
    """One process of nginx with so many connections, without limits of ours."""
    busy = Busy()
    async with serving(Upstream(busy).app) as port:
        base = settings(directory, upstream=f"127.0.0.1:{port}")
        chosen = replace(base, options=replace(base.options, **FREE))  # type: ignore[arg-type] # checked by the class
        text = replaced(
            render(chosen),
            {
                "worker_connections 2048": f"worker_connections {connections}",
                "worker_processes auto": "worker_processes 1",
            },
        )
        conf = directory / "nginx.conf"
        conf.write_text(text)
        async with nginx_from(conf, chosen, directory) as front:
            yield front, busy


async def test_one_process_of_its_own_has_enough_for_all_that_are_let_through(
    tmp_path: Path,
) -> None:
    allowed = Config().nginx.cold_total
    async with cramped(tmp_path, 2048) as (front, busy):
        statuses = await overloaded(front, busy, allowed)

    assert statuses == {200: allowed}
