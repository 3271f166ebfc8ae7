"""Checks of this machine: its directories, addresses and ImageMagick."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from image_repo.assemble import listening
from image_repo.checks.world import PATIENCE, Check, DoubtError, World, apart
from image_repo.errors import ConfigError
from image_repo.transform.pool import Pool


async def _work(world: World) -> str:
    directory, least = world.config.work_directory, world.config.limits.upload_bytes
    return await apart(lambda: _writable(directory, least))


async def _data(world: World) -> str:
    directory, least = Path(world.config.data), world.config.limits.upload_bytes
    return await apart(lambda: _writable(directory, least))


async def _pid_file(world: World) -> str:
    return await apart(lambda: _file(Path(world.config.pid_file)))


def _file(file: Path) -> str:
    """Return in words that a file can be made.

    Raises:
        ConfigError: It can't.
    """
    if file.is_dir():
        raise ConfigError(f"{str(file)!r} is a directory")
    if not file.parent.is_dir():
        raise ConfigError(f"there is no directory {str(file.parent)!r}")
    return _writable(file.parent, 0)


def _writable(directory: Path, least: int) -> str:
    """Return in words that a directory can be used, or made.

    Raises:
        ConfigError: It can't, or has less room than *least* bytes.
    """
    there = directory.absolute()
    while not there.exists():
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            free = shutil.disk_usage(there).free
    except OSError as error:
        raise ConfigError(
            f"cannot write to {str(there)!r}: {error.strerror}"
        ) from error
    room = f"{free / 2**30:.1f} GiB are free"
    if free < least:
        raise ConfigError(f"{room}, less than one upload may have: limits.upload_bytes")
    made = "" if there == directory.absolute() else ", and will be made"
    return f"{str(directory)!r} can be written{made}; {room}"


async def _user(world: World) -> str:
    chosen = world.config
    places = [Path(chosen.data), chosen.work_directory, chosen.cache_directory]
    places += [Path(chosen.nginx.cache_path)] if chosen.behind_nginx else []
    foreign = await apart(lambda: [p for p in places if p.exists() and p.stat().st_uid])
    if foreign:
        raise DoubtError(
            f"root may do all, and {str(foreign[0])!r} is not root's: unless the server"
            " runs as root, run this check as the server's user"
        )
    return "root, to whom belongs what is there"


async def _listen(world: World) -> str:
    listen = world.config.listen
    if await _is_ours(listen):
        return f"a running Image Repository has {listen!r}"
    if listen.startswith("unix:"):
        folder = Path(listen.removeprefix("unix:")).parent
        return await apart(lambda: _writable(folder, 0))
    with listening(listen):
        return f"{listen!r} is free"


async def _is_ours(listen: str) -> bool:
    """Return whether a server of ours answers; False: nobody does.

    Raises:
        ConfigError: Another program does.
    """
    local = listen.startswith("unix:")
    connector = (
        aiohttp.UnixConnector(listen.removeprefix("unix:"))
        if local
        else aiohttp.TCPConnector()
    )
    url = f"http://{'localhost' if local else listen}/healthz"
    patience = aiohttp.ClientTimeout(total=PATIENCE / 2)
    async with aiohttp.ClientSession(connector=connector, timeout=patience) as session:
        try:
            async with session.get(url, allow_redirects=False) as answer:
                if "imagemagick" in await answer.json():
                    return True
        except aiohttp.ClientConnectorError:
            return False
        except (aiohttp.ClientError, TimeoutError, ValueError, TypeError):
            pass
    raise ConfigError(f"another program has {listen!r}")


async def _workers(world: World) -> str:
    chosen = world.config
    workers = replace(chosen.workers, count=1)
    async with Pool(workers, chosen.limits, chosen.render) as pool:
        for option in ("image_default_format", "thumbnail_default_format"):
            kind = getattr(chosen, option)
            if kind not in pool.kinds:
                raise ConfigError(f"{pool.magick} can't write {kind}, as {option} says")
        return (
            f"{pool.magick} keeps to its policy; writes {' '.join(sorted(pool.kinds))}"
        )


async def _public_url(world: World) -> str:
    url = world.config.http.public_url
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no URL") from error
    loop = asyncio.get_running_loop()
    if not host:
        raise ConfigError(f"{url!r} has no host")
    try:
        await loop.getaddrinfo(host, port)
    except OSError as error:
        raise ConfigError(f"no address is known of {host!r}") from error
    return f"{host!r} has an address"


MACHINE: Final = (
    Check("user", _user, lambda _: os.geteuid() == 0),
    Check("work", _work, lambda world: world.on_swift or bool(world.config.work)),
    Check("data", _data, lambda world: not world.on_swift),
    Check("pid_file", _pid_file, lambda world: bool(world.config.pid_file)),
    Check("listen", _listen),
    Check("workers", _workers),
    Check("http.public_url", _public_url, lambda w: bool(w.config.http.public_url)),
)
