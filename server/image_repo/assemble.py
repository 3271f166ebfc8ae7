"""Puts the rooms together, and runs the server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo.cache import Cache, MemoryLevel, StoreLevel
from image_repo.config import described_store
from image_repo.errors import ConfigError
from image_repo.linker import Linker, Terms
from image_repo.originals import Originals
from image_repo.purge import make_purger
from image_repo.service import Service
from image_repo.storage import open_storage
from image_repo.transform.pool import Pool
from image_repo.web.app import AccessLogger, make_app
from image_repo.web.handlers import Room
from image_repo.web.links import Linked

if TYPE_CHECKING:
    from image_repo.config import Config

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections the kernel holds for us: a burst of a thousand must not be refused."""


@asynccontextmanager
async def open_room(
    config: Config, pool: Pool, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Room]:
    """Open stores and caches around running workers; close them in reverse order.

    Args:
        config: All options.
        pool: The workers.
        environ: Where credentials of Swift may be.

    Raises:
        ConfigError: What keeps the images can't be opened as it is said.
        StoreError: A directory can't be used.
    """
    async with AsyncExitStack() as stack:
        kept = await stack.enter_async_context(open_storage(config, environ))
        said = config.swift_cache_configuration
        terms = Terms(said.url_lifetime, said.url_lifetime_slack, kept.lifetime)
        levels = (
            MemoryLevel(config.memory_cache_configuration),
            # What the cache writes late must not shorten what a link leads to.
            StoreLevel(kept.derived, lifetime=terms.stored_for),
        )
        cache = await stack.enter_async_context(Cache(levels))
        purger = await stack.enter_async_context(
            make_purger(
                config.nginx,
                behind=config.behind_nginx,
                recipe=config.settings_recipe,
                secret=config.http.refresh_secret,
                lifetime=config.http.s_maxage,
            )
        )
        service = await stack.enter_async_context(
            Service(
                originals=Originals(kept.originals),
                cache=cache,
                pool=pool,
                purger=purger,
                recipe=config.recipe(pool.magick),
                options=config.service,
            )
        )
        linker = await stack.enter_async_context(
            Linker(
                service.derivations,
                service.revisions,
                kept.derived,
                kept.signer,
                terms,
            )
        )
        logger.info(
            "%s; %s; kinds %s",
            described_store(config, environ),
            pool.magick,
            " ".join(sorted(pool.kinds)),
        )
        yield Room(
            service=service,
            linker=linker,
            linked=None if kept.keys is None else Linked(kept.derived, kept.keys),
            pool=pool,
            images=config,
            http=config.http,
            upload_bytes=config.limits.upload_bytes,
            behind_nginx=config.behind_nginx,
            recipe=config.settings_recipe,
            spool=kept.spool,
            uploads=asyncio.Semaphore(config.http.uploads),
        )


async def serve(config: Config) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way.

    Raises:
        ConfigError: The address is taken, or a directory can't be used.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        listener = stack.enter_context(_listener(config.listen))
        pool = await stack.enter_async_context(
            Pool(config.workers, config.limits, config.render)
        )
        room = await stack.enter_async_context(open_room(config, pool))
        runner = web.AppRunner(
            make_app(room),
            access_log_class=AccessLogger,
            shutdown_timeout=config.http.drain_seconds,
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        stack.enter_context(_pid_file(config.pid_file))
        logger.info("listening on %s", config.listen)
        await stop.wait()
        logger.info("stopping: requests under way are finished first")


@contextmanager
def _listener(listen: str) -> Iterator[socket.socket]:
    if listen.startswith("unix:"):
        yield from _unix(Path(listen.removeprefix("unix:")))
        return
    host, _, port = listen.rpartition(":")
    try:
        found = socket.getaddrinfo(
            host.strip("[]"),
            int(port),
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )[0]
        listener = socket.create_server(
            found[4][:2], family=found[0], backlog=BACKLOG, reuse_port=False
        )
    except (OSError, OverflowError) as error:
        raise ConfigError(f"option listen: cannot use {listen!r}: {error}") from error
    with listener:
        yield listener


def _unix(path: Path) -> Iterator[socket.socket]:
    """Listen on a socket file; one that a killed server left is replaced."""
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(ConnectionRefusedError, FileNotFoundError):
                with socket.socket(socket.AF_UNIX) as other:
                    other.connect(str(path))
                raise ConfigError(f"option listen: another server has {str(path)!r}")
            path.unlink(missing_ok=True)
            listener.bind(str(path))
            path.chmod(0o666)  # the folder's mode says who may come in
        except OSError as error:
            raise ConfigError(
                f"option listen: cannot use {str(path)!r}: {error.strerror or error}"
            ) from error
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def _pid_file(text: str) -> Iterator[None]:
    if not text:
        yield
        return
    path = Path(text)
    try:
        path.write_text(f"{os.getpid()}\n", encoding="ascii")
    except OSError as error:
        raise ConfigError(
            f"option pid_file: cannot write {text!r}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
