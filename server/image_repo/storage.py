"""The stores that a configuration names, opened for the server or a command."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo.config import chosen_store
from image_repo.errors import ConfigError, StoreError
from image_repo.stores import containers
from image_repo.stores.account import Account
from image_repo.stores.disk import DirectoryStore
from image_repo.stores.keystone import identity
from image_repo.stores.linkkeys import LinkKeys
from image_repo.stores.swift import SwiftStore
from image_repo.stores.tempurl import SwiftSigner
from image_repo.transfer.copying import Disk, Swift

if TYPE_CHECKING:
    from image_repo.config import Config
    from image_repo.linker import Signer
    from image_repo.stores.store import Store
    from image_repo.transfer.copying import Place


logger = logging.getLogger(__name__)

LINKED_SECONDS = 24 * 3600
"""How long at least a directory keeps the derived images that links lead to."""

SWEEP_SECONDS = 3600.0
"""Between two looks for those that may go: it reads the foot of each."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Where images are kept.

    Attributes:
        originals: What may not be lost.
        derived: What can be made again.
        near: Whether both are on this machine.
        lifetime: Seconds for which derived images are kept; None: for ever.
        signer: Signs links to derived images.
        keys: The signer's, where the links lead to this server; None: they lead to
            Swift.
        spool: Existing directory for what is on its way.
    """

    originals: Store
    derived: Store
    near: bool
    lifetime: int | None
    signer: Signer
    keys: LinkKeys | None
    spool: Path


@asynccontextmanager
async def open_storage(
    config: Config, environ: Mapping[str, str]
) -> AsyncIterator[Storage]:
    """Open what keeps the images, as the configuration says.

    Raises:
        ConfigError: Something that is needed is not said, or wrong.
        StoreError: A directory can't be used.
    """
    spool = await asyncio.to_thread(_spool, config.work_directory)
    async with AsyncExitStack() as stack:
        if chosen_store(config, environ) == "directory":
            yield await _directory(config, environ, spool, stack)
        else:
            yield await _swift(config, environ, spool, stack)


def _spool(work: Path) -> Path:
    spool = work / "uploads"
    try:
        spool.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"option work or data: cannot use {str(work)!r}: {error.strerror}"
        ) from error
    return spool


async def _directory(
    config: Config, environ: Mapping[str, str], spool: Path, stack: AsyncExitStack
) -> Storage:
    data = Path(config.data)
    originals = await stack.enter_async_context(DirectoryStore(data / "originals"))
    derived = await stack.enter_async_context(DirectoryStore(data / "derived"))
    key = containers.url_key(config.swift_cache_configuration, environ)
    keys = LinkKeys(data, config.http.public_url, key)
    sweeping = asyncio.create_task(_sweep(derived))
    stack.push_async_callback(_end, sweeping)
    return Storage(originals, derived, True, LINKED_SECONDS, keys, keys, spool)


async def _sweep(derived: DirectoryStore) -> None:
    """Remove now and then what no link leads to any more."""
    while True:
        try:
            removed = await derived.sweep(timedelta(seconds=LINKED_SECONDS))
        except StoreError as error:
            logger.warning("cannot remove what no link leads to any more: %s", error)
        else:
            if removed:
                logger.info("removed %d that no link leads to any more", removed)
        await asyncio.sleep(SWEEP_SECONDS)


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _swift(
    config: Config, environ: Mapping[str, str], spool: Path, stack: AsyncExitStack
) -> Storage:
    first = config.persistent_store_configuration
    second = config.swift_cache_configuration
    key = containers.url_key(second, environ)
    accounts: list[Account] = []
    who = containers.identities(first, second, environ)
    for user in dict.fromkeys(who):
        account = Account(user, config.swift)
        accounts.append(await stack.enter_async_context(account))
    originals = SwiftStore(
        accounts[0], first.container, newest=config.swift.newest, spool=spool
    )
    derived = SwiftStore(accounts[-1], second.container, spool=spool)
    for store in (originals, derived):
        await stack.enter_async_context(store)
    signer = SwiftSigner(accounts[-1], second.container, key)
    return Storage(
        originals, derived, False, second.lifetime or None, signer, None, spool
    )


@asynccontextmanager
async def open_place(
    place: Place, config: Config, environ: Mapping[str, str], *, make: bool
) -> AsyncIterator[Store]:
    """Open the originals in a place that `image_repo copy` is told.

    Args:
        place: Where they are.
        config: Says how Swift is asked, and as whom.
        environ: Where credentials may be.
        make: Whether the place is made if it is missing.

    Raises:
        ConfigError: Something that is needed is not said, wrong, or not there.
        StoreError: A directory can't be used.
    """
    async with AsyncExitStack() as stack:
        store: Store
        match place:
            case Disk():
                store = DirectoryStore(place.originals)
            case Swift():
                first = config.persistent_store_configuration
                where = f"{containers.PERSISTENT}.credentials"
                account = await stack.enter_async_context(
                    Account(identity(first.credentials, environ, where), config.swift)
                )
                name = place.container or first.container
                store = SwiftStore(account, name, make=make)
        yield await stack.enter_async_context(store)
