"""Where an upload waits, as a file without a name, until it is whole and checked."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from image_repo.errors import StoreError, TooLargeError
from image_repo.stores.store import settled, write


class Spool:
    """A private file that takes an upload; gone when left, or when the process dies.

    Args:
        limit: Most bytes it takes.
        directory: Where the file's blocks are; None: the system's place for such.

    Attributes:
        file: All bytes written so far; where it stands is not defined.
        size: How many they are.
    """

    file: BinaryIO

    def __init__(self, limit: int, directory: Path | None = None) -> None:
        self._limit = limit
        self._directory = directory
        self.size = 0

    async def __aenter__(self) -> Self:
        self.file = await settled(self._open)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # In a thread: giving back the blocks of a large file takes a while.
        await settled(self.file.close)

    async def write(self, chunk: bytes) -> None:
        """Append *chunk*.

        Raises:
            TooLargeError: With it there would be more bytes than the limit.
            StoreError: The disk does not take it.
        """
        if self.size + len(chunk) > self._limit:
            raise TooLargeError(f"the upload has more than {self._limit} bytes")
        await settled(self._append, chunk)
        self.size += len(chunk)

    def _open(self) -> BinaryIO:
        try:
            # Unbuffered, so that workers, who get only its descriptor, see all of it.
            return tempfile.TemporaryFile(buffering=0, dir=self._directory)
        except OSError as error:
            raise _failed("open", error) from error

    def _append(self, chunk: bytes) -> None:
        try:
            self.file.seek(self.size)
            write(self.file, chunk)
        except OSError as error:
            raise _failed("write", error) from error


def _failed(doing: str, error: OSError) -> StoreError:
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return StoreError(f"cannot {doing} the file for an upload: {reason}")
