"""Uploads wait in files without a name."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image_repo.errors import StoreError, TooLargeError
from image_repo.stores.spool import Spool


@contextmanager
def small_files() -> Iterator[None]:
    """Let no file grow beyond 4 KiB, pytest's own log included."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


async def test_what_is_written_is_in_a_file_that_no_directory_lists(
    tmp_path: Path,
) -> None:
    async with Spool(100, tmp_path) as spool:
        await spool.write(b"01234")
        await spool.write(b"")
        await spool.write(b"56789")

        assert spool.size == 10
        assert os.pread(spool.file.fileno(), 100, 0) == b"0123456789"
        assert list(tmp_path.iterdir()) == []
    assert spool.file.closed


async def test_writing_goes_on_at_the_end_wherever_a_reader_left_the_file() -> None:
    async with Spool(100) as spool:
        await spool.write(b"0123")
        spool.file.seek(1)
        await spool.write(b"4567")

        assert os.pread(spool.file.fileno(), 100, 0) == b"01234567"


async def test_more_bytes_than_the_limit_are_too_large() -> None:
    async with Spool(10) as spool:
        await spool.write(b"0123456789")

        with pytest.raises(TooLargeError, match=r"^the upload has more than 10 bytes$"):
            await spool.write(b"x")
        assert spool.size == 10


async def test_a_place_that_is_not_there_is_an_error_of_the_store(
    tmp_path: Path,
) -> None:
    with pytest.raises(StoreError, match=r"upload: No such file or directory$"):
        async with Spool(10, tmp_path / "not"):
            pass


async def test_a_disk_that_takes_no_more_is_an_error_of_the_store() -> None:
    async with Spool(100_000) as spool:
        with small_files(), pytest.raises(StoreError, match=r"upload: File too large$"):
            await spool.write(bytes(5000))
        assert spool.size == 0
