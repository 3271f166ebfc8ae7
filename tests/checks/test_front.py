"""What `image_repo --check` says of an nginx that runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from checks.test_command import check
from nginx.harness import (
    SECRET,
    Upstream,
    free_port,
    nginx,
    nginx_before,
    nginx_from,
    settings,
)
from nginx.test_end_to_end import site

from image_repo.config import Config
from image_repo.nginx import render
from image_repo.purge import NginxOptions
from image_repo.transform.pool import Pool

REFRESHES = {
    "IMAGE_REPO_BEHIND_NGINX": "yes",
    "IMAGE_REPO_NGINX_PURGE": "refresh",
    "IMAGE_REPO_HTTP_REFRESH_SECRET": SECRET,
}


async def said_of(options: NginxOptions, **given: str) -> tuple[int, str]:
    """Return the exit status of a check, and what it says of how nginx is purged."""
    listens = {
        "IMAGE_REPO_NGINX_LISTEN": options.listen,
        "IMAGE_REPO_NGINX_CACHE_PATH": options.cache_path,
    }
    status, said, text = await asyncio.to_thread(
        lambda: check(**REFRESHES | listens | given)
    )
    assert given.get("IMAGE_REPO_HTTP_REFRESH_SECRET", SECRET) not in text
    return status, said["nginx.purge"]


@asynccontextmanager
async def alone(directory: Path) -> AsyncIterator[NginxOptions]:
    """Run an nginx whose server is away."""
    async with nginx(settings(directory)) as front:
        yield front.settings.options


async def test_an_nginx_that_nobody_has_started_may_come_later(tmp_path: Path) -> None:
    options = settings(tmp_path).options

    status, said = await said_of(options)

    assert status == 0
    assert said == (
        f"warning refresh, which can't be tried: no nginx answers at http://{options.listen}"
    )


async def test_an_nginx_that_takes_the_secret_is_right_without_a_server(
    tmp_path: Path,
) -> None:
    async with alone(tmp_path) as options:
        status, said = await said_of(options)

    assert status == 0
    assert said.startswith("ok refresh; nginx at ")
    assert said.endswith("takes the secret; no server says its recipe")


async def test_an_nginx_with_another_secret_is_wrong(tmp_path: Path) -> None:
    another = {"IMAGE_REPO_HTTP_REFRESH_SECRET": "another-secret-of-tests"}
    async with alone(tmp_path) as options:
        status, said = await said_of(options, **another)

    assert status == 1
    assert said.startswith("wrong nginx at ")
    assert "did not take the secret: write its configuration again" in said


async def test_another_site_at_the_place_of_nginx_is_wrong(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    conf = tmp_path / "nginx.conf"
    listen = f"listen {chosen.options.listen};"
    conf.write_text(f"daemon off; events {{}} http {{ server {{ {listen} }} }}")
    own = ("-g", f"pid {tmp_path}/pid; error_log {tmp_path}/error.log;")
    async with nginx_from(conf, chosen, tmp_path, *own):
        status, said = await said_of(chosen.options)

    assert status == 1
    assert said.startswith("wrong refresh, but another site answers at http://127.")


async def test_a_name_that_the_nginx_does_not_know_is_wrong(tmp_path: Path) -> None:
    """Its file was written before the option was changed."""
    chosen = settings(tmp_path)
    listen = f"listen {chosen.options.listen}"
    old = replace(chosen, options=replace(chosen.options, server_name="old.example"))
    conf = tmp_path / "nginx.conf"
    other = f"server {{ {listen} default_server; return 404; }}"
    conf.write_text(render(old).replace("http {", f"http {{ {other}", 1))
    async with nginx_from(conf, chosen, tmp_path):
        found = [
            await said_of(chosen.options, IMAGE_REPO_NGINX_SERVER_NAME=name)
            for name in ("old.example", "new.example")
        ]

    assert [status for status, _ in found] == [0, 1]
    assert "as new.example:" in found[1][1]


async def test_a_server_that_was_started_with_other_options_is_wrong(
    tmp_path: Path,
) -> None:
    """The stand-in is none that knows the secret."""
    async with nginx_before(Upstream().app, tmp_path) as front:
        status, said = await said_of(front.settings.options)

    assert status == 1
    assert "another secret: start it again" in said


@pytest.mark.parametrize("quality", [Config().render.quality_jpg, 7])
async def test_an_nginx_with_another_recipe_is_wrong(pool: Pool, quality: int) -> None:
    pixels = replace(Config().render, quality_jpg=quality)
    http = replace(Config().http, refresh_secret=SECRET)
    config = replace(Config(), http=http)
    before = replace(config, render=pixels)
    async with site(config, pool, written_for=before) as served:
        status, said = await said_of(served.front.settings.options)

    if quality == 7:
        assert status == 1
        assert "has another recipe: write its configuration again" in said
    else:
        assert status == 0
        assert said.endswith("takes the secret, and has this recipe")


def test_options_of_nginx_without_behind_nginx_are_worth_a_warning() -> None:
    given = {"IMAGE_REPO_NGINX_LISTEN": f"127.0.0.1:{free_port()}"}

    status, said, _ = check(**given)

    assert status == 0
    assert said["behind_nginx"].startswith("warning it is false, but ")
    assert "behind_nginx" not in check()[1]
    assert "behind_nginx" not in check(**given, IMAGE_REPO_BEHIND_NGINX="yes")[1]


@pytest.mark.skipif(os.geteuid() != 0, reason="is about root")
def test_root_is_told_that_it_is_not_the_user_of_the_server() -> None:
    Path("data").mkdir()
    _, before, _ = check()
    os.chown("data", 65534, 65534)

    status, said, _ = check()

    assert status == 0
    assert before["user"].startswith("ok root")
    assert said["user"].startswith("warning root may do all, and 'data' is not root's")
