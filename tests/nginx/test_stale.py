"""Entries that nginx may give while it renews them, unless they have been purged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from nginx.harness import PATH, RECIPE, SECRET, Front, Upstream, nginx_before

from image_repo.purge import REFRESH_HEADER, Purge, RefreshPurge, UnlinkPurge

CONTROL = "public, max-age=1, s-maxage=1, stale-while-revalidate=30"
ELSEWHERE = "/images/a/_/v_0123456789abcdef/w_400.webp"


@dataclass
class Image:
    """One derived image, as the server answers it; asked for a refresh it tells where.

    While `held` is not set each answer waits, and is then what it was when asked for.
    """

    body: bytes = b"old"
    etag: str = '"one"'
    count: int = 0
    held: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, request: web.Request, _: str) -> web.StreamResponse:
        if REFRESH_HEADER in request.headers:
            return web.Response(
                status=302,
                headers={
                    "X-Accel-Expires": "@1",
                    "Cache-Control": "no-store",
                    "Location": ELSEWHERE,
                },
            )
        self.count += 1
        body, headers = self.body, {"Cache-Control": CONTROL, "ETag": self.etag}
        await self.held.wait()
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    def change(self) -> None:
        self.body, self.etag = b"new", '"two"'

    async def asked(self, count: int) -> None:
        """Return when it has been asked so often."""
        async with asyncio.timeout(5):
            while self.count < count:
                await asyncio.sleep(0.01)


@dataclass
class Site:
    front: Front
    image: Image
    purge: Purge


@asynccontextmanager
async def expired(directory: Path, way: str = "unlink") -> AsyncIterator[Site]:
    """Nginx whose entry has expired a second ago."""
    shown = Image()
    shown.held.set()
    async with (
        nginx_before(Upstream(shown).app, directory) as front,
        aiohttp.ClientSession() as session,
    ):
        ways: dict[str, Purge] = {
            "unlink": UnlinkPurge(front.cache, RECIPE),
            "refresh": RefreshPurge(front.url, SECRET, session),
        }
        assert (await front.ask()).body == b"old"
        await asyncio.sleep(2.1)
        yield Site(front, shown, ways[way])


async def test_an_expired_entry_is_given_to_a_crowd_while_one_request_renews_it(
    tmp_path: Path,
) -> None:
    async with expired(tmp_path) as site:
        site.image.change()
        site.image.held.clear()
        crowd = [asyncio.create_task(site.front.ask()) for _ in range(20)]
        await asyncio.wait(crowd, timeout=1)
        stale = [t.result() for t in crowd if t.done()]
        site.image.held.set()
        answers = await asyncio.gather(*crowd)

        assert site.image.count == 2
        assert {a.status for a in answers} == {200}
        assert [(a.body, a.cache) for a in stale] == [(b"old", "UPDATING")] * 19
        assert sorted(a.body for a in answers) == [b"new"] + [b"old"] * 19
        assert (await site.front.ask()).body == b"new"


async def test_one_that_has_not_changed_costs_one_revalidation(tmp_path: Path) -> None:
    async with expired(tmp_path) as site:
        answers = await site.front.several(20)

        assert site.image.count == 2
        assert {(a.status, a.body) for a in answers} == {(200, b"old")}


@pytest.mark.parametrize("way", ["unlink", "refresh"])
async def test_nobody_gets_an_expired_entry_that_was_purged(
    tmp_path: Path, way: str
) -> None:
    async with expired(tmp_path, way) as site:
        site.image.change()
        assert await site.purge.forget([PATH]) == ()

        answers = await site.front.several(20)

        assert {(a.status, a.body) for a in answers} == {(200, b"new")}
        assert (await site.front.ask()).body == b"new"


@pytest.mark.parametrize("way", ["unlink", "refresh"])
@pytest.mark.parametrize("changed", [True, False], ids=["200", "304"])
async def test_nobody_who_comes_after_a_purge_gets_what_was_being_renewed_before_it(
    tmp_path: Path, way: str, *, changed: bool
) -> None:
    """The server purges once more when the answer that was leaving has left."""
    async with expired(tmp_path, way) as site:
        if changed:
            site.image.body, site.image.etag = b"between", '"between"'
        site.image.held.clear()
        before = asyncio.create_task(site.front.ask())
        await site.image.asked(2)

        held, site.image.held = site.image.held, asyncio.Event()
        site.image.held.set()
        site.image.change()
        assert await site.purge.forget([PATH]) == ()
        during = [asyncio.create_task(site.front.ask()) for _ in range(20)]
        # Who waits for a lock looks each half second: not just now.
        await asyncio.wait(during, timeout=1.25)
        held.set()
        await before
        assert await site.purge.forget([PATH]) == ()
        after = await site.front.several(20)

        assert {(a.status, a.body) for a in await asyncio.gather(*during)} == {
            (200, b"new")
        }
        assert {(a.status, a.body) for a in after} == {(200, b"new")}


async def test_what_a_refresh_leaves_is_not_given_while_it_is_renewed(
    tmp_path: Path,
) -> None:
    """Not even stale-while-revalidate of the entry before it holds for it."""
    async with expired(tmp_path, "refresh") as site:
        site.image.change()
        site.image.held.clear()
        await site.purge.forget([PATH])

        crowd = [asyncio.create_task(site.front.ask()) for _ in range(20)]
        done, _ = await asyncio.wait(crowd, timeout=1)
        site.image.held.set()
        answers = await asyncio.gather(*crowd)

        assert not done
        assert {(a.status, a.body) for a in answers} == {(200, b"new")}
