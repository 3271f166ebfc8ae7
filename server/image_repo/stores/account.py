"""A Swift account as one user has it: its token, its connections, its threads.

Every request to Swift goes through `Account.ask`, which alone decides how long is
waited, what is asked again, and when Keystone is asked for another token.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, TypeVar

from keystoneauth1 import exceptions

from image_repo.errors import ConfigError, StoreError
from image_repo.options import option
from image_repo.stores.keystone import Identity, make_session
from image_repo.stores.store import changing, reading
from image_repo.stores.wire import Endpoint, LostError, RefusedError, Wire

T = TypeVar("T")

logger = logging.getLogger(__name__)

START_SECONDS: Final = 5.0
"""How long a start waits for Keystone, and for each container, before it goes on."""

ATTEMPTS: Final = 3
"""How often one thing is asked at most, not counting a renewed token."""

PAUSE: Final = 0.1
"""Seconds before the second attempt; twice as long before the third."""

REFUSAL_SECONDS: Final = 1.0
"""How long Keystone is left alone after it failed, or after Swift refused a token: it
gives no better one so soon, and all who ask meanwhile fail too."""

TRANSIENT: Final = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.CONFLICT,  # another change at the same moment had a later time
    HTTPStatus.TOO_MANY_REQUESTS,
    498,  # Swift's own for being too busy
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
"""What Swift answers when it may do better the next time."""


@dataclass(frozen=True, slots=True)
class SwiftOptions:
    """How Swift and Keystone are asked."""

    connections: int = option(
        16,
        "Connections to Swift for each container, each used by a thread of its own.",
        low=1,
        high=256,
    )
    connect_seconds: float = option(
        3.0, "Longest wait for a connection to Swift.", low=0.1, high=60
    )
    read_seconds: float = option(
        12.0,
        "Longest wait for the next byte from Swift, whose own limit inside is 10 s;"
        " and for an answer of Keystone.",
        low=0.1,
        high=300,
    )
    patience: float = option(
        20.0,
        "Seconds after which nothing is asked again, and what still waits for a"
        " connection fails.",
        low=0.1,
        high=600,
    )
    transfer_seconds: float = option(
        60.0,
        "Longest time that the bytes of one object may take, there or back.",
        low=1,
        high=3600,
    )
    newest: bool = option(
        True,
        "Whether every replica of an original is asked and the newest believed; if"
        " not, one is asked: less work for the cluster, and images that were just"
        " replaced may be made from the old ones for a while, without being cached.",
    )


class Account:
    """The one way to Swift for all stores of an account; an async context manager.

    Args:
        identity: Who we are, and where.
        options: How long is waited, and for how many at once.
    """

    def __init__(self, identity: Identity, options: SwiftOptions) -> None:
        self.options = options
        self._identity = identity
        self._session = make_session(identity, timeout=options.read_seconds)
        self._lanes: dict[str, ThreadPoolExecutor] = {}
        self._local = threading.local()
        self._wires: list[Wire] = []
        self._lock = threading.Lock()
        self._endpoint: Endpoint | None = None
        self._refusal: tuple[float, exceptions.ClientException | None] = (0.0, None)
        self._renewed = -REFUSAL_SECONDS
        self._trouble = ""

    async def __aenter__(self) -> Self:
        """Get a token if Keystone gives one; if it does not answer that can wait.

        Raises:
            ConfigError: Keystone refuses the credentials, or knows no Swift.
        """
        try:
            async with asyncio.timeout(START_SECONDS):
                await reading(self._log_in, self._lane(""))
        except TimeoutError:
            self._say("it does not answer")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for threads in self._lanes.values():
            threads.shutdown(wait=False)
        for threads in self._lanes.values():
            await changing(threads.shutdown)
        for wire in self._wires:
            wire.close()

    @property
    def opened(self) -> bool:
        """Whether Keystone has given a token."""
        return self._endpoint is not None

    async def ask(
        self,
        doing: str,
        work: Callable[[Wire, Endpoint], T],
        *,
        lane: str = "",
        changes: bool = False,
    ) -> T:
        """Return what *work* returns; it runs in a thread and may run several times.

        Args:
            doing: Begins the message of an error, such as `cannot read 'x'`.
            work: Makes requests; raises what a `Wire` raises.
            lane: It waits only for other work of this name: a container that hangs
                must not take the connections of another.
            changes: Whether it changes something, so that a caller that is cancelled
                waits for it.

        Raises:
            RefusedError: Swift answered so, and would again.
            StoreError: Keystone or Swift failed, or did not answer in time.
        """
        until = time.monotonic() + self.options.patience
        attempts = functools.partial(self._attempts, doing, work, until)
        if changes:
            return await changing(attempts, self._lane(lane))
        return await reading(attempts, self._lane(lane))

    async def public_url(self) -> str:
        """Return the URL at which the account is for those who have no token.

        Raises:
            StoreError: Keystone does not say it.
        """
        try:
            return await reading(self._public_url, self._lane(""))
        except exceptions.ClientException as error:
            raise StoreError("Keystone does not say where Swift is") from error

    def _lane(self, name: str) -> ThreadPoolExecutor:
        if name not in self._lanes:
            self._lanes[name] = ThreadPoolExecutor(self.options.connections, "swift")
        return self._lanes[name]

    def _public_url(self) -> str:
        with self._lock:
            url = self._identity.storage_url or self._catalogued("public")
            return url.rstrip("/")

    def _log_in(self) -> None:
        where = self._identity.auth_url
        try:
            self._opened()
        except (exceptions.Unauthorized, exceptions.Forbidden) as error:
            raise ConfigError(f"Keystone at {where} refuses the credentials") from error
        except exceptions.EndpointNotFound as error:
            raise ConfigError(f"Keystone at {where}: {error}") from error
        except exceptions.ClientException:
            pass  # said already, and asked again by whoever needs a token

    def _attempts(
        self, doing: str, work: Callable[[Wire, Endpoint], T], until: float
    ) -> T:
        attempt = 0
        while True:
            if time.monotonic() > until:
                raise StoreError(f"{doing}: Swift is too slow")
            attempt += 1
            try:
                return self._once(work)
            except exceptions.ClientException as error:
                raise StoreError(f"{doing}: Keystone gives no token") from error
            except (RefusedError, LostError) as error:
                if isinstance(error, RefusedError) and error.status not in TRANSIENT:
                    raise
                pause = PAUSE * 2 ** (attempt - 1)
                if attempt == ATTEMPTS or time.monotonic() + pause > until:
                    raise StoreError(f"{doing}: {error}") from error
            time.sleep(pause)

    def _once(self, work: Callable[[Wire, Endpoint], T]) -> T:
        endpoint = self._opened()
        try:
            return work(self._wire(endpoint), endpoint)
        except RefusedError as error:
            if error.status != HTTPStatus.UNAUTHORIZED or not self._renew(endpoint):
                raise
        endpoint = self._opened()
        return work(self._wire(endpoint), endpoint)

    def _wire(self, to: Endpoint) -> Wire:
        """Return the connection of this thread."""
        wire: Wire | None = getattr(self._local, "wire", None)
        if wire is None or wire.url != to.url:
            options = self.options
            timeout = (options.connect_seconds, options.read_seconds)
            longest = options.transfer_seconds
            verify = self._identity.verify
            wire = self._local.wire = Wire(to.url, timeout, longest, verify)
            self._wires.append(wire)
        return wire

    def _opened(self) -> Endpoint:
        """Return where the account is, with a token that is valid for a while.

        One thread at a time asks Keystone. Who has a token that Swift may still take
        does not wait for it; who waits has its answer, or its failure if that is not
        older than `REFUSAL_SECONDS`.
        """
        known = self._endpoint
        if known is None:
            self._lock.acquire()
        elif not self._lock.acquire(blocking=False):
            return known
        try:
            return self._asked()
        finally:
            self._lock.release()

    def _asked(self) -> Endpoint:
        until, refusal = self._refusal
        if refusal is not None and time.monotonic() < until:
            if self._endpoint is None:
                raise refusal
            return self._endpoint
        try:
            # From memory, unless there is none or it ends within two minutes.
            token = self._session.get_token() or ""
            who = self._identity
            url = who.storage_url or self._catalogued(who.interface)
        except exceptions.ClientException as error:
            self._say(str(error).partition("\n")[0])
            self._refusal = (time.monotonic() + REFUSAL_SECONDS, error)
            if self._endpoint is None:
                raise
            return self._endpoint  # Swift may still take its token
        self._say("")
        if self._endpoint is None or self._endpoint.token != token:
            self._endpoint = Endpoint(url.rstrip("/"), token)
        return self._endpoint

    def _say(self, trouble: str) -> None:
        """Log why Keystone gives no token, and that it does again, once each."""
        if bool(trouble) != bool(self._trouble):
            logger.warning(
                "Keystone at %s gives %s",
                self._identity.auth_url,
                f"no token: {trouble}" if trouble else "tokens again",
            )
        self._trouble = trouble

    def _renew(self, refused: Endpoint) -> bool:
        """Have a new token fetched, unless another thread has done so.

        Returns whether there may be a better one: a Swift that can't ask Keystone
        refuses them all.
        """
        with self._lock:
            if self._endpoint is refused:
                now = time.monotonic()
                if now < self._renewed + REFUSAL_SECONDS:
                    return False
                self._renewed = now
                self._endpoint = None
                self._refusal = (0.0, None)
                self._session.invalidate()
            return True

    def _catalogued(self, interface: str) -> str:
        url: str | None = self._session.get_endpoint(
            service_type="object-store",
            interface=interface,
            region_name=self._identity.region_name or None,
        )
        if url is None:
            raise exceptions.EndpointNotFound("the catalogue has no object store")
        return url
