"""Puts the rooms together, and runs the server."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo import live
from image_repo.batches import Batches
from image_repo.cache import Cache
from image_repo.config import check_together, described_store
from image_repo.errors import ConfigError
from image_repo.hangup import Hangup
from image_repo.intermediates import Intermediates
from image_repo.kept import KeptOriginals
from image_repo.lastknown import LastKnown
from image_repo.levels import DiskLevel, Level, MemoryLevel, StoreLevel
from image_repo.linker import Linker, Terms
from image_repo.originals import Originals
from image_repo.peers import Peers, addresses
from image_repo.purge import make_purger
from image_repo.quota import Bounds
from image_repo.selection import Selector
from image_repo.service import Service
from image_repo.shelf import Shelf
from image_repo.storage import open_storage
from image_repo.transform.pool import Pool
from image_repo.web.app import AccessLogger, make_app
from image_repo.web.handlers import Room
from image_repo.web.links import Linked
from image_repo.web.stopping import CUT_SECONDS, Stopping

if TYPE_CHECKING:
    from image_repo.config import Config
    from image_repo.purge import Purger
    from image_repo.storage import Storage

logger = logging.getLogger(__name__)

BACKLOG = 4096
"""Connections the kernel holds for us: a burst of a thousand must not be refused."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A room, with those parts of it in which options may change while it serves."""

    room: Room
    level: StoreLevel
    purger: Purger
    kept_for: int | None

    def apply(self, config: Config) -> None:
        """Heed from now on what *config* says in the options of `live.LIVE`."""
        terms = _terms(config, self.kept_for)
        self.room.linker.terms = terms
        # Never shorter: links that were given before lead to what is written later.
        if self.level.lifetime is not None and terms.stored_for is not None:
            self.level.lifetime = max(self.level.lifetime, terms.stored_for)
        self.purger.keep_for(config.http.held_seconds)
        self.room.images, self.room.http = config, config.http


def _terms(config: Config, kept_for: int | None) -> Terms:
    said = config.swift_cache_configuration
    return Terms(said.url_lifetime, said.url_lifetime_slack, kept_for)


@asynccontextmanager
async def open_room(
    config: Config, pool: Pool, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Room]:
    """Open what `open_all` opens; give the room alone."""
    async with open_all(config, pool, environ) as opened:
        yield opened.room


@asynccontextmanager
async def open_all(
    config: Config, pool: Pool, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[Opened]:
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
        terms = _terms(config, kept.lifetime)
        # What the cache writes late must not shorten what a link leads to. A directory
        # never forgets: it holds only what links were given for.
        level = StoreLevel(kept.derived, lifetime=terms.stored_for, keeps=not kept.near)
        disk = await _open_disk(config, kept, stack)
        memory = MemoryLevel(config.memory_cache_configuration)
        levels: tuple[Level, ...] = (memory, *disk.levels, level)
        cache = await stack.enter_async_context(Cache(levels))
        peers = await stack.enter_async_context(
            Peers(
                config.cache_directory / "instances",
                addresses(config.peers, config.http.refresh_secret),
                config.http.refresh_secret,
            )
        )
        purger = await stack.enter_async_context(
            make_purger(
                config.nginx,
                behind=config.behind_nginx,
                recipe=config.settings_recipe,
                secret=config.http.refresh_secret,
                lifetime=config.http.held_seconds,
            )
        )
        originals = Originals(kept.originals)
        service = await stack.enter_async_context(
            Service(
                originals=originals,
                near=KeptOriginals(originals, disk.originals),
                intermediates=Intermediates(
                    disk.intermediates, config.render, kept.spool
                ),
                last_known=await stack.enter_async_context(LastKnown(disk.derived)),
                cache=cache,
                pool=pool,
                purger=purger,
                peers=peers,
                recipe=config.recipe(pool.magick),
                options=config.service,
                metadata=config.metadata,
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
        selector = await stack.enter_async_context(
            Selector(service.names, config.http.selected)
        )
        batches = await stack.enter_async_context(
            Batches(pool.count, config.http.archives)
        )
        logger.info(
            "%s; %s; kinds %s",
            described_store(config, environ),
            pool.magick,
            " ".join(sorted(pool.kinds)),
        )
        room = Room(
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
            selector=selector,
            batches=batches,
            peers=peers,
        )
        yield Opened(room, level, purger, kept.lifetime)


@dataclass(frozen=True, slots=True)
class _Disk:
    """The caches on this machine's disk; None: there is no such one."""

    derived: Shelf | None
    originals: Shelf | None
    intermediates: Shelf | None

    @property
    def levels(self) -> tuple[DiskLevel, ...]:
        return () if self.derived is None else (DiskLevel(self.derived),)


async def _open_disk(config: Config, kept: Storage, stack: AsyncExitStack) -> _Disk:
    said, root = config.local_cache_configuration, config.cache_directory

    async def shelf(name: str, size: int, *, wanted: bool = True) -> Shelf | None:
        if not (wanted and size and said.max_elements):
            return None
        bounds = Bounds(size, said.max_elements, said.min_free)
        return await stack.enter_async_context(Shelf(root / name, bounds))

    return _Disk(
        await shelf("derived", said.max_size),
        await shelf("originals", said.originals_size, wanted=not kept.near),
        await shelf("intermediates", said.intermediates_size),
    )


class Rereading:
    """Applies what is read anew to a server that runs.

    Args:
        config: What it was started with.
        opened: The server.
        reread: Reads the configuration; blocks.
    """

    def __init__(
        self, config: Config, opened: Opened, reread: Callable[[], Config]
    ) -> None:
        self._config = config
        self._opened = opened
        self._reread = reread
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Have the configuration read again, soon and once."""
        self._asked.set()

    async def heed(self) -> None:
        """Do what is asked, until cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                self._change(await asyncio.to_thread(self._reread))
            except ConfigError as error:
                logger.error("the configuration stays as it was: %s", error)  # noqa: TRY400 - its text says all
            except Exception:  # the next signal must find somebody who heeds it
                logger.exception("the configuration stays as it was")

    def _change(self, new: Config) -> None:
        """Take what can be taken at once; say what can't.

        Raises:
            ConfigError: The one does not go together with the other.
        """
        merged = live.merged(self._config, new)
        check_together(merged)
        for path in live.changes(self._config, merged):
            logger.info("option %s has a new value", path)
        for path in live.changes(merged, new):
            logger.warning(
                "option %s has another value now, which takes a restart", path
            )
        self._opened.apply(merged)
        self._config = merged
        logger.info("the configuration has been read again")


async def serve(config: Config, reread: Callable[[], Config]) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is under way.

    Args:
        config: All options.
        reread: Reads them again, on SIGHUP; may raise ConfigError, and blocks.

    Raises:
        ConfigError: The address is taken, or a directory can't be used.
    """
    hangup, stop = Hangup(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        door = stack.enter_context(ExitStack())
        listener = door.enter_context(listening(config.listen))
        pool = await stack.enter_async_context(
            Pool(config.workers, config.limits, config.render)
        )
        opened = await stack.enter_async_context(open_all(config, pool))
        app = make_app(opened.room)
        # A purge by refresh leads from nginx back to this server.
        refreshed = config.behind_nginx and bool(config.http.refresh_secret)
        stopping = Stopping(app, refreshed=refreshed)
        runner = web.AppRunner(
            app, access_log_class=AccessLogger, shutdown_timeout=CUT_SECONDS
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        # Before anything is answered, so that no answer outlives a change elsewhere.
        await opened.room.peers.announce(_address(config.listen, listener))
        await web.SockSite(runner, listener, backlog=BACKLOG).start()
        stack.enter_context(_pid_file(config.pid_file))
        rereading = Rereading(config, opened, reread)
        hangup.heed(rereading.ask, stop.set)
        logger.info("listening on %s", config.listen)
        heeding = asyncio.create_task(rereading.heed())
        await stop.wait()
        heeding.cancel()
        logger.info("stopping: requests under way are finished first")
        # Another server may have the socket file as soon as nobody listens there.
        await stopping.finish(runner, door.close, config.http.drain_seconds)


def _address(listen: str, listener: socket.socket) -> str:
    """Return where others reach *listener*: with the port that port 0 has become."""
    if listener.family == socket.AF_UNIX:
        return listen
    return f"{listen.rpartition(':')[0]}:{listener.getsockname()[1]}"


@contextmanager
def listening(listen: str) -> Iterator[socket.socket]:
    """Listen where the option says.

    Raises:
        ConfigError: It can't be done.
    """
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
