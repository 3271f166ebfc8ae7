"""Refreshes that must find their nginx, and stand in where files are closed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from nginx.harness import (
    PATH,
    RECIPE,
    SECRET,
    Front,
    Upstream,
    ask_bytes,
    nginx_before,
    nginx_from,
    serving,
    settings,
)
from test_purge import Images

from image_repo.names import image_name
from image_repo.nginx import render
from image_repo.purge import UnlinkPurge, make_purger, open_refresh

NAME = image_name("a")
ASKED = f"GET {PATH} HTTP/1.1\r\nHost: img.example.org\r\nConnection: close\r\n\r\n"
NOBODY = 65534


@asynccontextmanager
async def beside_another_site(
    images: Images, directory: Path, names: str
) -> AsyncIterator[Front]:
    """Run nginx with *names* on a port whose default server is another site."""
    async with serving(Upstream(images).app) as port:
        chosen = settings(directory, upstream=f"127.0.0.1:{port}")
        options = replace(chosen.options, server_name=names, purge="refresh")
        chosen = replace(chosen, options=options)
        other = f"server {{ listen {options.listen} default_server; return 404; }}"
        conf = directory / "nginx.conf"
        conf.write_text(render(chosen).replace("http {", f"http {{ {other}", 1))
        async with nginx_from(conf, chosen, directory) as front:
            yield front


@pytest.mark.parametrize(
    "names",
    ["img.example.org", "_ img.example.org", ".example.org", "*.example.org", "img.*"],
)
async def test_a_purge_finds_the_site_among_others(tmp_path: Path, names: str) -> None:
    images = Images()
    async with beside_another_site(images, tmp_path, names) as front:
        made = make_purger(
            front.settings.options,
            behind=True,
            recipe=RECIPE,
            secret=SECRET,
            lifetime=60,
        )
        before = [await ask_bytes(front.port, ASKED.encode()) for _ in range(2)]
        images.body = b"new"
        async with made as purger:
            left = await purger.purge(NAME, [PATH])
        after = await ask_bytes(front.port, ASKED.encode())

    assert (before[1].cache, before[1].body) == ("HIT", b"old")
    assert left == ()
    assert after.body == b"new"


@contextmanager
def as_nobody() -> Iterator[None]:
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_files_that_we_may_not_remove_are_refreshed(tmp_path: Path) -> None:
    images = Images()
    async with (
        nginx_before(Upstream(images).app, tmp_path) as front,
        open_refresh(front.settings.options, SECRET) as refresh,
    ):
        before = [await front.ask() for _ in range(2)]
        images.body = b"new"
        with as_nobody():
            alone = await UnlinkPurge(front.cache, RECIPE).forget([PATH])
            left = await UnlinkPurge(front.cache, RECIPE, refresh).forget([PATH])
        after = await front.ask()

    assert before[1].cache == "HIT"
    assert (alone, left) == ((PATH,), ())
    assert after.body == b"new"


@pytest.mark.parametrize(("way", "after"), [("auto", b"new"), ("unlink", b"old")])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_only_a_way_that_was_not_said_is_left_for_another(
    tmp_path: Path, way: str, after: bytes
) -> None:
    images = Images()
    async with nginx_before(Upstream(images).app, tmp_path) as front:
        await front.ask()
        images.body = b"new"
        options = replace(front.settings.options, purge=way)
        async with make_purger(
            options, behind=True, recipe=RECIPE, secret=SECRET, lifetime=60
        ) as purger:
            with as_nobody():
                left = await purger.purge(NAME, [PATH])
        found = await front.ask()

    assert found.body == after
    assert left == (() if after == b"new" else (PATH,))
