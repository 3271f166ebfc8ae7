"""Files on their way into a directory: private until they are whole.

    {root}/tmp/…   files being written, locked by who writes them
    {root}/lock    held for a moment by who makes a file there or clears them away

A file without a lock was left behind by a process that died.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

_NEW: Final = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC


class Drafts:
    """Makes such files; several processes may use one directory at once.

    Args:
        root: The directory, on the file system that the files are for.
    """

    def __init__(self, root: Path) -> None:
        self._tmp = str(root / "tmp")
        self._lock = str(root / "lock")

    def open(self) -> None:
        """Make the directory, and clear away what no living process is writing.

        Raises:
            OSError: It can't be done.
        """
        Path(self._tmp).mkdir(parents=True, exist_ok=True)
        with locked(self._lock, fcntl.LOCK_EX):
            for left in Path(self._tmp).iterdir():
                _sweep(left)

    @contextmanager
    def new(self) -> Iterator[tuple[int, str]]:
        """Give an open file and its path; removed at the end unless it was renamed.

        Raises:
            OSError: There can be none.
        """
        path = f"{self._tmp}/{secrets.token_hex(16)}"
        with ExitStack() as stack:
            # `_sweep` must never see the file before its lock.
            with locked(self._lock, fcntl.LOCK_SH):
                fd = os.open(path, _NEW, 0o666)
                stack.callback(_forget, path)
                stack.callback(os.close, fd)
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd, path


@contextmanager
def locked(path: str, how: int) -> Iterator[int]:
    """Hold a lock on a file, which is made if it is not there; give its descriptor."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, how)
        yield fd
    finally:
        os.close(fd)


def write(fd: int, data: bytes) -> None:
    """Write all of *data*, which the system may take in parts."""
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _forget(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - paths here are text


def _sweep(path: Path) -> None:
    # A folder is not ours, and no reason to stay away.
    with (
        suppress(FileNotFoundError, BlockingIOError, IsADirectoryError),
        path.open("rb+") as file,
    ):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
