"""Checks of nginx: that it is there, takes its configuration, and can be purged."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from image_repo import nginx, purge, supervise
from image_repo.checks.world import Check, World, apart
from image_repo.errors import ConfigError

PRIVILEGED: Final = 1024
"""Ports below it only root may listen on."""


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
    return await apart(lambda: purge.chosen_way(options, secret))


FRONT: Final = (
    Check("nginx", _nginx),
    Check("nginx.purge", _purge, lambda world: world.config.behind_nginx),
)
