"""Within a stock Debian nginx, whose master is root and whose workers are www-data."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nginx.harness import (
    PATH,
    SECRET,
    Front,
    Upstream,
    nginx_from,
    serving,
    settings,
)

from image_repo.nginx import LOGS, render
from image_repo.purge import REFRESH_HEADER

STOCK = """\
user www-data;
worker_processes auto;
pid /run/nginx.pid;
error_log /var/log/nginx/error.log;

events {
    worker_connections 768;
}

http {
    sendfile on;
    tcp_nopush on;
    types_hash_max_size 2048;
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    ssl_protocols TLSv1 TLSv1.1 TLSv1.2 TLSv1.3;
    ssl_prefer_server_ciphers on;
    access_log /var/log/nginx/access.log;
    gzip on;
    include /etc/nginx/conf.d/*.conf;
}
"""
"""Debian 12's /etc/nginx/nginx.conf without comments and sites."""

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/etc/nginx/mime.types").exists(),
    reason="needs root and a Debian nginx",
)


@asynccontextmanager
async def stock(upstream: Upstream) -> AsyncIterator[Front]:
    """Run Debian's nginx, with pid, logs and conf.d in a directory of the test."""
    directory = Path(tempfile.mkdtemp(prefix="image-repo-test."))
    directory.chmod(0o755)
    (directory / "conf.d").mkdir()
    async with serving(upstream.app) as port:
        base = settings(directory, upstream=f"127.0.0.1:{port}", user="")
        cold = f"unix:{directory}/cold.sock"
        options = replace(base.options, cold_listen=cold)
        chosen = replace(base, options=options, directory=None)
        fragment = render(chosen).replace(str(LOGS), str(directory))
        (directory / "conf.d" / "image_repo.conf").write_text(fragment)
        moved = {"/run/nginx.pid": "pid", "/etc/nginx/conf.d": "conf.d"}
        text = STOCK.replace(str(LOGS), str(directory))
        for path, name in moved.items():
            text = text.replace(path, str(directory / name))
        conf = directory / "nginx.conf"
        conf.write_text(text)
        try:
            async with nginx_from(
                conf, chosen, directory, "-g", "daemon off;"
            ) as front:
                yield front
        finally:
            shutil.rmtree(directory, ignore_errors=True)


async def test_it_caches_limits_and_logs_as_another_user_than_the_server() -> None:
    upstream = Upstream()
    async with stock(upstream) as front:
        first, second = await front.ask(), await front.ask()
        alias = await front.ask("/images/a?w=0400")
        put = await front.ask("/images/x", "PUT", body=b"abc" * 100_000)
        refreshed = await front.ask(headers={REFRESH_HEADER: SECRET})
        part = await front.ask(headers={"Range": "bytes=0-4"})
        crowd = await asyncio.gather(
            *(front.ask(f"/images/c{n}/_/w_4.webp") for n in range(100))
        )
        owner = front.cache_file(PATH).owner()
        log = (front.directory / "image_repo.access.log").read_text()
        errors = (front.directory / "error.log").read_text()

    assert [a.cache for a in (first, second, alias)] == ["MISS", "HIT", "HIT"]
    assert (put.status, upstream.asked[2].body) == (201, b"abc" * 100_000)
    assert refreshed.cache == "BYPASS"
    assert part.status == 206
    assert {a.status for a in crowd} == {200, 429}
    assert owner == "www-data"
    assert log.count('"status":200') > 3
    assert not re.search(r"\[(warn|error|crit|alert|emerg)\]", errors), errors


async def test_a_hit_is_given_at_once_although_tcp_nopush_is_on() -> None:
    async with stock(Upstream()) as front:
        await front.ask()
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        begun = loop.time()
        for _ in range(20):  # on one connection, as browsers do
            writer.write(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            (length,) = re.findall(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length))
        took = loop.time() - begun
        writer.close()

    assert took < 20 * 0.1
