"""Nginx before several servers: each image has one of them, while that one lives."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web
from nginx.harness import Answer, Front, Upstream, image, nginx, serving, settings

NAMES = (
    *(f"plots/{n}" for n in range(12)),
    *("a", "a b", "é", "a.v2", "a.b/c.d", "x.png/y", ".jpg", "b/.png", "a#%?", "@2x+"),
)
FORMS: tuple[tuple[str, str], ...] = (
    ("GET", "/images/{}"),
    ("GET", "/images/{}?w=40"),
    ("GET", "/images/{}.png"),
    ("HEAD", "/images/{}.JpEg"),
    ("GET", "/images/{}/_/w_40.webp"),
    ("GET", "/images/{}/_/v_0123456789abcdef/w_40.webp"),
    ("GET", "/images/{}/_/full.jpg?url=True"),
    ("GET", "/images/{}/_/info.json"),
    ("POST", "/images/{}/_/purge"),
    ("POST", "/images/{}"),
    ("PUT", "/images/{}"),
    ("PUT", "/images/{}.heic"),
    ("DELETE", "/images/{}"),
)


@dataclass
class Several:
    front: Front
    servers: list[Upstream]
    stops: list[Callable[[], Awaitable[None]]]

    def asked(self) -> set[int]:
        """Return which servers were asked since the last time."""
        found = {n for n, server in enumerate(self.servers) if server.asked}
        for server in self.servers:
            server.asked.clear()
        return found

    async def server_of(self, name: str) -> int:
        self.asked()
        await self.front.ask(f"/images/{quote(name)}/_/info.json")
        (found,) = self.asked()
        return found


@asynccontextmanager
async def several(
    directory: Path, kind: type[Upstream] = Upstream
) -> AsyncIterator[Several]:
    servers = [kind() for _ in range(4)]
    async with AsyncExitStack() as stack:
        ports: list[int] = []
        stops: list[Callable[[], Awaitable[None]]] = []
        for server in servers:
            one = await stack.enter_async_context(AsyncExitStack())
            ports.append(await one.enter_async_context(serving(server.app)))
            stops.append(one.aclose)
        chosen = settings(directory)
        listed = " ".join(f"127.0.0.1:{port}" for port in ports)
        options = replace(chosen.options, servers=listed)
        front = await stack.enter_async_context(nginx(replace(chosen, options=options)))
        yield Several(front, servers, stops)


async def test_every_form_of_url_of_an_image_goes_to_the_same_server(
    tmp_path: Path,
) -> None:
    found = {}
    async with several(tmp_path) as site:
        for name in NAMES:
            spelt = "".join(f"%{b:02x}" if b != 47 else "/" for b in name.encode())
            for way in (quote(name, safe="/@+"), spelt):
                for method, form in FORMS:
                    body = b"abc" if method in {"POST", "PUT"} else b""
                    target = form.format(way)
                    answer = await site.front.ask(target, method, body=body)
                    assert answer.status < 500, (target, answer)
            found[name] = site.asked()

    assert {name: len(servers) for name, servers in found.items()} == dict.fromkeys(
        NAMES, 1
    )
    assert set().union(*found.values()) == {0, 1, 2, 3}


async def test_an_image_with_an_extension_in_its_name_is_another_one(
    tmp_path: Path,
) -> None:
    async with several(tmp_path) as site:
        for name in NAMES:
            await site.front.ask(f"/images/{quote(name)}.png/_/w_40.webp")
            await site.front.ask(f"/images/{quote(name)}.png.jpg")
            assert site.asked() == {await site.server_of(f"{name}.png")}


async def test_a_path_to_several_images_that_leads_to_one_asks_the_server_of_that(
    tmp_path: Path,
) -> None:
    class Leading(Upstream):
        async def _handle(self, request: web.Request) -> web.StreamResponse:
            response = await super()._handle(request)
            if "regex" not in request.raw_path:
                return response
            return web.Response(headers={"X-Accel-Redirect": "/_c/images/a/_/w_4.webp"})

    async with several(tmp_path, Leading) as site:
        whose = await site.server_of("a")
        others = [name for name in NAMES if await site.server_of(name) != whose]
        site.asked()

        answer = await site.front.ask(f"/images/{quote(others[0])}?regex=.")

        assert answer.status == 200
        assert site.servers[whose].hops == ["/_c/images/a/_/w_4.webp"]


async def test_a_server_that_has_stopped_does_not_cost_its_images(
    tmp_path: Path,
) -> None:
    async with several(tmp_path) as site:
        lost = [name for name in NAMES[:12] if await site.server_of(name) == 0]
        kept = [name for name in NAMES[:12] if name not in lost]
        before = {name: await site.server_of(name) for name in kept}
        await site.stops[0]()
        site.asked()

        for name in lost:
            answers = [
                await site.front.ask(f"/images/{name}{rest}", method)
                for rest in ("/_/w_40.webp", "?w=41", "/_/v_0123456789abcdef/w_40.webp")
                for method in ("GET", "HEAD")
            ]
            assert {a.status for a in answers} <= {200, 400}
            assert [a.status for a in answers[:4]] == [200] * 4
            assert len(site.asked()) == 1  # all of them go to the same other one
            put = await site.front.ask(f"/images/{name}", "PUT", body=b"abc")
            assert _is_problem(put, 502)  # it might have been done

        assert lost
        assert {name: await site.server_of(name) for name in kept} == before


async def test_a_request_that_may_have_been_done_is_not_sent_again(
    tmp_path: Path,
) -> None:
    class Dropping(Upstream):
        async def _handle(self, request: web.Request) -> web.StreamResponse:
            await super()._handle(request)
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

    counts = {}
    async with several(tmp_path, Dropping) as site:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            body = b"abc" if method in {"POST", "PUT"} else b""
            answer = await site.front.ask("/images/a", method, body=body)
            assert _is_problem(answer, 502), method
            counts[method] = sum(len(server.asked) for server in site.servers)
            site.asked()

    assert counts == {"GET": 2, "HEAD": 2, "POST": 1, "PUT": 1, "DELETE": 1}


@pytest.mark.parametrize(
    "target", ["/images/a/_/w_400.webp", "/images/a?w=400", "/images/a/_/info.json"]
)
async def test_servers_that_are_all_away_are_a_problem_in_json(
    tmp_path: Path, target: str
) -> None:
    async with several(tmp_path) as site:
        for stop in site.stops:
            await stop()

        assert _is_problem(await site.front.ask(target), 502)


async def test_a_crowd_at_a_cold_image_costs_one_request_of_one_server(
    tmp_path: Path,
) -> None:
    async def slow(request: web.Request, path: str) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return await image(request, path)

    async with several(tmp_path) as site:
        for server in site.servers:
            server.answer = slow
        answers = await site.front.several(100, "/images/a/_/w_40.webp")

        assert {a.status for a in answers} == {200}
        assert sum(len(server.hops) for server in site.servers) == 1


def _is_problem(answer: Answer, status: int) -> bool:
    kind = answer.headers["Content-Type"]
    return (answer.status, kind) == (status, "application/problem+json")
