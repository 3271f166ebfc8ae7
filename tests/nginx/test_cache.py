"""What nginx keeps, for how long, and what a crowd at one key costs the server."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web
from nginx.harness import PATH, Upstream, image, nginx_before, problem


@dataclass
class Scripted:
    """Answers as told, after a while; keeps count."""

    status: int = 200
    control: str = "public, max-age=60, s-maxage=600"
    etag: str = '"one"'
    body: bytes = b"0123456789"
    seconds: float = 0.0
    accel: str = ""
    count: int = 0

    async def __call__(self, request: web.Request, _: str) -> web.StreamResponse:
        self.count += 1
        status, body = self.status, self.body
        await asyncio.sleep(self.seconds)
        headers = {"X-Accel-Expires": self.accel} if self.accel else {}
        headers |= {"Cache-Control": self.control, "ETag": self.etag}
        if status == 200 and request.headers.get("If-None-Match") == self.etag:
            return web.Response(status=304, headers=headers)
        return web.Response(status=status, body=body, headers=headers)


async def test_a_cold_key_is_asked_for_once_however_many_wait(tmp_path: Path) -> None:
    answer = Scripted(seconds=0.3)
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        answers = await front.several(30)

    assert answer.count == 1
    assert {(a.status, a.body) for a in answers} == {(200, b"0123456789")}


async def test_spellings_of_one_cold_image_cost_one_derivation(tmp_path: Path) -> None:
    answer = Scripted(seconds=0.3)
    targets = [PATH, "/images/a?w=400", "/images/%61?w=400", "/images/a/_/w_0400.webp"]
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        answers = await asyncio.gather(*(front.ask(t) for t in targets * 4))

    assert answer.count == 1
    assert {(a.status, a.body) for a in answers} == {(200, b"0123456789")}


@pytest.mark.slow
async def test_the_lock_outlasts_a_derivation_of_more_than_five_seconds(
    tmp_path: Path,
) -> None:
    answer = Scripted(seconds=7)
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        answers = await front.several(20)

    assert answer.count == 1
    assert {a.status for a in answers} == {200}


async def test_nobody_gets_an_expired_entry_while_it_is_renewed(
    tmp_path: Path,
) -> None:
    """It may have been purged where the server keeps things, and only be left here."""
    answer = Scripted(control="max-age=1")
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        await front.ask()
        await asyncio.sleep(2.1)
        answer.seconds, answer.etag, answer.body = 0.4, '"two"', b"new"
        answers = await front.several(20)
        after = await front.ask()

    assert {a.status for a in answers} == {200}
    assert {a.body for a in answers} == {b"new"}
    assert after.body == b"new"


async def test_an_expired_entry_is_revalidated_by_its_etag(tmp_path: Path) -> None:
    answer = Scripted(control="max-age=1")
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        await front.ask()
        await asyncio.sleep(2.1)
        answer.control, answer.body = "max-age=60", b"never sent"
        again = await front.ask()
        hit = await front.ask()

    assert (again.status, again.cache, again.body) == (
        200,
        "REVALIDATED",
        b"0123456789",
    )
    assert (hit.cache, answer.count) == ("HIT", 2)


async def test_a_client_that_leaves_does_not_throw_the_image_away(
    tmp_path: Path,
) -> None:
    answer = Scripted(seconds=0.5)
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.sleep(0.2)
        writer.close()
        await asyncio.sleep(0.6)
        late = await front.ask()

    assert (late.cache, answer.count) == ("HIT", 1)


async def test_head_then_get_gives_the_whole_body(tmp_path: Path) -> None:
    answer = Scripted()
    upstream = Upstream(answer)
    async with nginx_before(upstream.app, tmp_path) as front:
        head = await front.ask(method="HEAD")
        get = await front.ask()
        alias = await front.ask("/images/a?w=400", "HEAD")

    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "10")
    assert (get.cache, get.body) == ("HIT", b"0123456789")
    assert (alias.cache, alias.body) == ("HIT", b"")
    assert [a.method for a in upstream.asked if a.target in upstream.hops] == ["GET"]


@pytest.mark.parametrize("target", [PATH, "/images/a?w=400"])
async def test_ranges_are_served_cold_and_hot(tmp_path: Path, target: str) -> None:
    async with nginx_before(Upstream(Scripted()).app, tmp_path) as front:
        for cache in ("MISS", "HIT"):
            part = await front.ask(target, headers={"Range": "bytes=2-4"})
            assert (part.cache, part.status, part.body) == (cache, 206, b"234")
            assert part.headers["Content-Range"] == "bytes 2-4/10"
        beyond = await front.ask(target, headers={"Range": "bytes=20-"})
        whole = await front.ask(target)

    assert beyond.status == 416
    assert whole.body == b"0123456789"


@pytest.mark.parametrize("target", [PATH, "/images/a?w=400"])
@pytest.mark.parametrize("given", ['"one"', 'W/"one"', '"x", "one"', "*"])
async def test_a_matching_etag_is_304_cold_and_hot(
    tmp_path: Path, target: str, given: str
) -> None:
    async with nginx_before(Upstream(Scripted()).app, tmp_path) as front:
        for cache in ("MISS", "HIT"):
            answer = await front.ask(target, headers={"If-None-Match": given})
            assert (answer.status, answer.cache, answer.body) == (304, cache, b"")
            assert answer.headers["ETag"] == '"one"'
        other = await front.ask(target, headers={"If-None-Match": '"other"'})

    assert other.status == 200


@pytest.mark.parametrize("status", [400, 422, 429, 500, 502, 503])
async def test_an_error_is_kept_one_second_if_the_server_says_so(
    tmp_path: Path, status: int
) -> None:
    upstream = Upstream(lambda *_: _soon(problem(status)))
    async with nginx_before(upstream.app, tmp_path) as front:
        answers = await front.several(10)
        known = len(upstream.hops)
        await asyncio.sleep(2.1)
        late = await front.ask()

    assert {a.status for a in answers} == {status}
    assert known == 1
    assert late.cache == "EXPIRED"
    assert len(upstream.hops) == 2
    assert late.headers["Cache-Control"] == "no-store"


async def _soon(response: web.StreamResponse) -> web.StreamResponse:
    await asyncio.sleep(0.1)
    return response


@pytest.mark.parametrize("status", [302, 400, 403, 422, 500, 503])
@pytest.mark.parametrize("target", [PATH, "/images/a?w=400"])
async def test_cache_control_alone_never_keeps_an_error(
    tmp_path: Path, status: int, target: str
) -> None:
    answer = Scripted(status=status, control="public, max-age=600")
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        answers = [await front.ask(target) for _ in range(3)]

    assert [a.status for a in answers] == [status] * 3
    assert answer.count == 3


@pytest.mark.parametrize("status", [404, 410])
async def test_absence_is_kept_ten_seconds_and_takes_the_old_entrys_place(
    tmp_path: Path, status: int
) -> None:
    async def gone(*_: object) -> web.StreamResponse:
        return web.Response(status=status)

    upstream = Upstream(Scripted(control="max-age=1"))
    async with nginx_before(upstream.app, tmp_path) as front:
        await front.ask()
        await asyncio.sleep(2.1)
        upstream.answer = gone
        first, second = await front.ask(), await front.ask()
        upstream.answer = Scripted(status=500)
        third = await front.ask()

    assert [a.status for a in (first, second, third)] == [status] * 3
    assert len(upstream.hops) == 2


async def test_an_image_that_may_not_be_kept_is_not(tmp_path: Path) -> None:
    answer = Scripted(accel="0", control="no-store")
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        answers = [await front.ask() for _ in range(2)]

    assert [a.cache for a in answers] == ["MISS", "MISS"]
    assert answer.count == 2


async def test_the_servers_vary_and_cookies_neither_split_nor_prevent_an_entry(
    tmp_path: Path,
) -> None:
    async def varied(request: web.Request, path: str) -> web.StreamResponse:
        response = await image(request, path)
        response.headers["Vary"] = "Accept"
        response.headers["Set-Cookie"] = "a=b"
        return response

    upstream = Upstream(varied)
    async with nginx_before(upstream.app, tmp_path) as front:
        answers = [
            await front.ask(headers={"Accept": accept})
            for accept in ("a/b", "c/d", "*/*")
        ]
        files = [p for p in front.cache.rglob("*") if p.is_file()]

    assert [a.cache for a in answers] == ["MISS", "HIT", "HIT"]
    assert len(files) == len(upstream.hops) == 1
    assert not any("Set-Cookie" in a.headers for a in answers)


async def test_every_answer_of_the_cached_hop_says_its_cache_status(
    tmp_path: Path,
) -> None:
    answer = Scripted(status=503, accel="1", control="no-store")
    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        answers = [await front.ask(t) for t in (PATH, PATH, "/images/a?w=400")]

    assert [(a.status, a.cache) for a in answers] == [
        (503, "MISS"),
        (503, "HIT"),
        (503, "HIT"),
    ]


async def test_a_server_that_drops_requests_is_asked_again_at_once(
    tmp_path: Path,
) -> None:
    async def drop(request: web.Request, _: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    upstream = Upstream(drop)
    async with nginx_before(upstream.app, tmp_path) as front:
        dropped = [await front.ask() for _ in range(3)]
        asked = len(upstream.hops)
        upstream.answer = image
        good = await front.ask()

    assert [a.status for a in dropped] == [502] * 3
    assert asked == 3
    assert good.status == 200


async def test_connections_to_the_server_are_kept(tmp_path: Path) -> None:
    peers = set()

    async def answer(request: web.Request, _: str) -> web.StreamResponse:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return problem(404, "0")

    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        for _ in range(12):
            await front.ask()

    # one for each of nginx's processes at most
    assert len(peers) < 12


async def test_a_second_recipe_is_a_second_set_of_entries(tmp_path: Path) -> None:
    async with nginx_before(Upstream().app, tmp_path) as front:
        await front.ask()
    async with nginx_before(Upstream().app, tmp_path, recipe="f" * 16) as front:
        assert (await front.ask()).cache == "MISS"
