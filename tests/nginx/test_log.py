"""What nginx writes of each request, and what it tells of itself."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from nginx.harness import (
    PATH,
    SECRET,
    Front,
    Upstream,
    image,
    nginx_before,
    nginx_from,
    problem,
    serving,
    settings,
)

from image_repo.accesslog import Line
from image_repo.nginx import LOG, render
from image_repo.purge import REFRESH_HEADER


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


def took(line: dict[str, object], least: float, most: float) -> bool:
    """Return whether the server took so many seconds."""
    seconds = line["server_seconds"]
    return isinstance(seconds, float) and least <= seconds < most


async def test_the_time_of_the_server_is_without_the_wait_in_nginxs_limits(
    tmp_path: Path,
) -> None:
    async def slow(request: web.Request, path: str) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return await levelled(request, path)

    base = settings(tmp_path).options
    options = replace(base, cold_per_client=0, cold_rate=2, cold_burst=2)
    async with nginx_before(Upstream(slow).app, tmp_path, options=options) as front:
        forms = ("/images/a{}/_/w_4.webp", "/images/a{}?w=4")  # over either way
        targets = [forms[n % 2].format(n) for n in range(8)]
        await asyncio.gather(*map(front.ask, targets))
        found = await lines(front, 8)

    made = [line for line in found if line["status"] == 200]
    refused = [line for line in found if line["status"] == 429]
    assert max(float(str(line["seconds"])) for line in made) > 0.7
    assert len(made) > 2
    assert all(took(line, 0.19, 0.5) for line in made)
    assert len(refused) > 2
    assert {line["server_seconds"] for line in refused} == {None}


async def test_only_an_answer_for_which_the_server_was_asked_has_its_time(
    tmp_path: Path,
) -> None:
    pauses = {"/images/a/_/w_400.webp": 0.5}

    async def paused(request: web.Request, path: str) -> web.StreamResponse:
        await asyncio.sleep(pauses.pop(path, 0))
        known = request.headers.get("If-None-Match")
        response = web.Response(status=304) if known else web.Response(body=b"x")
        response.headers.update(
            {"ETag": '"one"', "Cache-Control": "max-age=1", "X-Image-Repo": "derived"}
        )
        return response

    async with nginx_before(Upstream(paused).app, tmp_path) as front:
        for _ in range(2):
            await front.ask()
        await asyncio.sleep(2.1)
        await front.ask()
        await front.ask(headers={REFRESH_HEADER: SECRET})
        await front.ask("/images/x", "PUT", body=b"abc")
        await front.ask("/images/x/_/info.json")
        found = await lines(front, 6)

    miss, hit, known, fresh, put, view = found
    assert [line["cache"] for line in found] == [
        "MISS",
        "HIT",
        "REVALIDATED",
        "BYPASS",
        "",
        "",
    ]
    assert took(miss, 0.49, 1)
    assert hit["server_seconds"] is None
    assert known["level"] == "nginx"  # which had it; the entry says what once made it
    assert all(took(line, 0, 0.4) for line in (known, fresh, put, view))


async def test_a_server_that_fails_has_its_time_too(tmp_path: Path) -> None:
    async def slow(request: web.Request, path: str) -> web.StreamResponse:
        await asyncio.sleep(3)
        return await image(request, path)

    async with serving(Upstream(slow).app) as port:
        chosen = settings(tmp_path, upstream=f"127.0.0.1:{port}")
        conf = tmp_path / "nginx.conf"
        long, short = f"read_timeout {chosen.read_timeout}s;", "read_timeout 1s;"
        conf.write_text(render(chosen).replace(long, short))
        async with nginx_from(conf, chosen, tmp_path) as front:
            answer = await front.ask()
            (line,) = await lines(front, 1)

    assert answer.status == 504
    assert took(line, 0.9, 1.5)


async def test_of_several_servers_the_time_is_that_of_the_one_that_answered(
    tmp_path: Path,
) -> None:
    options = settings(tmp_path).options
    async with serving(Upstream(levelled).app) as port:
        options = replace(options, servers=f"127.0.0.1:9 127.0.0.1:{port}")
        chosen = settings(tmp_path, options=options)
        conf = tmp_path / "nginx.conf"
        conf.write_text(render(chosen))
        async with nginx_from(conf, chosen, tmp_path) as front:
            for n in range(8):  # some of which are the one's that is away
                await front.ask(f"/images/a{n}/_/w_4.webp")
            found = await lines(front, 8)

    assert {line["status"] for line in found} == {200}
    assert {", " in str(line["server"]) for line in found} == {True, False}
    assert all(took(line, 0, 1) for line in found)


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
