"""Several machines of one store, each with a server and an nginx of its own."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nginx.harness import SECRET, Front, free_port, nginx, serving
from nginx.test_end_to_end import COLOURS, HOT
from pictures import colour, decode, encode
from PIL import Image

from image_repo import assemble
from image_repo.config import Config
from image_repo.nginx import settings as settings_of
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app


@asynccontextmanager
async def machines(
    pool: Pool, way: str, *, crossed: bool = False
) -> AsyncIterator[list[Front]]:
    """Two of one store: on each a server with disk caches of its own, and nginx.

    *crossed*: each nginx names both servers.
    """
    directory = Path(tempfile.mkdtemp(prefix="image-repo-test."))
    directory.chmod(0o755)
    base, ports = Config(), [free_port() for _ in range(2)]
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        every = []
        for own, other in (ports, ports[::-1]):
            where = directory / str(own)
            where.mkdir()
            local = replace(base.local_cache_configuration, cache_path=f"{where}/disk")
            config = replace(
                base,
                data=str(directory / "data"),
                behind_nginx=True,
                local_cache_configuration=local,
                http=replace(base.http, refresh_secret=SECRET, s_maxage=2),
                peers=replace(base.peers, urls=f"http://127.0.0.1:{other}"),
                nginx=replace(
                    base.nginx,
                    purge=way,
                    listen=f"127.0.0.1:{own}",
                    cache_path=f"{where}/cache",
                ),
            )
            room = await stack.enter_async_context(assemble.open_room(config, pool))
            port = await stack.enter_async_context(serving(make_app(room)))
            every.append(
                replace(settings_of(config, where), upstream=f"127.0.0.1:{port}")
            )
        if crossed:
            both = " ".join(chosen.upstream for chosen in every)
            every = [
                replace(c, options=replace(c.options, servers=both)) for c in every
            ]
        yield [await stack.enter_async_context(nginx(chosen)) for chosen in every]


@pytest.mark.parametrize("way", ["unlink", "refresh"])
async def test_a_change_on_one_machine_is_seen_at_once_by_the_nginx_of_another(
    pool: Pool, way: str
) -> None:
    async with machines(pool, way) as fronts:
        for number, shade in enumerate(COLOURS[:6]):
            body = encode(Image.new("RGB", (60, 60), shade), "PNG")
            put = await fronts[number % 2].ask("/images/x", "PUT", body=body)
            assert put.status in {200, 201}
            for front in fronts:
                answers = [await front.ask(HOT) for _ in range(2)]
                assert answers[1].cache == "HIT"
                assert [colour(decode(a.body), (9, 9)) for a in answers] == [shade] * 2
        deleted = await fronts[0].ask("/images/x", "DELETE")
        gone = [(await front.ask(HOT)).status for front in fronts]

    assert (deleted.status, gone) == (204, [404, 404])


async def test_an_nginx_that_asks_the_server_of_another_machine_is_not_purged(
    pool: Pool,
) -> None:
    async with machines(pool, "unlink", crossed=True) as fronts:
        for shade in COLOURS[:2]:
            body = encode(Image.new("RGB", (60, 60), shade), "PNG")
            await fronts[0].ask("/images/x", "PUT", body=body)
            derived = pool.derivations
            seen = sorted([await shade_of(front) for front in fronts])
            assert seen == sorted([COLOURS[0], shade])
            assert pool.derivations == derived + 1  # whichever was asked
        await asyncio.sleep(3.1)
        later = [await shade_of(front) for front in fronts]

    assert later == [COLOURS[1]] * 2


async def shade_of(front: Front) -> tuple[int, int, int]:
    return colour(decode((await front.ask(HOT)).body), (9, 9))
