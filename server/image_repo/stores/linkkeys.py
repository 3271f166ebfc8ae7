"""Keys of links that this server makes and serves itself, kept in a file."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from image_repo import links
from image_repo.errors import ConfigError, StoreError
from image_repo.stores.store import failed, in_thread, settled
from image_repo.words import Words

KEY_BYTES: Final = 32
"""Random bytes in a key that is made here: as many as SHA-256 has."""

KEPT: Final = 2
"""Keys in a file: the one that signs, and the one before."""

_NAME: Final = "link_keys"


class LinkKeys:
    """Signs links to this server, and says which are valid; a `linker.Signer`.

    Several servers may share the file, and notice at once when its keys change.

    Args:
        directory: The keys are in `link_keys` there, which only its owner may read; it
            is made when it is not there.
        public_url: Scheme and host that begin a link; empty: it begins with a path.
        key: The configured one, in place of those in the file; empty: none is.

    Raises:
        ConfigError: The configured key is too short.
    """

    def __init__(self, directory: Path, public_url: str = "", key: str = "") -> None:
        self._file = directory / _NAME
        self._lock = directory / f"{_NAME}.lock"
        self._base = public_url + links.BASE
        self._configured = (links.checked_key(key),) if key else ()
        self._read: tuple[tuple[int, ...], tuple[bytes, ...]] = ((), ())

    async def link(self, key: str, expires: int, filename: str) -> str:
        keys = await self._keys()
        return links.url(keys[0], self._base, key, expires, filename)

    async def verify(self, method: str, key: str, given: Words, now: float) -> int:
        """Return when a link to an object ends that is valid now.

        Args:
            method: Of the request, in capitals.
            key: The object's, in the store.
            given: The words of the request's query.
            now: Seconds since 1970.

        Raises:
            UnauthorisedError: It is not valid.
            StoreError: The keys can't be read.
        """
        keys = await self._keys()
        return links.verify(keys, method, f"{links.BASE}/{key}", given, now)

    async def rotate(self) -> None:
        if self._configured:
            raise ConfigError(links.CONFIGURED)
        await settled(self._change, lambda keys: (_new_key(), *keys)[:KEPT])

    async def _keys(self) -> Sequence[bytes]:
        return self._configured or await in_thread(self._current)

    def _current(self) -> tuple[bytes, ...]:
        """Return the keys in the file; it is read again when it is another one."""
        with _translated("read"):
            try:
                found = self._file.stat()
            except FileNotFoundError:
                self._change(lambda keys: keys or (_new_key(),))
                found = self._file.stat()
            state = (found.st_ino, found.st_mtime_ns, found.st_size)
            before, keys = self._read
            if before != state:
                keys = _parsed(self._file.read_bytes())
                self._read = (state, keys)
        return keys

    def _change(self, change: Callable[[tuple[bytes, ...]], tuple[bytes, ...]]) -> None:
        """Let *change* make new keys of those in the file, one at a time."""
        with _translated("write"):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with _locked(self._lock):
                try:
                    keys = _parsed(self._file.read_bytes())
                except FileNotFoundError:
                    keys = ()
                _replace(self._file, change(keys))


def _new_key() -> bytes:
    return secrets.token_urlsafe(KEY_BYTES).encode()


def _parsed(data: bytes) -> tuple[bytes, ...]:
    try:
        keys = tuple(text.encode() for text in json.loads(data)["keys"])
    except (ValueError, TypeError, KeyError, AttributeError):
        keys = ()  # its text has no place in an error: it may be a secret
    if not keys or min(map(len, keys)) < links.LEAST_KEY:
        raise StoreError(
            f"the file {_NAME} is damaged; without it another is made, and links end"
        )
    return keys


def _replace(file: Path, keys: Sequence[bytes]) -> None:
    """Write a new file and let it take the place of the old one; both are whole."""
    new = file.with_suffix(".new")
    text = json.dumps({"keys": [key.decode() for key in keys]})
    fd = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with open(fd, "w", encoding="ascii") as opened:  # noqa: PTH123 - by descriptor
        opened.write(text)
        opened.flush()
        os.fsync(fd)
    new.rename(file)


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    fd = os.open(lock, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise failed(doing, _NAME, error) from error
