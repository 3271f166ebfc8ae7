"""A shelf whose directory goes and comes, or has what others left in it."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from shelves import (
    IMAGE,
    IMAGES,
    KEY,
    ROOMY,
    beside,
    churn,
    counted,
    files,
    is_right,
    keys_of,
    left,
    put,
    stall,
)

from image_repo.errors import StoreError
from image_repo.quota import Bounds
from image_repo.shelf import Shelf

# Directories that come and go


async def test_a_directory_that_is_removed_comes_again_with_the_next_put(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    async with Shelf(root, Bounds(2**30, 5, 0)) as shelf:
        await shelf.settled()
        for _ in range(3):
            for number in range(4):
                await put(shelf, f"{number}", f"{number}", 10)
                assert await is_right(shelf, f"{number}", f"{number}")
            assert await shelf.total() == counted(root) == (4 * 4096, 4)

            shutil.rmtree(root)
            assert await shelf.read("1", "1") is None
            assert await shelf.get("1", "1") is None
            assert await shelf.forget("1") == []
            assert await shelf.keys("1") == []
            assert await shelf.total() == (0, 0)


@pytest.mark.parametrize("name", ["entries", "tmp", "lock", "total", "evicting"])
async def test_a_part_of_the_directory_that_is_removed_comes_again(
    tmp_path: Path, name: str
) -> None:
    async with Shelf(tmp_path, Bounds(2**30, 5, 0)) as shelf:
        await shelf.settled()
        for number in range(12):
            path = tmp_path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
            await put(shelf, f"{number}", f"{number}", 10)
            assert await is_right(shelf, f"{number}", f"{number}")
            assert counted(tmp_path)[1] <= 5


async def test_a_directory_removed_again_and_again_meanwhile_never_gives_wrong_bytes(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    async with Shelf(root, Bounds(2**30, 20, 0)) as shelf:
        kept = 0
        for _ in range(30):
            removing = asyncio.create_task(
                asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
            )
            for image in IMAGES:
                try:
                    await put(shelf, image, keys_of(image)[0], 100)
                except StoreError:
                    continue
                kept += await is_right(shelf, image, keys_of(image)[0])
            await removing
        await put(shelf, IMAGE, KEY, 100)
        assert await is_right(shelf, IMAGE, KEY)
        assert kept


@pytest.mark.parametrize("below", ["file/root", "file", "/proc/none/root"])
async def test_a_directory_that_cannot_be_made_is_empty_and_says_so_with_each_put(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, below: str
) -> None:
    (tmp_path / "file").touch()
    async with Shelf(tmp_path / below, ROOMY) as shelf:
        await shelf.settled()
        assert 'cannot open "the cache\'s directory"' in caplog.text

        assert await shelf.get(IMAGE, KEY) is None
        assert await shelf.read(IMAGE, KEY) is None
        assert await shelf.about(IMAGE, KEY) is None
        assert await shelf.keys(IMAGE) == []
        assert await shelf.forget(IMAGE) == []
        assert await shelf.total() == (0, 0)
        for _ in range(2):
            with pytest.raises(StoreError, match=f"^cannot write '{KEY}': ") as raised:
                await put(shelf, IMAGE, KEY, 10)
            assert str(tmp_path) not in str(raised.value)


async def test_files_that_are_not_ours_do_no_harm(tmp_path: Path) -> None:
    bounds = Bounds(2**30, 10, 0)
    async with Shelf(tmp_path, bounds) as shelf:
        for number in range(5):
            await put(shelf, f"{number}", f"{number}", 10)
    (tmp_path / "README").touch()
    (tmp_path / "tmp" / "folder").mkdir()
    (tmp_path / "entries" / "README").touch()
    (tmp_path / "entries" / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / "entries" / os.fsdecode(b"\xff") / os.fsdecode(b"\xfe")).touch()
    (files(tmp_path)[0].parent / "folder" / "more").mkdir(parents=True)

    async with Shelf(tmp_path, bounds) as shelf:
        await shelf.settled()
        assert await shelf.total() == counted(tmp_path)
        for number in range(30):
            await put(shelf, f"{number}", f"{number}", 10)
            assert await is_right(shelf, f"{number}", f"{number}")
        assert await shelf.total() == counted(tmp_path)
    assert (tmp_path / "README").exists()


# Processes that die


@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.slow)])
async def test_writers_killed_at_any_time_leave_whole_entries_or_none(
    tmp_path: Path, kills: int
) -> None:
    bounds = Bounds(15_000_000, 20, 0)
    for _ in range(kills):
        with beside(churn, tmp_path, bounds, 10**9, 3_000_000) as process:
            await asyncio.sleep(random.uniform(0.02, 0.08))
        assert process.exitcode == -signal.SIGKILL

        async with Shelf(tmp_path, bounds) as shelf:
            await shelf.settled()
            assert left(tmp_path) == []
            assert await shelf.total() == counted(tmp_path)
            there = 0
            for image in IMAGES:
                for key in keys_of(image):
                    there += await is_right(shelf, image, key)
            assert there == len(files(tmp_path)), "none of them is damaged"


async def test_what_a_killed_writer_left_behind_is_swept_when_the_next_one_opens(
    tmp_path: Path,
) -> None:
    with beside(stall, tmp_path, tmp_path / "stalled") as process:
        while not (tmp_path / "stalled").exists():
            await asyncio.sleep(0.005)
        async with Shelf(tmp_path, ROOMY) as shelf:
            await shelf.settled()
            assert len(left(tmp_path)) == 1, "it is being written"
        process.kill()
        process.join()
        assert len(left(tmp_path)) == 1

        async with Shelf(tmp_path, ROOMY) as shelf:
            await shelf.settled()
            assert left(tmp_path) == files(tmp_path) == []
            assert await shelf.total() == (0, 0)
