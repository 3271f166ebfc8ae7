"""A shelf stays within its bounds, whoever writes into it, and knows what it holds."""

from __future__ import annotations

import asyncio
import fcntl
import random
import time
from pathlib import Path

import pytest
from shelves import (
    IMAGE,
    KEY,
    OTHER,
    ROOMY,
    age,
    beside,
    churn,
    counted,
    is_right,
    left,
    place,
    put,
    used,
)

from image_repo.errors import StoreError
from image_repo.quota import Bounds
from image_repo.shelf import Shelf


async def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    async with Shelf(tmp_path, Bounds(10 * 8192, 100, 0)) as shelf:
        await shelf.settled()
        for number in range(10):
            await put(shelf, f"{number}", f"{number}", 5000)
            age(place(tmp_path, f"{number}"), 1000 - number)
        assert await is_right(shelf, "0", "0"), "and so it was used last"

        await put(shelf, "new", "new", 5000)

        there = [name for name in "0123456789" if await shelf.keys(name)]
        assert there == ["0", *"3456789"], "two went, down to nine tenths"
        assert await is_right(shelf, "new", "new")
        assert await shelf.total() == counted(tmp_path) == (9 * 8192, 9)


@pytest.mark.parametrize(
    "bounds",
    [Bounds(300_000, 10**6, 0), Bounds(2**40, 20, 0), Bounds(2**18, 9, 0)],
    ids=str,
)
async def test_the_directory_never_holds_more_than_its_bounds(
    tmp_path: Path, bounds: Bounds
) -> None:
    async with Shelf(tmp_path, bounds) as shelf:
        await shelf.settled()
        for number in range(200):
            key = f"{number % 70}"
            await put(shelf, key, key, random.randrange(40_000))
            assert await is_right(shelf, key, key)

            size, count = counted(tmp_path)
            assert await shelf.total() == (size, count)
            assert size <= bounds.size
            assert count <= bounds.elements
            assert used(tmp_path) <= bounds.size + 4096, "the note of the total"
        size, count = counted(tmp_path)
        assert size > bounds.size / 2 or count > bounds.elements / 2


async def test_room_is_made_for_all_of_a_file_not_only_for_its_body(
    tmp_path: Path,
) -> None:
    bounds = Bounds(9 * 8192 + 4096, 100, 0)
    async with Shelf(tmp_path, bounds) as shelf:
        await shelf.settled()
        for number in range(12):
            await put(shelf, f"{number}", f"{number}", 4096)
            assert counted(tmp_path)[0] <= bounds.size


async def test_what_is_larger_than_all_may_be_is_refused_and_nothing_goes_for_it(
    tmp_path: Path,
) -> None:
    async with Shelf(tmp_path, Bounds(100_000, 10, 0)) as shelf:
        await put(shelf, IMAGE, KEY, 10_000)

        for size in (100_000, 10**6):
            assert not shelf.fits(size)
            with pytest.raises(StoreError, match=r"^it is larger than the whole cache"):
                await put(shelf, OTHER, "large", size)

        assert await shelf.keys(OTHER) == []
        assert left(tmp_path) == []
        assert await is_right(shelf, IMAGE, KEY)
        assert shelf.fits(80_000)
        await put(shelf, OTHER, "large", 80_000)
        assert await is_right(shelf, OTHER, "large")


async def test_a_directory_that_is_beyond_its_bounds_shrinks_when_it_is_opened(
    tmp_path: Path,
) -> None:
    async with Shelf(tmp_path, ROOMY) as shelf:
        for number in range(50):
            await put(shelf, f"{number}", f"{number}", 10)

    for elements, there in ((60, 50), (50, 50), (20, 18)):
        async with Shelf(tmp_path, Bounds(2**40, elements, 0)) as shelf:
            await shelf.settled()
            assert await shelf.total() == counted(tmp_path) == (there * 4096, there)


async def test_processes_that_write_at_once_stay_within_the_bounds_together(
    tmp_path: Path,
) -> None:
    bounds, largest = Bounds(700_000, 30, 0), 60_000
    together = [beside(churn, tmp_path, bounds, 700, largest) for _ in range(4)]
    highest = (0, 0)
    with together[0] as a, together[1] as b, together[2] as c, together[3] as d:
        while any(process.is_alive() for process in (a, b, c, d)):
            # A file that is renamed meanwhile may be seen twice: ask again.
            seen = min(_held(tmp_path) for _ in range(2))
            highest = max(highest[0], seen[0]), max(highest[1], seen[1])
            await asyncio.sleep(0.001)
        assert [process.exitcode for process in (a, b, c, d)] == [0, 0, 0, 0]

    assert bounds.size / 2 < highest[0] <= bounds.size + 4 * largest
    assert bounds.elements / 2 < highest[1] <= bounds.elements + 4
    async with Shelf(tmp_path, bounds) as shelf:
        await shelf.settled()
        assert await shelf.total() == counted(tmp_path)
        assert left(tmp_path) == []


def _held(root: Path) -> tuple[int, int]:
    try:
        return counted(root)
    except FileNotFoundError:  # one of them has gone meanwhile
        return _held(root)


@pytest.mark.parametrize("noted", [b"", b"short", b"\xff" * 16, b"\x7f" * 16])
async def test_a_total_that_is_lost_or_nonsense_is_counted_again(
    tmp_path: Path, noted: bytes
) -> None:
    async with Shelf(tmp_path, Bounds(10 * 4096, 10, 0)) as shelf:
        await shelf.settled()
        for number in range(10):
            await put(shelf, f"{number}", f"{number}", 10)
        (tmp_path / "total").write_bytes(noted)
        if not noted:
            (tmp_path / "total").unlink()

        await shelf.forget("0")
        await put(shelf, IMAGE, KEY, 10)

        assert await shelf.total() == counted(tmp_path)
        assert counted(tmp_path)[1] <= 10
        assert await is_right(shelf, IMAGE, KEY)


async def test_closing_does_not_wait_for_a_process_that_looks_through_the_directory(
    tmp_path: Path,
) -> None:
    async with Shelf(tmp_path, ROOMY) as shelf:
        await shelf.settled()
    with (tmp_path / "evicting").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        began = time.monotonic()
        async with Shelf(tmp_path, ROOMY) as shelf:
            await asyncio.sleep(0.05)
        assert time.monotonic() - began < 5
