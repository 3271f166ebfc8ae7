"""Checks of nginx: that it is there, takes its configuration, and can be purged."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Final

import aiohttp

from image_repo import names, nginx, purge, supervise
from image_repo.checks.world import Check, DoubtError, World, apart
from image_repo.errors import ConfigError

if TYPE_CHECKING:
    from image_repo.config import Config

PRIVILEGED: Final = 1024
"""Ports below it only root may listen on."""

AGAIN: Final = "write its configuration again by `image_repo nginx-conf`, and reload it"
"""What to do where nginx was told something else."""


async def _nginx(world: World) -> str:
    try:
        program = supervise.nginx_program()
    except ConfigError:
        if world.config.behind_nginx:
            raise
        return "it is not installed, nor needed while behind_nginx is false"
    with tempfile.TemporaryDirectory(prefix="image-repo-check.") as folder:
        directory = Path(folder)
        file, log = directory / "nginx.conf", directory / "error.log"
        chosen = replace(world.config, nginx=_tried(world.config.nginx, directory))
        file.write_text(nginx.render(nginx.settings(chosen, directory)), "utf-8")
        plain = {
            k: v for k, v in world.environ.items() if supervise.HARMLESS.fullmatch(k)
        }
        said = await _output(
            (program, "-t", "-q", "-e", str(log), "-c", str(file)), plain
        )
        if said:
            secret = chosen.http.refresh_secret
            shown = said.replace(secret, "…") if secret else said
            raise ConfigError(f"{program}: {shown.replace(folder, '…')}")
    return f"{program} takes its configuration"


def _tried(options: purge.NginxOptions, directory: Path) -> purge.NginxOptions:
    """Return options with which `nginx -t` changes nothing outside of *directory*."""
    ports = [int(text.rpartition(":")[2]) for text in options.listen.split()]
    may = os.geteuid() == 0 or min(ports) >= PRIVILEGED
    listen = options.listen if may else f"unix:{directory}/nginx.sock"
    cache = str(directory / "cache")
    return replace(options, cache_path=cache, listen=listen, cold_listen="")


async def _output(command: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Return what a program says is wrong, in one line; empty: nothing is."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=environ,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, raw = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        raise
    if process.returncode == 0:
        return ""
    lines = raw.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else f"status {process.returncode}"


async def _purge(world: World) -> str:
    options, secret = world.config.nginx, world.config.http.refresh_secret
    parent = Path(options.cache_path).parent
    if not await apart(parent.is_dir):
        raise ConfigError(f"there is no directory {str(parent)!r} for nginx.cache_path")
    way = await apart(lambda: purge.chosen_way(options, secret))
    return await _refresh(world.config) if way == "refresh" else way


async def _refresh(config: Config) -> str:
    """Refresh what no image is called, and return in words that nginx took it.

    Raises:
        DoubtError: Nobody answers.
        ConfigError: Another site does, or who was told other things than these.
    """
    options = config.nginx
    url = options.refresh_url or purge.first_url(options.listen)
    path = f"{names.BASE}/image-repo-check-{token_hex(8)}/{names.MARK}/full.jpg"
    try:
        async with purge.open_refresh(options, config.http.refresh_secret) as refresh:
            answer = await refresh.ask(path)
    except aiohttp.ClientSSLError as error:
        raise ConfigError(f"refresh, but {error}") from error
    except (aiohttp.ClientError, TimeoutError) as error:
        raise DoubtError(
            f"refresh, which can't be tried: no nginx answers at {url}"
        ) from error
    host = purge.first_host(options.server_name, url)
    where = f"{url} as {host}" if host else url
    if not answer.cache:
        raise ConfigError(f"refresh, but another site answers at {where}: {AGAIN}")
    if not answer.taken:
        raise ConfigError(f"nginx at {where} did not take the secret: {AGAIN}")
    if answer.fault:  # no server, whom a check may come before
        return f"refresh; nginx at {where} takes the secret; no server says its recipe"
    if not answer.recipe:
        raise ConfigError(
            f"the server that runs behind {where} has no behind_nginx, or another"
            " secret: start it again"
        )
    if answer.recipe != config.settings_recipe:
        raise ConfigError(f"nginx at {where} has another recipe: {AGAIN}")
    return f"refresh; nginx at {where} takes the secret, and has this recipe"


def _seems_forgotten(world: World) -> bool:
    return not world.config.behind_nginx and world.config.nginx != purge.NginxOptions()


async def _behind(_: World) -> str:
    raise DoubtError(
        "it is false, but there are options of nginx: behind an nginx that you run it"
        " must be true; with-nginx sets it itself"
    )


FRONT: Final = (
    Check("behind_nginx", _behind, _seems_forgotten),
    Check("nginx", _nginx),
    Check("nginx.purge", _purge, lambda world: world.config.behind_nginx),
)
