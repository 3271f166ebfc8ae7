"""What answers say to browsers: of all of nginx's ways to answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web
from multidict import CIMultiDict
from nginx.harness import (
    PATH,
    Answer,
    Front,
    Upstream,
    ask_bytes,
    image,
    nginx_before,
    nginx_from,
    problem,
    serving,
    settings,
)

from image_repo.nginx import render
from image_repo.web.listing import POLICY

PAGE = "/page"
TYPES = {
    "text/html; charset=utf-8": True,
    "text/plain": True,
    "text/xml": True,
    "image/svg+xml": True,
    "application/xhtml+xml": True,
    "application/pdf": True,
    "application/zip": True,
    "application/octet-stream": True,
    "application/jsonp": True,
    "image/jpeg": False,
    "image/avif": False,
    "application/json": False,
    "application/json; charset=utf-8": False,
    "application/problem+json": False,
}
"""Whether a browser is told to run nothing of it."""


async def answer(request: web.Request, path: str) -> web.StreamResponse:
    if path.startswith("/images/error"):
        return problem(422)
    return await image(request, path)


class Serving(Upstream):
    """Answers some paths of its own, whatever they are about, with their type."""

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        if request.path.startswith("/type/"):
            return web.Response(
                body=b"x", headers={"Content-Type": request.query["is"]}
            )
        if request.path == PAGE:
            return web.Response(
                text="<p>", headers={"Content-Security-Policy": "default-src 'self'"}
            )
        if request.path == "/login":
            return web.Response(headers={"Referrer-Policy": "origin"})
        return await super()._handle(request)


@pytest_asyncio.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    async with nginx_before(Serving(answer).app, tmp_path) as front:
        yield front


def once(headers: CIMultiDict[str], name: str) -> str:
    (value,) = headers.getall(name)
    return value


def check(found: Answer) -> None:
    """Check what every answer has, whoever gives it."""
    assert once(found.headers, "X-Content-Type-Options") == "nosniff"
    assert once(found.headers, "Referrer-Policy") == "no-referrer"
    assert once(found.headers, "Server") == "nginx"


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        (PATH, "GET", 200),
        (PATH, "HEAD", 200),
        ("/images/a?w=4", "GET", 200),
        ("/images/error/_/w_4.webp", "GET", 422),
        ("/healthz", "GET", 200),
        ("/nothing", "GET", 400),
        ("/_c/images/a/_/w_4.webp", "GET", 400),
        ("/images/x", "PUT", 201),
        ("/nothing", "DELETE", 404),
    ],
)
async def test_every_answer_of_the_server_is_guarded(
    front: Front, target: str, method: str, status: int
) -> None:
    body = b"abc" if method == "PUT" else b""
    for _ in range(2):
        found = await front.ask(target, method, body=body)
        assert found.status == status
        check(found)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /images/%zz/../../.. HTTP/1.1\r\nHost: x\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Y: %s\r\n" % (b"a" * 20_000), 400),
        (b"TRACE / HTTP/1.1\r\nHost: x\r\n", 405),
        (b"PUT /images/x HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n", 413),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n" % (b"a" * 20_000), 414),
    ],
)
async def test_every_answer_of_nginx_itself_is_guarded(
    front: Front, sent: bytes, status: int
) -> None:
    found = await ask_bytes(front.port, sent + b"Connection: close\r\n\r\n")

    assert found.status == status
    check(found)


async def test_answers_for_a_server_that_is_away_are_guarded(tmp_path: Path) -> None:
    async with nginx_before(Upstream().app, tmp_path, upstream="127.0.0.1:9") as front:
        for target in (PATH, "/images/a?w=4"):
            found = await front.ask(target)
            assert (found.status, json.loads(found.body)["status"]) == (502, 502)
            check(found)


# Errors of nginx's own

STOCK_TYPES = "types { image/jpeg jpg; image/webp webp; text/css css; }"
"""As Debian has them in mime.types; without any nginx knows jpg and gif."""


@asynccontextmanager
async def typed(
    directory: Path, types: str, app: web.Application | None, **options: object
) -> AsyncIterator[Front]:
    """Run nginx with *types* around its servers, before *app* or nothing."""
    async with serving(app or web.Application()) as port:
        chosen = settings(directory, upstream=f"127.0.0.1:{port if app else 9}")
        changed = replace(chosen.options, **options)  # type: ignore[arg-type] # its fields
        chosen = replace(chosen, options=changed)
        conf = directory / "nginx.conf"
        conf.write_text(render(chosen).replace("http {", "http {" + types, 1))
        async with nginx_from(conf, chosen, directory) as front:
            yield front


def a_problem(found: Answer, status: int) -> bool:
    """Return whether it is an error of *status* in the form of all errors."""
    check(found)
    said = json.loads(found.body)
    assert once(found.headers, "Content-Type") == "application/problem+json"
    assert said["title"]
    assert said["detail"]
    return (found.status, said["status"]) == (status, status)


TYPED = pytest.mark.parametrize("types", ["", STOCK_TYPES], ids=["alone", "stock"])


@TYPED
@pytest.mark.parametrize(
    "target",
    [
        "/images/a/_/w_4.jpg",  # by the cached hop and the cold one
        "/images/a.jpg?w=4",  # as well
        "/images/a.jpg?q=4",  # by the front hop
        "/_c/images/a/_/w_4.jpg",
        "//_c/images/a/_/w_4.jpg",  # which is a 404 first
        "/page.css",
    ],
)
async def test_an_error_of_nginx_is_json_whatever_the_path_ends_with(
    tmp_path: Path, types: str, target: str
) -> None:
    async with typed(tmp_path, types, None) as front:
        assert a_problem(await front.ask(target), 502)


@TYPED
async def test_refusals_are_json_whatever_the_path_ends_with(
    tmp_path: Path, types: str
) -> None:
    busy = asyncio.Event()

    async def slow(*_: object) -> web.StreamResponse:
        await busy.wait()
        return web.Response()

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", slow)
    free = {"cold_per_client": 0, "cold_rate": 0}
    async with typed(
        tmp_path, types, app, **free, cold_total=1, uploads_per_client=1
    ) as front:
        begun = [
            asyncio.create_task(front.ask("/images/a/_/w_4.jpg")),
            asyncio.create_task(front.ask("/images/a.jpg", "PUT", body=b"a")),
        ]
        await asyncio.sleep(0.5)
        cold = await front.ask("/images/b/_/w_4.jpg")
        upload = await front.ask("/images/b.jpg", "PUT", body=b"a")
        busy.set()
        await asyncio.gather(*begun)

    assert a_problem(cold, 503)
    assert a_problem(upload, 429)


@TYPED
async def test_a_client_that_asks_too_fast_is_told_so_in_json(
    tmp_path: Path, types: str
) -> None:
    async with typed(
        tmp_path, types, Upstream().app, cold_rate=1, cold_burst=1
    ) as front:
        targets = [f"/images/a{n}/_/w_4.jpg" for n in range(9)]
        answers = await asyncio.gather(*map(front.ask, targets))

    refused = [answer for answer in answers if answer.status == 429]
    assert all(a_problem(answer, 429) for answer in refused)
    assert {json.loads(answer.body)["detail"] for answer in refused} == {
        "this client asks for too many new images in a short time"
    }


@TYPED
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"TRACE /images/x.jpg HTTP/1.1\r\nHost: x\r\n", 405),
        (b"PUT /images/x.jpg HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n", 413),
        (b"GET /images/%zz.jpg HTTP/1.1\r\nHost: x\r\n", 400),
        (b"GET /x.jpg HTTP/1.1\r\nHost: x\r\nX-Y: %s\r\n" % (b"a" * 20_000), 400),
        (b"GET /%s.jpg HTTP/1.1\r\nHost: x\r\n" % (b"a" * 20_000), 414),
        (b"PUT /x.jpg HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n", 501),
        (b"PUT /_c/x.jpg HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n", 501),
        (b"GET /images/x.jpg HTTP/3.1\r\nHost: x\r\n", 505),
    ],
)
async def test_a_request_that_nginx_refuses_is_told_so_in_json(
    tmp_path: Path, types: str, sent: bytes, status: int
) -> None:
    async with typed(tmp_path, types, Upstream().app) as front:
        found = await ask_bytes(front.port, sent + b"Connection: close\r\n\r\n")

    assert a_problem(found, status)


@TYPED
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=9000-"}, 416),
        ({"If-Match": '"other"'}, 412),
        ({"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}, 412),
    ],
)
async def test_what_a_hit_can_not_give_is_told_in_json(
    tmp_path: Path, types: str, headers: dict[str, str], status: int
) -> None:
    async with typed(tmp_path, types, Upstream().app) as front:
        await front.ask()
        found = await front.ask(headers=headers)

    assert a_problem(found, status)
    assert once(found.headers, "Access-Control-Allow-Origin") == "*"


async def test_types_of_images_and_of_what_the_server_says_stay(
    tmp_path: Path,
) -> None:
    async with typed(tmp_path, STOCK_TYPES, Serving(answer).app) as front:
        hits = [await front.ask() for _ in range(2)]
        refused = await front.ask("/images/error/_/w_4.webp")
        page = await front.ask("/type/x.css?is=text/plain")

    assert {hit.headers["Content-Type"] for hit in hits} == {"image/webp"}
    assert refused.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert page.headers["Content-Type"] == "text/plain"


# Other answers


async def test_refusals_are_guarded(tmp_path: Path) -> None:
    options = replace(settings(tmp_path).options, cold_rate=1, cold_burst=1)
    async with nginx_before(Upstream().app, tmp_path, options=options) as front:
        found = await asyncio.gather(
            *(front.ask(f"/images/a{n}/_/w_4.webp") for n in range(9))
        )

    refused = [one for one in found if one.status == 429]
    assert refused
    for one in refused:
        check(one)
        assert once(one.headers, "Retry-After") == "1"
        assert once(one.headers, "Access-Control-Allow-Origin") == "*"


@pytest.mark.parametrize("media_type", TYPES)
async def test_a_browser_runs_nothing_but_knows_images_and_json(
    front: Front, media_type: str
) -> None:
    found = await front.ask(f"/type/?is={quote(media_type)}")

    assert found.headers["Content-Type"] == media_type
    policies = found.headers.getall("Content-Security-Policy", [])
    assert policies == ([POLICY] if TYPES[media_type] else [])


async def test_what_the_server_says_itself_stands(front: Front) -> None:
    page, login = await front.ask(PAGE), await front.ask("/login")

    assert once(page.headers, "Content-Security-Policy") == "default-src 'self'"
    assert once(login.headers, "Referrer-Policy") == "origin"


@pytest.mark.parametrize(
    ("method", "headers", "status", "body"),
    [
        ("HEAD", {}, 200, b""),
        ("GET", {"Range": "bytes=0-4"}, 206, b"bytes"),
        ("GET", {"Range": "bytes=-4"}, 206, b"webp"),
        ("GET", {"Range": "bytes=9000-"}, 416, None),
        ("GET", {"Range": "bytes=0-4", "If-Range": '"other"'}, 200, None),
        ("GET", {"Range": "bytes=0-4", "If-Range": '"one"'}, 206, b"bytes"),
        ("GET", {"If-None-Match": '"one"'}, 304, b""),
        ("HEAD", {"If-None-Match": '"one"'}, 304, b""),
        ("GET", {"If-None-Match": '"one"', "Range": "bytes=0-4"}, 304, b""),
    ],
)
async def test_a_hit_answers_each_way_of_asking_with_all_that_pages_need(
    front: Front, method: str, headers: dict[str, str], status: int, body: bytes | None
) -> None:
    await front.ask()

    found = await front.ask(PATH, method, headers)

    assert (found.status, found.cache) == (status, "HIT")
    assert body is None or found.body == body
    check(found)
    assert once(found.headers, "Access-Control-Allow-Origin") == "*"
    assert once(found.headers, "Cross-Origin-Resource-Policy") == "cross-origin"
    assert once(found.headers, "Timing-Allow-Origin") == "*"
    if status != 416:
        assert found.headers["ETag"] == '"one"'
        assert "max-age=60" in found.headers["Cache-Control"]


async def test_nothing_that_nginx_tells_itself_reaches_a_client(front: Front) -> None:
    for _ in range(2):
        found = await front.ask()
        assert "X-Image-Repo-Server" not in found.headers
        assert "X-Image-Repo-Seconds" not in found.headers
        assert "X-Accel-Expires" not in found.headers
