"""A file of one's own in nginx's configuration: what can be said there."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from nginx.guide import block, replaced
from nginx.harness import (
    PATH,
    SECRET,
    Answer,
    Front,
    Upstream,
    nginx_before,
    settings,
)

from image_repo.errors import ConfigError
from image_repo.nginx import render
from image_repo.options import load
from image_repo.purge import REFRESH_HEADER, NginxOptions

INSIDE, OUTSIDE = "192.0.2.7", "198.51.100.7"
ALIAS = "/images/a?w=0400"

WRITES = block("$closed")
"""Closes writes to all but a network."""

PASSWORD = block("auth_basic")
"""Closes everything to strangers."""


@dataclass
class Site:
    front: Front
    upstream: Upstream

    async def of(
        self, client: str, target: str = PATH, method: str = "GET", **headers: str
    ) -> Answer:
        """Ask as a client that comes by a proxy."""
        body = b"abc" if method in {"PUT", "POST"} else b""
        return await self.front.ask(
            target, method, {"X-Forwarded-For": client, **headers}, body
        )


@asynccontextmanager
async def including(directory: Path, text: str, times: int = 1) -> AsyncIterator[Site]:
    """Nginx with a file of one's own, behind a proxy on this machine."""
    own = directory / "own.conf"
    own.write_text(text)
    options = replace(
        settings(directory).options, include=str(own), trusted_proxies="127.0.0.1"
    )
    upstream = Upstream()
    async with nginx_before(upstream.app, directory, times, options=options) as front:
        yield Site(front, upstream)


def guarded(answer: Answer) -> bool:
    """Return whether it has the headers that every answer has, once."""
    return (
        answer.headers.getall("X-Content-Type-Options") == ["nosniff"]
        and answer.headers.getall("Referrer-Policy") == ["no-referrer"]
        and answer.headers["Server"] == "nginx"
    )


def a_problem(answer: Answer, status: int) -> bool:
    """Return whether it is an error of *status* in the form of all errors."""
    assert guarded(answer)
    assert answer.headers["Content-Type"] == "application/problem+json"
    return (answer.status, json.loads(answer.body)["status"]) == (status, status)


async def test_writes_can_be_closed_to_all_but_a_network(tmp_path: Path) -> None:
    async with including(tmp_path, WRITES) as site:
        for method in ("PUT", "POST", "DELETE", "PATCH"):
            targets = ("/images/x", "/images/x.jpg", PATH, "/_c" + PATH, "//_c" + PATH)
            for target in targets:
                refused = await site.of(OUTSIDE, target, method)
                assert a_problem(refused, 403), (method, target)
        assert site.upstream.asked == []

        written = [
            await site.of(INSIDE, "/images/x", method)
            for method in ("PUT", "POST", "DELETE")
        ]

    assert {answer.status for answer in written} == {201}


@pytest.mark.parametrize("times", [1, 2], ids=["one server", "several servers"])
async def test_reads_are_left_alone_where_writes_are_closed(
    tmp_path: Path, times: int
) -> None:
    async with including(tmp_path, WRITES, times) as site:
        alias, hit = await site.of(OUTSIDE, ALIAS), await site.of(OUTSIDE)
        head = await site.of(OUTSIDE, method="HEAD")
        part = await site.of(OUTSIDE, Range="bytes=0-4")
        wrong = await site.of(OUTSIDE, "/nothing")
        fresh = await site.of(OUTSIDE, **{REFRESH_HEADER: SECRET})

    assert [a.cache for a in (alias, hit, head, part)] == ["MISS", "HIT", "HIT", "HIT"]
    assert [a.status for a in (alias, hit, head, part)] == [200, 200, 200, 206]
    assert (wrong.status, fresh.cache) == (400, "BYPASS")
    assert all(guarded(a) for a in (alias, hit, head, part, wrong))


async def test_everything_can_ask_for_a_password(tmp_path: Path) -> None:
    file = tmp_path / "passwords"
    file.write_text("ann:{PLAIN}secret\n")
    word = base64.b64encode(b"ann:secret").decode()
    known = {"Authorization": f"Basic {word}"}
    words = {"/etc/nginx/image_repo.htpasswd": str(file)}
    async with including(tmp_path, replaced(PASSWORD, words)) as site:
        strange = [
            await site.of(OUTSIDE, target, method)
            for target, method in (
                (PATH, "GET"),
                (ALIAS, "GET"),
                ("/images/x", "PUT"),
                ("/healthz", "GET"),
                ("/images/a.jpg", "DELETE"),
            )
        ]
        nothing = list(site.upstream.asked)
        alias, hit, put = [
            await site.of(OUTSIDE, ALIAS, **known),
            await site.of(OUTSIDE, **known),
            await site.of(OUTSIDE, "/images/x", "PUT", **known),
        ]
        still = await site.of(OUTSIDE)
        refresh = await site.front.ask(headers={REFRESH_HEADER: SECRET})

    assert all(a_problem(answer, 401) for answer in (*strange, still))
    for answer in (*strange, still):
        assert answer.headers.getall("WWW-Authenticate") == ['Basic realm="Images"']
    assert nothing == []
    assert [(a.status, a.cache) for a in (alias, hit)] == [(200, "MISS"), (200, "HIT")]
    assert put.status == 201
    assert refresh.cache == "BYPASS"


async def test_a_header_of_ones_own_is_added_to_ours(tmp_path: Path) -> None:
    header = 'add_header Strict-Transport-Security "max-age=63072000" always;'
    async with including(tmp_path, header) as site:
        answers = [
            await site.of(OUTSIDE),
            await site.of(OUTSIDE),
            await site.of(OUTSIDE, "/nothing"),
            await site.of(OUTSIDE, "/images/x", "TRACE"),
        ]

    assert [a.cache for a in answers[:2]] == ["MISS", "HIT"]
    for answer in answers:
        assert guarded(answer)
        assert answer.headers["Strict-Transport-Security"] == "max-age=63072000"


async def test_a_location_of_ones_own_is_asked_before_the_server(
    tmp_path: Path,
) -> None:
    (tmp_path / "robots.txt").write_text("User-agent: *\n")
    text = (
        f"location = /robots.txt {{ alias {tmp_path}/robots.txt;"
        " default_type text/plain; }"
    )
    async with including(tmp_path, text) as site:
        robots = await site.of(OUTSIDE, "/robots.txt")
        asked = list(site.upstream.asked)
        image = await site.of(OUTSIDE)

    assert (robots.status, robots.body) == (200, b"User-agent: *\n")
    assert robots.headers["Content-Type"] == "text/plain"
    assert guarded(robots)
    assert asked == []
    assert image.status == 200


def test_nothing_is_included_where_nothing_is_named(tmp_path: Path) -> None:
    assert "include " not in render(settings(tmp_path))


@pytest.mark.parametrize(
    "text", ["own.conf", "/a b", "/a;b", "/a{", "/$x", "/a\n", "/*.conf", "/é", "/"]
)
def test_a_file_that_would_be_a_directive_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"nginx\.include"):
        load(NginxOptions, {"include": text}, where="nginx")
