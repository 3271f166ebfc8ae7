"""A shelf on a disk that is full, or can only be read: a real one, small, in memory.

Whoever may not mount one runs these tests in a namespace where that is allowed.
"""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from shelves import (
    IMAGE,
    KEY,
    ROOMY,
    body_of,
    counted,
    disk,
    files,
    is_right,
    left,
    place,
    put,
    remount,
    used,
)

from image_repo.errors import StoreError
from image_repo.quota import FULL_SECONDS, Bounds
from image_repo.shelf import Shelf

SIZE = 4 * 2**20
FULL = f"^cannot write '{KEY}': No space left on device$"

NAMESPACE = ["unshare", "--map-root-user", "--mount"]


def _may_mount() -> bool:
    return os.geteuid() == 0 and not _fails(["unshare", "--mount", "true"])


def _fails(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode != 0
    except FileNotFoundError:
        return True


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A directory of its own disk."""
    if not _may_mount():
        pytest.skip("a disk can't be mounted here")
    with disk(tmp_path / "disk", SIZE):
        yield tmp_path / "disk"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.skipif(_may_mount(), reason="these tests have run as they are")
@pytest.mark.skipif(_fails([*NAMESPACE, "true"]), reason="there are no namespaces")
def test_all_this_holds_in_a_namespace_where_a_disk_may_be_mounted() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run([*NAMESPACE, *command], capture_output=True, check=False)
    assert (done.returncode, b" passed" in done.stdout) == (0, True), done.stdout


def fill(root: Path) -> None:
    """Leave no byte of the disk free, for reasons that are not the cache's."""
    with suppress(OSError), (root / "other").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


async def test_what_is_free_stays_free(root: Path) -> None:
    async with Shelf(root, Bounds(2**40, 10**6, SIZE // 2)) as shelf:
        await shelf.settled()
        for number in range(100):
            key = f"{number}"
            await put(shelf, key, key, 100_000)
            assert await is_right(shelf, key, key)
            assert _free(root) >= SIZE // 2
            assert await shelf.total() == counted(root)
        assert used(root) > SIZE / 3


async def test_the_cache_shrinks_when_others_need_the_disk(root: Path) -> None:
    async with Shelf(root, Bounds(2**40, 10**6, SIZE // 4)) as shelf:
        for number in range(20):
            await put(shelf, f"{number}", f"{number}", 100_000)
        (root / "other").write_bytes(bytes(SIZE // 2))

        await put(shelf, IMAGE, KEY, 1000)
        assert _free(root) >= SIZE // 4
        assert await is_right(shelf, IMAGE, KEY)
        assert len(files(root)) > 5


async def test_what_finds_no_room_even_in_an_empty_cache_pushes_nothing_out(
    root: Path,
) -> None:
    async with Shelf(root, Bounds(2**40, 10**6, 0)) as shelf:
        (root / "other").write_bytes(bytes(SIZE // 2))
        await put(shelf, "a", "a", 100_000)

        with pytest.raises(StoreError, match=r"^the disk has no room for it"):
            await put(shelf, IMAGE, KEY, SIZE)

        assert await is_right(shelf, "a", "a")
        await put(shelf, IMAGE, KEY, 100_000)
        assert await is_right(shelf, IMAGE, KEY)


def _free(root: Path) -> int:
    found = os.statvfs(root)
    return found.f_bavail * found.f_frsize


class Greedy(io.BytesIO):
    """A body while which is read the rest of the disk is taken."""

    def __init__(self, data: bytes, root: Path) -> None:
        super().__init__(data)
        self._root = root

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            fill(self._root)
        return super().read(size)


async def test_a_disk_that_becomes_full_in_the_middle_of_a_write_loses_nothing_else(
    root: Path,
) -> None:
    async with Shelf(root, Bounds(2**40, 10**6, 0)) as shelf:
        await shelf.settled()
        await put(shelf, "a", "a", 100_000)
        await put(shelf, IMAGE, KEY, 1000)

        with pytest.raises(StoreError, match=FULL):
            await shelf.put(IMAGE, KEY, Greedy(bytes(1_000_000), root))

        assert left(root) == []
        assert await is_right(shelf, "a", "a")
        assert await is_right(shelf, IMAGE, KEY), "what was there before"
        assert await shelf.total() == counted(root)

        (root / "other").unlink()
        await put(shelf, IMAGE, KEY, 1_000_000)
        assert await is_right(shelf, IMAGE, KEY)


async def test_a_full_disk_is_tried_again_after_a_while(root: Path) -> None:
    clock = Clock()
    async with Shelf(root, Bounds(2**40, 10**6, 0), clock=clock) as shelf:
        await shelf.settled()
        fill(root)

        for _ in range(3):
            with pytest.raises(StoreError, match=r"^the disk has no room for it"):
                await put(shelf, IMAGE, KEY, 10)
        assert await shelf.read(IMAGE, KEY) is None
        assert left(root) == files(root) == []

        # At once where there is room, and soon where it must be made.
        (root / "other").unlink()
        for number in range(40):
            await put(shelf, f"{number}", f"{number}", 100_000)
        with pytest.raises(StoreError, match=r"^the disk has no room for it$"):
            await put(shelf, IMAGE, KEY, 100_000)
        clock.now = FULL_SECONDS
        await put(shelf, IMAGE, KEY, 100_000)
        assert await is_right(shelf, IMAGE, KEY)
        assert await shelf.total() == counted(root)


async def test_a_disk_that_is_full_from_the_beginning_is_no_error_of_who_opens_it(
    root: Path,
) -> None:
    fill(root)
    async with Shelf(root, ROOMY) as shelf:
        await shelf.settled()

        with pytest.raises(StoreError):
            await put(shelf, IMAGE, KEY, 10)
        assert await shelf.read(IMAGE, KEY) is None
        assert await shelf.forget(IMAGE) == []

        (root / "other").unlink()
        await put(shelf, IMAGE, KEY, 10)
        assert await is_right(shelf, IMAGE, KEY)


async def test_writers_on_a_disk_that_is_too_small_for_them_leave_it_in_order(
    root: Path,
) -> None:
    async def putting(name: str) -> None:
        for number in range(30):
            # Whoever takes the room that another has made is the reason for a pause.
            with suppress(StoreError):
                await put(shelf, name, f"{name}{number}", 100_000)
            for old in range(number + 1):
                await is_right(shelf, name, f"{name}{old}")

    clock = Clock()
    async with Shelf(root, Bounds(2**40, 10**6, 0), clock=clock) as shelf:
        await asyncio.gather(*(putting(name) for name in "abcd"))
        assert left(root) == []
        assert len(files(root)) > 20
        clock.now = FULL_SECONDS
        await put(shelf, IMAGE, KEY, 100_000)
        assert await is_right(shelf, IMAGE, KEY)
        await shelf._count()
        assert await shelf.total() == counted(root)


async def test_a_disk_that_can_only_be_read_gives_what_it_has(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Shelf(root, ROOMY) as shelf:
        await shelf.settled()
        await put(shelf, IMAGE, KEY, 1000)
        os.utime(place(root, IMAGE), (0, 0))
    remount(root, "ro")

    async with Shelf(root, ROOMY) as shelf:
        await shelf.settled()
        assert "Read-only file system" in caplog.text
        assert await is_right(shelf, IMAGE, KEY)
        assert await shelf.keys(IMAGE) == [KEY]
        assert await shelf.total() == counted(root)
        message = f"^cannot write '{KEY}': Read-only file system$"
        with pytest.raises(StoreError, match=message):
            await put(shelf, IMAGE, KEY, 10)
        with pytest.raises(StoreError, match=r"^cannot forget .*: Read-only file"):
            await shelf.forget(IMAGE)
        assert await is_right(shelf, IMAGE, KEY)

        remount(root, "rw")
        await put(shelf, IMAGE, KEY, 10)
        assert await shelf.forget(IMAGE) == [KEY]


@pytest.mark.parametrize("at", [0, 999, 1010, -20, -1])
async def test_damage_that_cannot_be_removed_gives_no_wrong_bytes_either(
    root: Path, caplog: pytest.LogCaptureFixture, at: int
) -> None:
    async with Shelf(root, ROOMY) as shelf:
        await shelf.settled()
        await put(shelf, IMAGE, KEY, 1000)
        data = bytearray(place(root, IMAGE).read_bytes())
        data[at] ^= 1
        place(root, IMAGE).write_bytes(data)
        remount(root, "ro")

        for look in (shelf.get, shelf.read):
            for _ in range(2):
                caplog.clear()
                assert await look(IMAGE, KEY) is None
                assert f"an entry of the cache is damaged: {KEY}" in caplog.text
        assert place(root, IMAGE).read_bytes() == data
        assert data[:1000] != body_of(KEY, 1000) or at not in range(1000)
