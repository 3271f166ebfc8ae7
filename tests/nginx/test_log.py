"""What nginx writes of each request, and what it tells of itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from nginx.harness import PATH, Front, Upstream, image, nginx_before, problem, settings

from image_repo.accesslog import Line
from image_repo.nginx import LOG


async def lines(front: Front, count: int) -> list[dict[str, object]]:
    """Return all lines once there are so many: each is written after its answer."""
    log = front.directory / LOG
    async with asyncio.timeout(5):
        while log.read_bytes().count(b"\n") < count:
            await asyncio.sleep(0.01)
    found = log.read_bytes().splitlines()
    assert len(found) == count
    assert None not in [Line.read(line) for line in found]
    return [json.loads(line.decode("utf-8", "replace")) for line in found]


async def levelled(request: web.Request, path: str) -> web.StreamResponse:
    response = await image(request, path)
    response.headers["X-Image-Repo"] = "derived"
    return response


async def test_a_line_tells_who_asked_for_what_and_what_answered(
    tmp_path: Path,
) -> None:
    async with nginx_before(Upstream(levelled).app, tmp_path) as front:
        answer = await front.ask("/images/a?w=0400", "HEAD")
        await front.ask(PATH)
        await front.ask("/images/x", "PUT", body=b"abc")
        alias, hit, put = await lines(front, 3)
        server = front.settings.upstream

    assert answer.cache == "MISS"
    assert str(alias["time"]).startswith("20")
    for line, method, path, name, status, cache, level in (
        (alias, "HEAD", "/images/a", "a/_/w_400.webp", 200, "MISS", "derived"),
        (hit, "GET", PATH, "a/_/w_400.webp", 200, "HIT", "nginx"),
        (put, "PUT", "/images/x", "", 201, "", ""),
    ):
        said = (line["method"], line["path"], line["name"])
        assert said == (method, path, name)
        assert (line["status"], line["cache"], line["level"]) == (status, cache, level)
        assert line["client"] == "127.0.0.1"
    assert hit["bytes"] == len(b"bytes of " + PATH.encode())
    assert isinstance(alias["seconds"], float)
    assert (alias["server"], hit["server"], put["server"]) == (server, "", server)
    assert " : " in str(alias["upstream"])  # first one hop, then the other
    assert hit["upstream"] == ""


@pytest.mark.parametrize("path", ["/images/a", PATH, "/images/a/_/", "/nothing"])
async def test_no_query_is_in_the_log(tmp_path: Path, path: str) -> None:
    async with nginx_before(Upstream().app, tmp_path) as front:
        await front.ask(f"{path}?w=4&temp_url_sig=abc")
        await front.ask(f"{path}#temp_url_sig=abc")
        found = await lines(front, 2)

    assert "temp_url_sig" not in json.dumps(found)
    assert [line["path"] for line in found] == [path] * 2


async def test_a_refusal_says_that_no_server_was_asked(tmp_path: Path) -> None:
    options = replace(settings(tmp_path).options, cold_rate=1, cold_burst=1)
    async with nginx_before(Upstream().app, tmp_path, options=options) as front:
        answers = await asyncio.gather(
            *(front.ask(f"/images/a{n}/_/w_4.webp") for n in range(9))
        )
        found = await lines(front, 9)

    statuses = [answer.status for answer in answers]
    assert statuses.count(429) == 6
    refused = [line for line in found if line["status"] == 429]
    assert [(line["level"], line["cache"]) for line in refused] == [
        ("limit", "MISS")
    ] * 6


async def test_a_server_that_refuses_is_told_from_nginx(tmp_path: Path) -> None:
    async def busy(*_: object) -> web.StreamResponse:
        return problem(503, "0", **{"Retry-After": "7"})

    async with nginx_before(Upstream(busy).app, tmp_path) as front:
        answer = await front.ask()
        (line,) = await lines(front, 1)

    assert answer.headers.getall("Retry-After") == ["7"]
    assert (line["status"], line["level"]) == (503, "")


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b'GET /images/\xff\xfe"\\\x7f HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n',
        b"GET /images/a%00%1b%22%5c%ff/_/w_4.webp HTTP/1.0\r\n\r\n",
        b"GET /images/%ff?w=4 HTTP/1.0\r\n\r\n",
        b"GET /images/%1B%5B2J%E2%80%AE/_/w_4.webp HTTP/1.0\r\n\r\n",
        b"PUT /images/a HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
    ],
)
async def test_whatever_comes_the_line_is_json(tmp_path: Path, sent: bytes) -> None:
    async with nginx_before(Upstream().app, tmp_path) as front:
        _, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(sent)
        await asyncio.sleep(0.2)
        writer.close()
        (line,) = await lines(front, 1)

    assert isinstance(line["status"], int)


async def test_of_several_servers_the_one_that_was_asked_is_named(
    tmp_path: Path,
) -> None:
    async with nginx_before(Upstream().app, tmp_path, 2) as front:
        await front.ask()
        await front.ask("/images/b?w=4")
        found = await lines(front, 2)
        (server, _) = front.settings.servers

    assert [line["server"] for line in found] == [server] * 2


async def test_the_state_of_nginx_is_told_on_its_own_socket_alone(
    tmp_path: Path,
) -> None:
    upstream = Upstream()
    async with nginx_before(upstream.app, tmp_path) as front:
        outside = [
            await front.ask(path) for path in ("/nginx_status", "//nginx_status")
        ]
        reader, writer = await asyncio.open_unix_connection(
            front.settings.cold.removeprefix("unix:")
        )
        writer.write(b"GET /nginx_status HTTP/1.0\r\n\r\n")
        inside = await reader.read()
        writer.close()

    assert {answer.status for answer in outside} == {400}  # of the server
    assert len(upstream.asked) == 2
    assert b"Active connections" in inside
