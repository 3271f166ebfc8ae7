"""Who asks for too much at once is refused; nobody else, and no hit, is."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from aiohttp import web
from nginx.harness import (
    PATH,
    SECRET,
    Answer,
    Front,
    Upstream,
    image,
    nginx_before,
    settings,
)

from image_repo.errors import ConfigError
from image_repo.front import FrontOptions
from image_repo.nginx import render
from image_repo.options import load
from image_repo.purge import REFRESH_HEADER, NginxOptions

FREE = {"cold_total": 0, "cold_per_client": 0, "cold_rate": 0}


@dataclass
class Busy:
    """Answers images, those named `slow…` once they are let go."""

    free: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0

    async def __call__(self, request: web.Request, path: str) -> web.StreamResponse:
        if path.startswith("/images/slow"):
            self.waiting += 1
            await self.free.wait()
        if request.headers.get("If-None-Match") == '"one"':
            return web.Response(status=304, headers={"ETag": '"one"'})
        return await image(request, path)

    async def full(self, count: int) -> None:
        """Return when so many requests wait."""
        async with asyncio.timeout(10):
            while self.waiting < count:
                await asyncio.sleep(0.01)


@dataclass
class Site:
    front: Front
    busy: Busy
    upstream: Upstream

    async def of(self, client: str, target: str = PATH) -> Answer:
        """Ask as a client that comes by a proxy."""
        return await self.front.ask(target, headers={"X-Forwarded-For": client})

    def begin(self, client: str, *names: str) -> list[asyncio.Task[Answer]]:
        return [
            asyncio.create_task(self.of(client, f"/images/{name}/_/w_4.webp"))
            for name in names
        ]


@asynccontextmanager
async def limited(
    directory: Path, times: int = 1, **options: object
) -> AsyncIterator[Site]:
    """Nginx with no limit but *options*, behind a proxy on this machine."""
    base = settings(directory).options
    changes = {**FREE, "trusted_proxies": "127.0.0.1", **options}
    chosen = replace(base, **changes)  # type: ignore[arg-type] # checked by the class
    busy = Busy()
    upstream = Upstream(busy)
    async with nginx_before(upstream.app, directory, times, options=chosen) as front:
        try:
            yield Site(front, busy, upstream)
        finally:
            busy.free.set()


def refused(answer: Answer, status: int) -> bool:
    """Return whether it says when to try again, in the form of all errors."""
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.body)["status"] == answer.status
    return answer.status == status


# Cold work


@pytest.mark.parametrize("times", [1, 2], ids=["one server", "several servers"])
@pytest.mark.parametrize("form", ["/images/{}/_/w_4.webp", "/images/{}?w=4"])
async def test_cold_requests_over_the_limit_are_refused_while_hits_go_on(
    tmp_path: Path, times: int, form: str
) -> None:
    async with limited(tmp_path, times, cold_per_client=4) as site:
        await site.of("192.0.2.1")
        cold = [
            asyncio.create_task(site.of("192.0.2.1", form.format(f"slow{n}")))
            for n in range(44)
        ]
        await site.busy.full(4)
        hits = [await site.of("192.0.2.1") for _ in range(100)]
        done, _ = await asyncio.wait(cold, timeout=1)
        site.busy.free.set()
        answers = await asyncio.gather(*cold)

    assert {(a.status, a.cache) for a in hits} == {(200, "HIT")}
    assert len(done) == 40
    assert all(refused(task.result(), 503) for task in done)
    assert Counter(a.status for a in answers) == {503: 40, 200: 4}


async def test_a_client_that_asks_too_fast_waits_and_is_then_refused(
    tmp_path: Path,
) -> None:
    async with limited(tmp_path, cold_rate=10, cold_burst=5) as site:
        await site.of("192.0.2.1")
        await asyncio.sleep(0.2)  # the first has been forgiven
        begun = asyncio.get_running_loop().time()
        names = [f"a{n}" for n in range(40)]
        answers = await asyncio.gather(*site.begin("192.0.2.1", *names))
        took = asyncio.get_running_loop().time() - begun
        hit = await site.of("192.0.2.1")
        other = await site.of("192.0.2.2", "/images/b/_/w_4.webp")

    counts = Counter(a.status for a in answers)
    assert counts == {200: 11, 429: 29}
    assert all(refused(a, 429) for a in answers if a.status != 200)
    assert took > 0.4  # five in their turn, ten in a second
    assert (hit.cache, other.status) == ("HIT", 200)


async def test_all_clients_together_have_a_limit(tmp_path: Path) -> None:
    async with limited(tmp_path, cold_total=3) as site:
        begun = [
            *site.begin("192.0.2.1", "slow1"),
            *site.begin("192.0.2.2", "slow2"),
            *site.begin("192.0.2.3", "slow3"),
        ]
        await site.busy.full(3)
        fourth = await site.of("192.0.2.4")
        site.busy.free.set()
        answers = await asyncio.gather(*begun)
        again = await site.of("192.0.2.4")

    assert refused(fourth, 503)
    assert {a.status for a in answers} == {200}
    assert again.status == 200


async def test_one_client_does_not_use_up_what_others_may(tmp_path: Path) -> None:
    async with limited(tmp_path, cold_per_client=2, cold_rate=1) as site:
        begun = site.begin("192.0.2.1", *(f"slow{n}" for n in range(20)))
        await site.busy.full(2)
        others = [
            await site.of(f"192.0.2.{n}", f"/images/b{n}/_/w_4.webp")
            for n in range(2, 8)
        ]
        site.busy.free.set()
        await asyncio.gather(*begun)

    assert {a.status for a in others} == {200}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:3:4:5:6", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("2001:db8::1", "2001:db8::2:3:4:5", True),
        ("2001:db8::1", "2001:db9::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
    ],
)
async def test_a_client_is_an_address_or_an_ipv6_network(
    tmp_path: Path, first: str, second: str, same: bool
) -> None:
    async with limited(tmp_path, cold_per_client=1) as site:
        (begun,) = site.begin(first, "slow")
        await site.busy.full(1)
        answer = await site.of(second)
        site.busy.free.set()
        await begun

    assert answer.status == (503 if same else 200)


async def test_a_crowd_at_one_cold_image_is_one_request(tmp_path: Path) -> None:
    async with limited(
        tmp_path, cold_total=1, cold_per_client=1, cold_rate=1, cold_burst=1
    ) as site:
        begun = site.begin("192.0.2.1", *["slow"] * 50)
        await site.busy.full(1)
        await asyncio.sleep(0.2)
        site.busy.free.set()
        answers = await asyncio.gather(*begun)

    assert {a.status for a in answers} == {200}
    assert len(site.upstream.hops) == 1


async def test_one_who_is_refused_costs_others_who_wait_for_the_same_image_nothing(
    tmp_path: Path,
) -> None:
    target = "/images/b/_/w_4.webp"
    async with limited(tmp_path, cold_per_client=1) as site:
        (begun,) = site.begin("192.0.2.1", "slow")
        await site.busy.full(1)
        crowd = [
            asyncio.create_task(site.of(f"192.0.2.{1 if n % 10 else n + 2}", target))
            for n in range(60)
        ]
        answers = await asyncio.gather(*crowd)
        site.busy.free.set()
        await begun

    others = answers[::10]
    assert {a.status for a in others} == {200}
    assert {a.status for a in answers} <= {200, 503}
    assert site.upstream.hops.count("/_c" + target) == 1


async def test_a_refusal_is_kept_nowhere(tmp_path: Path) -> None:
    async with limited(tmp_path, cold_per_client=1) as site:
        (begun,) = site.begin("192.0.2.1", "slow")
        await site.busy.full(1)
        no = await site.of("192.0.2.1")
        kept = site.front.cache_file(PATH).exists()
        site.busy.free.set()
        await begun
        yes = await site.of("192.0.2.1")

    assert refused(no, 503)
    assert no.headers.get("Cache-Control") is None
    assert not kept
    assert (yes.status, yes.cache) == (200, "MISS")


async def test_revalidations_and_refreshes_are_not_limited(tmp_path: Path) -> None:
    async with limited(tmp_path, cold_total=1, cold_per_client=1) as site:
        site.upstream.answer = _short
        await site.of("192.0.2.1")
        await asyncio.sleep(2.1)
        site.upstream.answer = site.busy
        (begun,) = site.begin("192.0.2.1", "slow")
        await site.busy.full(1)

        known = await site.of("192.0.2.1")
        headers = {"X-Forwarded-For": "192.0.2.1", REFRESH_HEADER: SECRET}
        fresh = await site.front.ask(headers=headers)
        wrong = await site.front.ask(
            "/images/c/_/w_4.webp", headers=headers | {REFRESH_HEADER: "x" * 16}
        )
        site.busy.free.set()
        await begun

    assert (known.status, known.cache) == (200, "REVALIDATED")
    assert (fresh.status, fresh.cache) == (200, "BYPASS")
    assert refused(wrong, 503)


async def _short(*_: object) -> web.StreamResponse:
    headers = {"ETag": '"one"', "Cache-Control": "max-age=1"}
    return web.Response(body=b"x", headers=headers)


async def test_limits_of_0_are_none(tmp_path: Path) -> None:
    async with limited(tmp_path, uploads_per_client=0, archives_per_client=0) as site:
        text = render(site.front.settings)
        begun = site.begin("192.0.2.1", *(f"slow{n}" for n in range(100)))
        await site.busy.full(100)
        site.busy.free.set()
        answers = await asyncio.gather(*begun)

    assert {a.status for a in answers} == {200}
    assert "limit_conn " not in text
    assert "limit_req" not in text.replace("limit_req_", "").replace("$limit_req", "")


async def test_a_page_of_new_images_is_not_refused_as_nginx_comes(
    tmp_path: Path,
) -> None:
    """Sixty of them, on as many connections as HTTP/2 would have streams."""
    answer = Upstream(image)
    async with nginx_before(answer.app, tmp_path) as front:
        answers = await asyncio.gather(
            *(front.ask(f"/images/a{n}/_/w_4.webp") for n in range(60))
        )

    assert {a.status for a in answers} == {200}


@pytest.mark.slow
async def test_a_crowd_at_a_derivation_of_eight_seconds_costs_one(
    tmp_path: Path,
) -> None:
    async def slow(request: web.Request, path: str) -> web.StreamResponse:
        await asyncio.sleep(8)
        return await image(request, path)

    upstream = Upstream(slow)
    async with nginx_before(upstream.app, tmp_path) as front:
        answers = await front.several(200)

    assert {a.status for a in answers} == {200}
    assert len(upstream.hops) == 1


# Uploads


async def begin_upload(
    front: Front, client: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    head = f"PUT /images/x HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\nabc".encode())
    await writer.drain()
    return reader, writer


async def test_uploads_of_one_client_have_a_limit(tmp_path: Path) -> None:
    async with limited(tmp_path, uploads_per_client=3) as site:
        begun = [await begin_upload(site.front, "192.0.2.1") for _ in range(3)]
        await asyncio.sleep(0.2)
        answers = {
            client: await site.front.ask(
                "/images/y", "PUT", {"X-Forwarded-For": client}, b"abc"
            )
            for client in ("192.0.2.1", "192.0.2.2")
        }
        read = await site.of("192.0.2.1")
        for _, writer in begun:
            writer.close()

    assert refused(answers["192.0.2.1"], 429)
    assert answers["192.0.2.2"].status == 201
    assert read.status == 200


async def test_requests_of_one_client_for_all_below_a_path_have_a_limit(
    tmp_path: Path,
) -> None:
    busy = Busy()

    async def below(request: web.Request) -> web.StreamResponse:
        return await busy(request, request.path)

    app = web.Application()
    app.router.add_get("/{any:.*}", below)
    options = replace(settings(tmp_path).options, archives_per_client=2)
    async with nginx_before(app, tmp_path, options=options) as front:
        targets = ("/images/slow/?xsize=40", "/images/slow/a/")
        begun = [asyncio.create_task(front.ask(target)) for target in targets]
        await busy.full(2)
        answers = [await front.ask(f"/images/{name}/") for name in ("x", "x/y")]
        others = [await front.ask(t) for t in ("/images", "/images/x/_/info.json")]
        busy.free.set()
        whole = await asyncio.gather(*begun)
        after = await front.ask("/images/x/")

    assert all(refused(answer, 429) for answer in answers)
    assert {a.status for a in (*others, *whole, after)} == {200}


@pytest.mark.slow
async def test_one_who_stops_sending_or_reading_is_let_go(tmp_path: Path) -> None:
    async def large(*_: object) -> web.StreamResponse:
        return web.Response(body=bytes(50_000_000))

    async with nginx_before(Upstream(large).app, tmp_path) as front:
        slow, sender = await begin_upload(front, "")
        reader, taker = await asyncio.open_connection("127.0.0.1", front.port, limit=1)
        taker.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.sleep(40)

        taken = 0
        with contextlib.suppress(ConnectionResetError):
            while part := await reader.read(2**16):
                taken += len(part)
        with contextlib.suppress(ConnectionResetError):
            assert await slow.read() == b""
        sender.close()
        taker.close()

    assert 0 < taken < 50_000_000


# Who a client is


@pytest.mark.parametrize(
    ("trusted", "given", "address"),
    [
        ("", "6.6.6.6", "127.0.0.1"),
        ("10.0.0.0/8", "6.6.6.6", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.9", "192.0.2.9"),
        ("127.0.0.0/8", "6.6.6.6, 192.0.2.9", "192.0.2.9"),
        ("127.0.0.1 10.0.0.0/8", "6.6.6.6, 192.0.2.9, 10.1.2.3", "192.0.2.9"),
        ("127.0.0.1", "2001:db8::9", "2001:db8::9"),
        ("127.0.0.1", "nonsense", "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
    ],
)
async def test_the_server_learns_the_clients_address_and_no_invented_one(
    tmp_path: Path, trusted: str, given: str, address: str
) -> None:
    async with limited(tmp_path, trusted_proxies=trusted) as site:
        headers = {"X-Forwarded-For": given, "X-Image-Repo-Client": "6.6.6.6"}
        await site.front.ask("/images/x", "PUT", headers, b"abc")
        await site.front.ask(PATH, headers=headers)

    put, hop = site.upstream.asked
    assert put.headers.getall("X-Forwarded-For") == [address]
    assert "X-Image-Repo-Client" not in put.headers
    assert not {"X-Forwarded-For", "X-Image-Repo-Client"} & set(hop.headers)


@pytest.mark.parametrize(
    "text", ["any", "10.0.0.0/8;", "10.0.0.1,10.0.0.2", " 10.0.0.1", "$x", "a b"]
)
def test_a_proxy_that_would_be_a_directive_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"nginx\.trusted_proxies"):
        load(NginxOptions, {"trusted_proxies": text}, where="nginx")


# The socket


@pytest.mark.parametrize(
    "text",
    ["*:80", "0.0.0.0:80", "[::]:80", "127.0.0.1", "unix:x", "unix:/x y", "8080"],
)
def test_the_cold_hop_can_be_reached_from_this_machine_alone(text: str) -> None:
    with pytest.raises(ConfigError, match=r"nginx\.cold_listen"):
        load(NginxOptions, {"cold_listen": text}, where="nginx")


def test_a_socket_whose_path_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nginx\.cold_listen"):
        settings(tmp_path / ("x" * 100))


def test_by_default_the_socket_is_where_nginx_may_make_it(tmp_path: Path) -> None:
    own = settings(tmp_path)

    assert own.cold == f"unix:{tmp_path}/image_repo-nginx.sock"
    assert replace(own, directory=None).cold == "unix:/run/image_repo-nginx.sock"


async def test_a_port_of_loopback_does_as_well(tmp_path: Path) -> None:
    port = settings(tmp_path).options.listen.rpartition(":")[2]
    async with limited(
        tmp_path, cold_listen=f"127.0.0.1:{port}", cold_per_client=1
    ) as site:
        (begun,) = site.begin("192.0.2.1", "slow")
        await site.busy.full(1)
        answer = await site.of("192.0.2.1")
        site.busy.free.set()
        assert (await begun).status == 200

    assert refused(answer, 503)


def test_the_defaults_let_one_client_take_a_part_of_all() -> None:
    options = FrontOptions()

    assert 0 < options.cold_per_client < options.cold_total
