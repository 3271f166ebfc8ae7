"""What a directory may hold: what is dropped, in which order, and how it is counted."""

from __future__ import annotations

import fcntl
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shelves import ROOMY, beside, count_many, counted, files

from image_repo.errors import StoreError
from image_repo.quota import (
    BLOCK,
    FULL_SECONDS,
    WAIT_SECONDS,
    Bounds,
    Quota,
    space,
)

MORE = 2 * BLOCK


class Clock:
    """Goes on by itself with each look, as it does for who waits."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def quota(root: Path, bounds: Bounds = ROOMY) -> Quota:
    return Quota(str(root), str(root / "entries"), bounds, Clock())


def fill(root: Path, times: list[float], size: int = 10) -> None:
    """Make a file of *size* bytes for each time of last use, named by its number."""
    for number, used in enumerate(times):
        path = root / "entries" / f"{number % 3}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(size))
        os.utime(path, (used, used))


def there(root: Path) -> set[int]:
    return {int(path.name) for path in files(root)}


@pytest.mark.parametrize(
    ("size", "taken"), [(0, 0), (1, 4096), (4096, 4096), (4097, 8192)]
)
def test_a_file_takes_whole_blocks(tmp_path: Path, size: int, taken: int) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)

    assert space(size) == taken
    assert (tmp_path / "file").stat().st_blocks * 512 == taken


def test_an_empty_directory_that_nobody_has_made_has_nothing(tmp_path: Path) -> None:
    nowhere = quota(tmp_path)
    nowhere.recount()

    assert nowhere.total() == (0, 0)
    nowhere.make_room(10)
    assert there(tmp_path) == set()


@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        (Bounds(100 * BLOCK, 1000, 0), 100),
        (Bounds(101 * BLOCK, 1000, 0), 100),
        (Bounds(99 * BLOCK, 1000, 0), 89),
        (Bounds(50 * BLOCK, 1000, 0), 45),
        (Bounds(2**40, 100, 0), 100),
        (Bounds(2**40, 99, 0), 89),
        (Bounds(2**40, 10, 0), 9),
        (Bounds(2**40, 1, 0), 0),
        (Bounds(50 * BLOCK, 10, 0), 9),
        (Bounds(10 * BLOCK, 50, 0), 9),
        (Bounds(1, 1000, 0), 0),
        (Bounds(2**40, 1000, 2**62), 0),
    ],
    ids=str,
)
def test_a_recount_drops_only_what_is_beyond_a_bound_down_to_a_part_of_it(
    tmp_path: Path, bounds: Bounds, kept: int
) -> None:
    times = [float(number) for number in range(100)]
    random.shuffle(times)
    fill(tmp_path, times)
    some = quota(tmp_path, bounds)

    some.recount()

    newest = sorted(range(100), key=times.__getitem__)[100 - kept :]
    assert there(tmp_path) == set(newest)
    assert some.total() == counted(tmp_path) == (kept * BLOCK, kept)


@settings(max_examples=60, deadline=None)
@given(
    ages=st.lists(st.integers(0, 50), max_size=60),
    size=st.integers(0, 3 * BLOCK),
    more=st.integers(0, 5 * BLOCK),
    blocks=st.integers(5, 150),
    elements=st.integers(1, 60),
)
def test_room_is_made_by_what_was_used_longest_ago_and_not_by_much_more(
    tmp_path_factory: pytest.TempPathFactory,
    ages: list[int],
    size: int,
    more: int,
    blocks: int,
    elements: int,
) -> None:
    root = tmp_path_factory.mktemp("root")
    times = [10**9 - float(age) for age in ages]
    fill(root, times, size)
    bounds = Bounds(blocks * BLOCK, elements, 0)
    some = quota(root, bounds)

    some.make_room(more)

    held, count = counted(root)
    assert some.total() == (held, count)
    assert held + space(more) <= bounds.size
    assert count + 1 <= bounds.elements
    gone = set(range(len(times))) - there(root)
    assert max((times[one] for one in gone), default=0.0) <= min(
        (times[one] for one in there(root)), default=10**9
    )
    if gone:
        enough = 0.9 * bounds.size - space(more) - space(size)
        assert held > enough or count >= int(0.9 * elements) - 1


def test_what_was_used_while_it_was_looked_through_stays(tmp_path: Path) -> None:
    fill(tmp_path, [float(number) for number in range(10)])
    some = quota(tmp_path)
    some.recount()

    os.utime(tmp_path / "entries" / "0" / "0")
    some._drop(2.0, 1)

    assert there(tmp_path) == {0, *range(3, 10)}
    assert some.total() == counted(tmp_path)


def test_more_entries_than_are_sorted_at_a_time_go_in_order_all_the_same(
    tmp_path: Path,
) -> None:
    times = [float(number) for number in range(5000)]
    random.shuffle(times)
    fill(tmp_path, times, 0)

    quota(tmp_path, Bounds(2**40, 1000, 0)).recount()

    assert {times[one] for one in there(tmp_path)} == {*map(float, range(4100, 5000))}


def test_what_cannot_be_dropped_is_said_for_a_while_without_a_new_look(
    tmp_path: Path,
) -> None:
    clock = [0.0]
    fill(tmp_path, [1.0] * 10)
    bounds = Bounds(2**40, 100, 2**62)
    some = Quota(str(tmp_path), str(tmp_path / "entries"), bounds, lambda: clock[0])

    with pytest.raises(StoreError, match=r"^the disk has no room for it, and nothing"):
        some.make_room(10)
    assert there(tmp_path) == set(), "the disk belongs to others first"

    fill(tmp_path, [1.0])
    for clock[0], dropped in ((FULL_SECONDS - 1, False), (FULL_SECONDS, True)):
        with pytest.raises(StoreError, match=r"^the disk has no room for it"):
            some.make_room(10)
        assert (there(tmp_path) == set()) == dropped


def test_who_is_told_to_stop_gives_up(tmp_path: Path) -> None:
    fill(tmp_path, [1.0] * 10)
    some = quota(tmp_path, Bounds(2**40, 5, 0))
    some.stop()

    with pytest.raises(StoreError, match=r"not looked through to its end$"):
        some.recount()

    assert len(there(tmp_path)) == 10


def test_who_waits_for_another_process_gives_up_after_a_while(tmp_path: Path) -> None:
    clock = Clock()
    some = Quota(str(tmp_path), str(tmp_path / "entries"), ROOMY, clock)
    with (tmp_path / "evicting").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match=r"^another process is making room in it$"):
            some.make_room(10)

    assert WAIT_SECONDS <= clock.now <= WAIT_SECONDS + 5
    some.make_room(10)


def test_processes_and_threads_that_count_at_once_lose_nothing(tmp_path: Path) -> None:
    some = quota(tmp_path)
    some.recount()
    with (
        beside(count_many, tmp_path) as one,
        beside(count_many, tmp_path) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        list(threads.map(count_many, [tmp_path] * 2))
        for process in (one, other):
            process.join()
            assert process.exitcode == 0

    assert some.total() == (4 * 500 * BLOCK, 4 * 500)


def test_what_comes_while_it_is_counted_is_counted_and_what_goes_does_no_harm(
    tmp_path: Path,
) -> None:
    fill(tmp_path, [1.0] * 10)
    some = quota(tmp_path)
    some.recount()
    before = some._noted()

    some.add(MORE, 1)
    some.add(-5 * BLOCK, -5)
    some._set(10 * BLOCK, 10, before)

    assert some.total() == (10 * BLOCK + MORE, 11), "rather too much than too little"


def test_nothing_is_added_to_what_nobody_has_counted(tmp_path: Path) -> None:
    fill(tmp_path, [1.0] * 10)
    some = quota(tmp_path, Bounds(2**40, 5, 0))

    some.add(MORE, 1)
    assert some.total() == (0, 0)
    some.make_room(10)

    assert some.total() == counted(tmp_path) == (3 * BLOCK, 3)
