"""Temporary URLs of Swift, signed here with a key that the container has.

Swift has two keys for a container, and takes what either has signed: a new key moves
the one before to the second place, so that links made with it stay valid.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from image_repo import links
from image_repo.errors import ConfigError, StoreError
from image_repo.flights import Flights, Remembered
from image_repo.stores.account import Account
from image_repo.stores.wire import Endpoint, LostError, RefusedError, Wire

T = TypeVar("T")

logger = logging.getLogger(__name__)

KEY_SECONDS: Final = 60.0
"""How long the container's key is believed; Swift's proxies do so for as long."""

INFO_SECONDS: Final = 3600.0
"""How long it is believed what the cluster can do, and where it is."""

SETTLE_SECONDS: Final = 2.0
"""How long a new key has to have been there before it is used.

Swift can't make a thing only if there is none. Of servers that start together each
may find no key, and the last one to set its own wins. All who found none before the
first key was set have set theirs within half of this time, or look again.
"""

KEY: Final = "X-Container-Meta-Temp-URL-Key"
FORMER_KEY: Final = "X-Container-Meta-Temp-URL-Key-2"
"""The two keys of a container, to Swift equal; the first one signs."""

CHANGED: Final = "X-Container-Meta-Image-Repo-Key-Changed"
"""When a server has set a key. For `KEY_SECONDS` others may sign with the one before,
which a second change would take away."""

SETTLING: Final = "X-Container-Meta-Image-Repo-Key-Settling"
"""There while another server may still be setting its own key."""


class SwiftSigner:
    """Signs links to the objects of a container; a `linker.Signer`.

    Args:
        account: Opened, and closed after this.
        container: Where the objects are.
        key: The configured one, which the container is given if it has another; empty:
            the container's own, which is made if there is none.

    Raises:
        ConfigError: The configured key is too short.
    """

    def __init__(self, account: Account, container: str, key: str = "") -> None:
        self._account = account
        self._container = container
        self._configured = links.checked_key(key).decode() if key else ""
        self._cluster = _Fresh(INFO_SECONDS, self._look)
        self._key = _Fresh(KEY_SECONDS, self._agree)

    async def link(self, key: str, expires: int, filename: str) -> str:
        cluster = await self._cluster.get()
        secret = await self._key.get()
        name = f"{self._container}/{key}"
        return links.url(
            secret.encode(), cluster.url, name, expires, filename, cluster.digest
        )

    async def rotate(self) -> None:
        if self._configured:
            raise ConfigError(links.CONFIGURED)

        def work(wire: Wire, to: Endpoint) -> None:
            found = _read(wire, to, self._container)
            early = found.changed + KEY_SECONDS + SETTLE_SECONDS - time.time()
            if early > 0:
                raise StoreError(
                    "the key has been changed just now, and servers may sign with the"
                    f" one before: try again in {early:.0f} s"
                )
            self._set(wire, to, found, secrets.token_urlsafe())

        await self._ask(work)
        await self._settle()
        self._key.forget()

    async def check(self) -> str:
        """Return in words how links are signed; change nothing.

        Raises:
            StoreError: They can't be.
        """
        cluster = await self._cluster.get()
        found = await self._ask(lambda wire, to: _read(wire, to, self._container))
        if self._configured:
            has = self._configured in {found.first, found.second}
            key = "the configured key" + ("" if has else ", which the container gets")
        elif found.first:
            self._checked(found.first)
            key = "the container's key"
        else:
            key = "a key that will be made"
        return f"{cluster.digest} with {key}"

    async def _look(self) -> _Cluster:
        """Return where the objects are for all the world, and what may sign.

        Raises:
            StoreError: There are no temporary URLs, or only weakly signed ones.
        """
        doing = "cannot ask what Swift can do"
        try:
            info = await self._account.ask(doing, lambda wire, _: wire.capabilities())
        except RefusedError as error:
            raise StoreError(f"{doing}: {error}") from error
        return _Cluster(await self._account.public_url(), _digest(info))

    # The key

    async def _agree(self) -> str:
        """Return the key that signs, once it is sure that it stays."""
        found = await self._ask(self._ensure)
        while found.settling:
            await self._settle()
            found = await self._ask(self._ensure)
        return self._configured or self._checked(found.first)

    def _ensure(self, wire: Wire, to: Endpoint) -> _Keys:
        """Return the container's keys; it gets the right one if it doesn't have it."""
        asked = time.monotonic()
        found = _read(wire, to, self._container)
        if self._configured:
            if self._configured not in {found.first, found.second}:
                self._set(wire, to, found, self._configured)
            return found
        if found.first:
            return found
        if time.monotonic() - asked > SETTLE_SECONDS / 2:
            raise LostError("Swift was too slow to say that there is no key")
        return self._set(wire, to, found, secrets.token_urlsafe())

    def _set(self, wire: Wire, to: Endpoint, found: _Keys, key: str) -> _Keys:
        """Give the container a new key; one that can be guessed is not kept."""
        former = found.first or found.second
        kept = former if len(former.encode()) >= links.LEAST_KEY else ""
        changed = int(time.time())
        headers = {KEY: key, FORMER_KEY: kept, CHANGED: str(changed)}
        settling = not self._configured
        if settling:
            headers[SETTLING] = "yes"
        wire.post_container(to, self._container, headers)
        logger.info("container %s has a new key for temporary URLs", self._container)
        return _Keys(key, kept, settling, changed)

    async def _settle(self) -> None:
        """Wait until the key that is there then stays, and say so to all."""
        await asyncio.sleep(SETTLE_SECONDS)
        await self._ask(
            lambda wire, to: wire.post_container(to, self._container, {SETTLING: ""})
        )

    def _checked(self, key: str) -> str:
        if len(key.encode()) < links.LEAST_KEY:
            raise StoreError(
                f"the key that container {self._container!r} has for temporary URLs is"
                " too short: `image_repo url-key --rotate` gives it a new one"
            )
        return key

    async def _ask(self, work: Callable[[Wire, Endpoint], T]) -> T:
        doing = f"cannot agree with container {self._container!r} on a key"
        try:
            return await self._account.ask(doing, work, changes=True)
        except RefusedError as error:
            raise StoreError(f"{doing}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Cluster:
    """Where the account is for those without a token, and what signs links."""

    url: str
    digest: links.Digest


@dataclass(frozen=True, slots=True, repr=False)
class _Keys:
    """The keys of a container, empty where it has none.

    Attributes:
        first: Signs.
        second: What it has signed is valid, too.
        settling: Whether another server may still be setting its own.
        changed: When a server has set one, in seconds since 1970; 0: never.
    """

    first: str
    second: str
    settling: bool
    changed: int


def _read(wire: Wire, to: Endpoint, container: str) -> _Keys:
    found = wire.raw_container(to, container)

    def text(header: str) -> str:
        return found.get(header.lower(), b"").decode()

    changed = text(CHANGED)
    return _Keys(
        text(KEY),
        text(FORMER_KEY),
        bool(text(SETTLING)),
        int(changed) if changed.isdecimal() else 0,
    )


def _digest(info: Mapping[str, Mapping[str, object]]) -> links.Digest:
    """Return the best digest that a cluster's /info allows."""
    about = info.get("tempurl")
    if about is None:
        raise StoreError("this Swift has no temporary URLs")
    allowed = about.get("allowed_digests")
    for digest in links.DIGESTS:
        if isinstance(allowed, list) and digest in allowed:
            return digest
    raise StoreError(
        f"this Swift signs temporary URLs too weakly: it must allow one of"
        f" {', '.join(links.DIGESTS)}"
    )


class _Fresh(Generic[T]):
    """A value that is asked for anew after a while, once for all who wait for it.

    Args:
        lifetime: Seconds for which it is believed.
        ask: Returns it.
    """

    def __init__(
        self, lifetime: float, ask: Callable[[], Coroutine[None, None, T]]
    ) -> None:
        self._ask = ask
        self._known: Remembered[None, T] = Remembered(lifetime)
        self._asking: Flights[None, T] = Flights()

    async def get(self) -> T:
        known = self._known.get(None)
        return await self._asking.do(None, self._renew) if known is None else known

    def forget(self) -> None:
        self._known.forget(None)

    async def _renew(self) -> T:
        found = await self._ask()
        self._known.put(None, found)
        return found
