"""Peers: the other servers that must hear when an image has changed.

Those of one machine that share a directory find each other there:

    {directory}/{token}.json    where one server listens, and the secret by which it
                                knows the others; locked for as long as it lives
    {directory}/tmp, lock       files being written: see `stores.drafts`

Those of other machines are named by the configuration.
"""

from __future__ import annotations

import asyncio
import fcntl
import hmac
import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import aiohttp
from yarl import URL

from image_repo import names
from image_repo.errors import ConfigError
from image_repo.options import option
from image_repo.purge import first_url
from image_repo.stores import drafts
from image_repo.stores.store import in_thread, settled

if TYPE_CHECKING:
    from image_repo.names import ImageName

logger = logging.getLogger(__name__)

PEER_HEADER: Final = "X-Image-Repo-Peer"
"""Carries the secret by which a server knows that a peer asks."""

TELL_SECONDS: Final = 2.0
"""How long a change waits for its peers to confirm; forgetting takes milliseconds."""

LOOK_SECONDS: Final = 1.0
"""How often a server looks whether others can still find it."""

_TRIES: Final = 2  # a kept connection may have ended; to be told twice does no harm
_HEARD: Final = frozenset({204, 404})
_UNIX: Final = "unix:"
_SUFFIX: Final = ".json"
_URL: Final = r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?"


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """Section *peers*: who else hears of changes."""

    urls: str = option(
        "",
        "Scheme, host and port of the other servers, or of the nginx before each,"
        " separated by a space, such as http://10.0.0.2:8080 http://10.0.0.3:8080; each"
        " is told of every change, with http.refresh_secret, which must be the same on"
        " all. Servers of this machine that share a cache need not be named.",
        pattern=rf"(?:{_URL}(?: {_URL})*)?",
    )


def addresses(options: PeerOptions, secret: str) -> tuple[str, ...]:
    """Return the addresses of the configuration.

    Args:
        options: Section *peers*.
        secret: By which those there know us; empty: there is none.

    Raises:
        ConfigError: There is no secret, but somebody to be told.
    """
    if options.urls and not secret:
        raise ConfigError(
            f"option peers.urls is {options.urls!r}, but http.refresh_secret, by which"
            " they know each other, is empty"
        )
    return tuple(options.urls.split())


@dataclass(frozen=True, slots=True)
class _Peer:
    """One other server.

    Attributes:
        address: Its URL without a path; or unix: and the path of its socket.
        secret: By which it knows us.
        file: What says so, if it is of this machine.
    """

    address: str
    secret: str
    file: Path | None = None


class Peers:
    """Tells the other servers what has changed; an async context manager.

    Args:
        directory: Where those of this machine find each other; None: nowhere. It must
            be on a disk of this machine.
        urls: Addresses of the others.
        secret: By which those know us, and we them; empty: there is none.
        seconds: How long `tell` waits.
    """

    def __init__(
        self,
        directory: Path | None,
        urls: tuple[str, ...],
        secret: str,
        seconds: float = TELL_SECONDS,
    ) -> None:
        self._directory = directory
        self._roll = None if directory is None else _Roll(directory)
        self._far = tuple(_Peer(url, secret) for url in urls)
        self._secret = secret
        self._own_secret = token_hex(16)
        self._seconds = seconds
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._staying: asyncio.Task[None] | None = None
        self._unseen = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._staying is not None:
            self._staying.cancel()
            await asyncio.gather(self._staying, return_exceptions=True)
        if self._roll is not None:
            await settled(self._roll.leave)
        for session in self._sessions.values():
            await session.close()

    async def announce(self, address: str) -> None:
        """Have the others of this machine tell this server, which listens now.

        Where that can't be done it is logged, and tried again and again.

        Args:
            address: HOST:PORT, or unix: and a path.
        """
        if self._roll is None:
            return
        known = {"address": _reachable(address), "secret": self._own_secret}
        said = json.dumps(known).encode()
        await self._enter(self._roll, said)
        self._staying = asyncio.create_task(self._stay(self._roll, said))

    def own_secret(self, text: str) -> bool:
        """Return whether *text*, of the header, shows that a peer asks."""
        return self.from_afar(text) or _equal(text, self._own_secret)

    def from_afar(self, text: str) -> bool:
        """Return whether a peer of the configuration asks.

        It has told this server alone, perhaps by the nginx before several.
        """
        return _equal(text, self._secret)

    async def tell(self, image: ImageName, *, afar: bool = True) -> tuple[str, ...]:
        """Tell all others at once that *image* has changed.

        Args:
            image: What they have to forget.
            afar: Whether those of the configuration are told, too.

        Returns:
            Addresses of those that did not confirm it in time, and the directory if
            it could not be read; each is logged.
        """
        path = f"{names.BASE}/{names.quoted(image)}/{names.MARK}/purge"
        every, faults = list(self._far) if afar else [], {}
        try:
            async with asyncio.timeout(self._seconds):
                every += await self._near()
        except OSError as error:  # TimeoutError is one
            faults[str(self._directory)] = _said(error)
        told = await asyncio.gather(*(self._tell(peer, path) for peer in every))
        faults |= {p.address: fault for p, fault in zip(every, told, strict=True)}
        left = {address: fault for address, fault in faults.items() if fault}
        for address, fault in left.items():
            logger.warning("%s did not hear of %s: %s", address, image, fault)
        return tuple(left)

    async def _near(self) -> list[_Peer]:
        return [] if self._roll is None else await in_thread(self._roll.others)

    async def _tell(self, peer: _Peer, path: str) -> str:
        """Return what went wrong; empty: nothing."""
        try:
            async with asyncio.timeout(self._seconds):
                fault = await self._ask(peer, path)
                # one that has ended meanwhile has forgotten everything
                gone = fault and peer.file and not await in_thread(_alive, peer.file)
        except OSError as error:
            return _said(error)
        return "" if gone else fault

    async def _ask(self, peer: _Peer, path: str) -> str:
        base = "http://localhost" if peer.address.startswith(_UNIX) else peer.address
        # encoded: yarl would otherwise requote
        url = URL(base + path, encoded=True)
        fault = ""
        for _ in range(_TRIES):
            try:
                async with self._session(peer.address).post(
                    url, headers={PEER_HEADER: peer.secret}, allow_redirects=False
                ) as answer:
                    heard = answer.status in _HEARD
                    return "" if heard else f"status {answer.status}"
            except (aiohttp.ClientError, ValueError) as error:
                fault = _said(error)
        return fault

    def _session(self, address: str) -> aiohttp.ClientSession:
        """Return what keeps connections to an address: one for each socket file."""
        of_unix = address.startswith(_UNIX)
        key = address if of_unix else ""
        if key not in self._sessions:
            connector = (
                aiohttp.UnixConnector(address.removeprefix(_UNIX))
                if of_unix
                else aiohttp.TCPConnector()
            )
            self._sessions[key] = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._sessions[key]

    async def _stay(self, roll: _Roll, said: bytes) -> None:
        """Come back when somebody has emptied the directory, as with any cache."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if not await in_thread(roll.entered):
                await self._enter(roll, said)

    async def _enter(self, roll: _Roll, said: bytes) -> None:
        try:
            await settled(roll.enter, said)
        except OSError as error:
            if not self._unseen:
                logger.error(  # noqa: TRY400 - its text says all
                    "other servers of this machine can't tell this one of changes: %s",
                    error,
                )
            self._unseen = True
        else:
            self._unseen = False


def _reachable(listen: str) -> str:
    """Return how a process of this machine reaches what listens there."""
    if listen.startswith(_UNIX):
        return _UNIX + str(Path(listen.removeprefix(_UNIX)).absolute())
    return first_url(listen)


def _said(error: Exception) -> str:
    return f"{type(error).__name__} {error}".rstrip()


def _equal(text: str, secret: str) -> bool:
    """Return whether *text* is *secret*, which is not empty; in constant time."""
    given = text.encode("utf-8", "surrogateescape")  # as aiohttp decodes headers
    return bool(secret) & hmac.compare_digest(given, secret.encode())


# -- who is here -----------------------------------------------------------------------


class _Roll:
    """The servers of this machine that share a directory; its methods block.

    Args:
        root: The directory; made when it is not there, for nobody but this user.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._drafts = drafts.Drafts(root)
        self._file = root / (token_hex(16) + _SUFFIX)
        self._held = ExitStack()

    def enter(self, said: bytes) -> None:
        """Show *said* to the others while this process lives.

        Raises:
            OSError: It can't be done.
        """
        self.leave()
        self._root.mkdir(0o700, parents=True, exist_ok=True)
        self._drafts.open()
        with ExitStack() as held:
            # Its lock stays with the file under whatever name.
            fd, path = held.enter_context(self._drafts.new())
            os.fchmod(fd, 0o600)
            drafts.write(fd, said)
            Path(path).rename(self._file)
            self._held = held.pop_all()

    def entered(self) -> bool:
        """Return whether the others can see it."""
        return os.path.exists(self._file)  # noqa: PTH110 - any error means no

    def leave(self) -> None:
        """Show nothing any more."""
        with suppress(OSError):  # without its lock the others remove it
            self._file.unlink()
        self._held.close()

    def others(self) -> list[_Peer]:
        """Return all that live but this one; remove what the dead have left.

        Raises:
            OSError: The directory can't be read.
        """
        return list(self._others())

    def _others(self) -> Iterator[_Peer]:
        for file in self._files():
            try:
                if file != self._file and _alive(file):
                    said = json.loads(file.read_bytes())
                    yield _Peer(said["address"], said["secret"], file)
            except FileNotFoundError:  # it has just left
                continue
            except (OSError, ValueError, KeyError, TypeError) as error:
                logger.warning("cannot read who is at %s: %s", file, _said(error))

    def _files(self) -> list[Path]:
        try:
            return [f for f in self._root.iterdir() if f.suffix == _SUFFIX]
        except FileNotFoundError:
            return []


def _alive(file: Path) -> bool:
    """Return whether its server lives; the file of a dead one is removed."""
    with suppress(FileNotFoundError), file.open("rb") as held:
        try:
            # shared, so that nobody who looks is taken for who holds it
            fcntl.flock(held, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        file.unlink(missing_ok=True)
    return False
