"""Checks of Keystone and Swift: credentials, containers, temporary URLs."""

from __future__ import annotations

import io
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from image_repo.checks.world import Check, World
from image_repo.errors import ConfigError, StoreError
from image_repo.stores import containers
from image_repo.stores.account import Account
from image_repo.stores.swift import SwiftStore
from image_repo.stores.tempurl import SwiftSigner
from image_repo.stores.wire import RefusedError

if TYPE_CHECKING:
    from image_repo.stores.account import SwiftOptions
    from image_repo.stores.keystone import Identity
    from image_repo.stores.store import Store

Look = Callable[[World], Awaitable[str]]

PROBE: Final = "image-repo-check/_/"
"""Begins the keys of objects that are put to try a container; no image has such a name,
so that nothing lists them."""

PROBE_SECONDS: Final = 3600
"""After which Swift deletes such an object, should we be unable to."""


def _hasty(options: SwiftOptions) -> SwiftOptions:
    """Return options with which a Swift that is silent is given up in time."""
    return replace(
        options,
        connections=1,
        connect_seconds=min(options.connect_seconds, 3.0),
        read_seconds=min(options.read_seconds, 4.0),
        patience=min(options.patience, 5.0),
        transfer_seconds=min(options.transfer_seconds, 5.0),
    )


def _identities(world: World) -> tuple[Identity, Identity]:
    return containers.identities(
        world.config.persistent_store_configuration,
        world.config.swift_cache_configuration,
        world.environ,
    )


def _account(world: World, number: int) -> Account:
    """Return the account of the originals (0), or of derived images (1)."""
    return Account(_identities(world)[number], _hasty(world.config.swift))


def _login(number: int) -> Look:
    async def look(world: World) -> str:
        where = _identities(world)[number].auth_url
        async with _account(world, number) as account:
            doing = f"cannot log in at {where}"
            swift = await account.ask(doing, lambda _, to: to.url)
            return f"Keystone at {where} takes them; Swift is at {swift}"

    return look


def _container(number: int) -> Look:
    async def look(world: World) -> str:
        name = _names(world)[number]
        async with _account(world, number) as account:
            await _find(account, name)
            async with SwiftStore(account, name, make=False, newest=True) as store:
                await _try(store)
        return f"{name!r} can be listed, written, read and deleted from"

    return look


async def _find(account: Account, name: str) -> None:
    """Look for a container.

    Raises:
        ConfigError: There is none.
        StoreError: It can't be looked for.
    """
    doing = f"cannot open {name!r}"
    try:
        await account.ask(doing, lambda wire, to: wire.head_container(to, name))
    except RefusedError as error:
        if error.status != HTTPStatus.NOT_FOUND:
            raise StoreError(f"{doing}: {error}") from error
        raise ConfigError(
            f"there is no container {name!r} yet; a server makes it when it starts, if"
            " it may"
        ) from error


def _names(world: World) -> tuple[str, str]:
    return (
        world.config.persistent_store_configuration.container,
        world.config.swift_cache_configuration.container,
    )


async def _try(store: Store) -> None:
    """Put an object, read it and delete it.

    Raises:
        StoreError: One of these can't be done.
    """
    key, body = PROBE + secrets.token_hex(8), secrets.token_bytes(32)
    await anext(store.list(limit=1), None)
    media_type = "application/octet-stream"
    await store.put(
        key, io.BytesIO(body), media_type=media_type, lifetime=PROBE_SECONDS
    )
    try:
        found = await store.fetch(key)
        if found is None:
            raise StoreError("an object that was put is not found")
        with found:
            if await found.read() != body:
                raise StoreError("an object comes back with other bytes")
    finally:
        await store.delete(key)


async def _url_key(world: World) -> str:
    derived = world.config.swift_cache_configuration
    key = containers.url_key(derived, world.environ)
    async with _account(world, 1) as account:
        return await SwiftSigner(account, derived.container, key).check()


def _two_users(world: World) -> bool:
    """Return whether derived images have a user or an account of their own."""
    first, second = _identities(world) if world.on_swift else (None, None)
    return first != second


SWIFT: Final = (
    Check(f"{containers.PERSISTENT}.credentials", _login(0), lambda w: w.on_swift),
    Check(f"{containers.PERSISTENT}.container", _container(0), lambda w: w.on_swift),
    Check(f"{containers.CACHE}.credentials", _login(1), _two_users),
    Check(f"{containers.CACHE}.container", _container(1), lambda w: w.on_swift),
    Check(f"{containers.CACHE}.url_key", _url_key, lambda w: w.on_swift),
)
