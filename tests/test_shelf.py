"""A shelf: whole or a miss, and within its bounds, whatever is done to it."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from shelves import (
    IMAGES,
    ROOMY,
    beside,
    body_of,
    churn,
    counted,
    files,
    is_right,
    keys_of,
    left,
    place,
    put,
    put_all,
    stall,
    used,
)

from image_repo.errors import StoreError
from image_repo.quota import Bounds
from image_repo.shelf import TOUCH_SECONDS, Shelf
from image_repo.stores.store import Stored

IMAGE = "plots/site-7"
KEY = f"{IMAGE}/_/tag/w_400.webp"
OTHER = "plots/site-8"


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    async with Shelf(tmp_path, ROOMY) as shelf:
        yield shelf


# What is put is found


async def test_what_was_put_is_found_with_all_that_was_said_of_it(
    tmp_path: Path,
) -> None:
    now = datetime(2020, 2, 29, 12, 30, tzinfo=UTC)
    said = {"width": "400", "title": "caf\u00e9 \U0001f600"}
    async with Shelf(tmp_path, ROOMY, now=lambda: now) as shelf:
        body = io.BytesIO(b"body")
        body.seek(2)
        await shelf.put(IMAGE, KEY, body, media_type="image/webp", metadata=said)

        stored = await shelf.about(IMAGE, KEY)
        assert stored is not None
        assert stored == Stored(KEY, 4, stored.revision, "image/webp", now, said)
        assert await shelf.read(IMAGE, KEY) == (stored, b"body")
        found = await shelf.get(IMAGE, KEY)
        assert found is not None
        with found:
            assert found.stored == stored
            assert await found.read() == b"body"
            assert found.file.read(4) == b"body"


@pytest.mark.parametrize("size", [0, 1, 2**18 - 1, 2**18, 2**18 + 1, 3_000_000])
async def test_a_body_of_any_size_is_found_whole(shelf: Shelf, size: int) -> None:
    await put(shelf, IMAGE, KEY, size)

    found = await shelf.read(IMAGE, KEY)
    assert found is not None
    assert found[1] == body_of(KEY, size)


async def test_what_was_not_put_is_not_found(shelf: Shelf) -> None:
    await put(shelf, IMAGE, KEY, 10)

    for image, key in ((IMAGE, "other"), (OTHER, KEY)):
        assert await shelf.get(image, key) is None
        assert await shelf.read(image, key) is None
        assert await shelf.about(image, key) is None


async def test_what_is_put_again_takes_the_place_of_what_was_there(
    tmp_path: Path, shelf: Shelf
) -> None:
    await put(shelf, IMAGE, KEY, 100_000)
    before = await shelf.get(IMAGE, KEY)
    await put(shelf, IMAGE, KEY, 10)

    found = await shelf.read(IMAGE, KEY)
    assert found is not None
    assert found[1] == body_of(KEY, 10)
    assert before is not None
    with before:
        assert await before.read() == body_of(KEY, 100_000), "it stays until closed"
    assert await shelf.total() == counted(tmp_path) == (4096, 1)


async def test_only_the_first_bytes_are_kept_when_it_is_said_how_many(
    shelf: Shelf,
) -> None:
    await shelf.put(IMAGE, KEY, io.BytesIO(b"body and more"), size=4)

    found = await shelf.read(IMAGE, KEY)
    assert found is not None
    assert found[1] == b"body"


async def test_a_body_that_is_shorter_than_was_said_is_not_kept(
    tmp_path: Path, shelf: Shelf
) -> None:
    with pytest.raises(StoreError, match=r"ends before its last byte$"):
        await shelf.put(IMAGE, KEY, io.BytesIO(b"body"), size=5)

    assert await shelf.read(IMAGE, KEY) is None
    assert left(tmp_path) == []


async def test_what_another_process_puts_is_found(tmp_path: Path, shelf: Shelf) -> None:
    await shelf.settled()
    with beside(put_all, tmp_path) as process:
        process.join()
        assert process.exitcode == 0

    for image in IMAGES:
        for key in keys_of(image):
            assert await is_right(shelf, image, key)
        assert sorted(await shelf.keys(image)) == sorted(keys_of(image))
    assert await shelf.total() == counted(tmp_path)


async def test_a_new_process_finds_all_before_it_has_counted_anything(
    tmp_path: Path,
) -> None:
    with beside(put_all, tmp_path) as process:
        process.join()
    with (tmp_path / "evicting").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # so the count can't begin

        async with Shelf(tmp_path, ROOMY) as shelf:
            for image in IMAGES:
                for key in keys_of(image):
                    assert await is_right(shelf, image, key)
            await put(shelf, IMAGE, KEY, 10)
            settled = asyncio.create_task(shelf.settled())
            await asyncio.sleep(0.05)
            assert not settled.done()

            fcntl.flock(file, fcntl.LOCK_UN)
            await settled
            assert await shelf.total() == counted(tmp_path)


# Damage


def damaged(data: bytes, other: bytes) -> dict[str, list[bytes]]:
    """What may become of a file of an entry, by the kind of damage."""
    flipped = [
        data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        for at in range(len(data))
    ]
    foot = len(data) - 16
    return {
        "one bit of each byte": flipped,
        "cut off at each byte": [data[:at] for at in range(len(data))],
        "without its beginning": [data[at:] for at in range(1, len(data))],
        "longer": [
            data + more for more in (b"\0", b"\n", bytes(16), bytes(4096), data[-16:])
        ],
        "shifted": [b"\0" + data, data + data, other + data],
        "zeros": [bytes(len(data)), data[:50] + bytes(len(data) - 50)],
        "holes": [
            data[:at] + bytes(32) + data[at + 32 :]
            for at in range(0, len(data) - 32, 32)
        ],
        "of another entry": [other, other[:100] + data[100:], data[:100] + other[100:]],
        "a length beyond the file": [
            data[:foot] + length.to_bytes(4) + data[foot + 4 :]
            for length in (0, foot + 1, 2**31, 2**32 - 1)
        ],
    }


@pytest.mark.parametrize("kind", list(damaged(bytes(200), b"")))
async def test_no_damage_gives_wrong_bytes(
    tmp_path: Path, shelf: Shelf, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    await put(shelf, IMAGE, KEY, 100)
    await put(shelf, OTHER, KEY.replace(IMAGE, OTHER), 100)
    file = place(tmp_path, IMAGE)
    data, other = file.read_bytes(), place(tmp_path, OTHER).read_bytes()

    for number, bad in enumerate(damaged(data, other)[kind]):
        file.write_bytes(bad)
        look = (shelf.get, shelf.read)[number % 2]
        caplog.clear()
        assert await look(IMAGE, KEY) is None
        assert not file.exists()
        assert f"an entry of the cache is damaged: {KEY}" in caplog.messages

    await put(shelf, IMAGE, KEY, 100)
    assert file.read_bytes()[:100] == data[:100]
    assert await is_right(shelf, IMAGE, KEY)
    assert await is_right(shelf, OTHER, KEY.replace(IMAGE, OTHER))
    await shelf._count()
    assert await shelf.total() == counted(tmp_path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "more").write_bytes(b"body")


def _link(path: Path) -> None:
    target = path.with_name("target")
    target.write_bytes(b"body")
    path.symlink_to(target)


STRANGE: dict[str, Callable[[Path], None]] = {
    "an empty file": Path.touch,
    "an empty folder": Path.mkdir,
    "a folder": _folder,
    "a pipe": os.mkfifo,
    "a link to nothing": lambda path: path.symlink_to("nothing"),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to something else": _link,
    "a device that never ends": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("how", ["get", "read", "forget", "put"])
@pytest.mark.parametrize("kind", list(STRANGE))
async def test_what_is_in_the_place_of_an_entry_is_no_entry_and_goes(
    tmp_path: Path, shelf: Shelf, kind: str, how: str
) -> None:
    await put(shelf, IMAGE, KEY, 100)
    file = place(tmp_path, IMAGE)
    file.unlink()
    STRANGE[kind](file)

    assert await shelf.about(IMAGE, KEY) is None
    assert await shelf.keys(IMAGE) == []
    if how == "forget":
        assert await shelf.forget(IMAGE) == []
    elif how != "put":
        assert await getattr(shelf, how)(IMAGE, KEY) is None
    if how != "put":
        assert not os.path.lexists(file)

    await put(shelf, IMAGE, KEY, 100)
    assert await is_right(shelf, IMAGE, KEY)


async def test_damage_is_found_where_only_the_body_is_damaged_too(
    tmp_path: Path, shelf: Shelf
) -> None:
    await put(shelf, IMAGE, KEY, 1_000_000)
    with place(tmp_path, IMAGE).open("rb+") as file:
        file.seek(999_999)
        file.write(b"\xff")

    assert await shelf.about(IMAGE, KEY) is not None, "it does not look at the body"
    assert await shelf.get(IMAGE, KEY) is None
    assert await shelf.total() == counted(tmp_path) == (0, 0)


# Bounds


async def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    async with Shelf(tmp_path, Bounds(10 * 8192, 100, 0)) as shelf:
        await shelf.settled()
        for number in range(10):
            await put(shelf, f"{number}", f"{number}", 5000)
            _age(place(tmp_path, f"{number}"), 1000 - number)
        assert await is_right(shelf, "0", "0"), "and so it was used last"

        await put(shelf, "new", "new", 5000)

        there = [name for name in "0123456789" if await shelf.keys(name)]
        assert there == ["0", *"3456789"], "two went, down to nine tenths"
        assert await is_right(shelf, "new", "new")
        assert await shelf.total() == counted(tmp_path) == (9 * 8192, 9)


async def test_a_read_marks_an_entry_as_used_at_most_once_a_minute(
    tmp_path: Path, shelf: Shelf
) -> None:
    await put(shelf, IMAGE, KEY, 10)
    file = place(tmp_path, IMAGE)

    for seconds in (TOUCH_SECONDS - 5, -TOUCH_SECONDS + 5):
        _age(file, seconds)
        before = file.stat().st_mtime
        assert await is_right(shelf, IMAGE, KEY)
        assert file.stat().st_mtime == before

    # Also where the clock has been put back.
    for seconds in (TOUCH_SECONDS + 5, -TOUCH_SECONDS - 5):
        for look in (shelf.get, shelf.read):
            _age(file, seconds)
            found = await look(IMAGE, KEY)
            assert found is not None
            assert abs(file.stat().st_mtime - time.time()) < 5
            if not isinstance(found, tuple):
                found.close()


def _age(path: Path, seconds: float) -> None:
    os.utime(path, (time.time() - seconds, time.time() - seconds))


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


# Forgetting


async def test_forgetting_an_image_removes_its_entries_alone_and_says_which(
    tmp_path: Path, shelf: Shelf
) -> None:
    await shelf.settled()
    with beside(put_all, tmp_path) as process:
        process.join()
    own = f"{IMAGES[0]}/_/tag/of-this-process.webp"
    await put(shelf, IMAGES[0], own, 10)

    forgotten = await shelf.forget(IMAGES[0])

    assert sorted(forgotten) == sorted([*keys_of(IMAGES[0]), own])
    assert await shelf.keys(IMAGES[0]) == await shelf.forget(IMAGES[0]) == []
    for image in IMAGES[1:]:
        for key in keys_of(image):
            assert await is_right(shelf, image, key)
    for key in forgotten:
        assert not await is_right(shelf, IMAGES[0], key)
    assert await shelf.total() == counted(tmp_path)


async def test_images_that_share_a_folder_are_forgotten_each_alone(
    tmp_path: Path, shelf: Shelf
) -> None:
    one = "0"
    others = (f"{number}" for number in range(1, 10**6))
    other = next(name for name in others if shelf._folder(name) == shelf._folder(one))
    await put(shelf, one, "one", 10)
    await put(shelf, other, "other", 10)
    assert place(tmp_path, one).parent == place(tmp_path, other).parent

    assert await shelf.forget(one) == ["one"]

    assert await is_right(shelf, other, "other")


async def test_forgetting_and_putting_at_once_leaves_each_entry_whole_or_gone(
    tmp_path: Path, shelf: Shelf
) -> None:
    await shelf.settled()

    async def putting(key: str) -> None:
        for _ in range(30):
            await put(shelf, IMAGE, key, random.randrange(20_000))
            await is_right(shelf, IMAGE, key)

    async def forgetting() -> None:
        for _ in range(30):
            assert set(await shelf.forget(IMAGE)) <= set(keys_of(IMAGE))

    await asyncio.gather(*(putting(key) for key in keys_of(IMAGE)), forgetting())

    assert set(await shelf.forget(IMAGE)) <= set(keys_of(IMAGE))
    assert files(tmp_path) == []
    await shelf._count()
    assert await shelf.total() == (0, 0)


# Cancelling


class Slow(io.BytesIO):
    """A body whose second part comes only when it is let go."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.begun = threading.Event()
        self.go = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            self.begun.set()
            self.go.wait(10)
        return super().read(size)


async def test_a_put_that_is_cancelled_comes_back_when_its_body_is_free(
    tmp_path: Path, shelf: Shelf
) -> None:
    body = Slow(body_of(KEY, 1_000_000))
    task = asyncio.create_task(shelf.put(IMAGE, KEY, body, media_type="image/webp"))
    await asyncio.to_thread(body.begun.wait, 10)

    task.cancel()
    await asyncio.sleep(0.02)
    assert not task.done()
    assert len(left(tmp_path)) == 1
    body.go.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    body.close()
    assert left(tmp_path) == []
    assert await is_right(shelf, IMAGE, KEY)
    assert await shelf.total() == counted(tmp_path)


async def test_a_put_that_is_cancelled_while_it_waits_for_others_waits_for_them(
    tmp_path: Path, shelf: Shelf
) -> None:
    await shelf.settled()
    first = [Slow(body_of(key, 1_000_000)) for key in keys_of(IMAGE)]
    tasks = [
        asyncio.create_task(shelf.put(IMAGE, key, body, media_type="image/webp"))
        for key, body in zip(keys_of(IMAGE), first, strict=True)
    ]
    await asyncio.to_thread(first[0].begun.wait, 10)

    tasks[-1].cancel()
    for body in first:
        body.go.set()
    await asyncio.gather(*tasks[:-1])
    with pytest.raises(asyncio.CancelledError):
        await tasks[-1]

    first[-1].close()
    assert left(tmp_path) == []
    for key in keys_of(IMAGE):
        await is_right(shelf, IMAGE, key)


async def test_reads_and_forgets_do_not_wait_for_puts(shelf: Shelf) -> None:
    await shelf.settled()
    bodies = [Slow(bytes(1_000_000)) for _ in range(5)]
    tasks = [
        asyncio.create_task(shelf.put(OTHER, f"{number}", body))
        for number, body in enumerate(bodies)
    ]
    await asyncio.to_thread(bodies[0].begun.wait, 10)

    assert await shelf.read(IMAGE, KEY) is None
    assert await shelf.forget(IMAGE) == []
    assert not any(task.done() for task in tasks)

    for body in bodies:
        body.go.set()
    await asyncio.gather(*tasks)


# Anything, in any order

NAMES = ["a", "a/b", "b"]
KEYS = ["x", "y", "z"]
TAKEN = 9


class Model(RuleBasedStateMachine):
    """A shelf beside a dict of what was put; what is found is what the dict has."""

    root: Path

    def __init__(self) -> None:
        super().__init__()
        self.put_last: dict[tuple[str, str], bytes] = {}
        self.runner = asyncio.Runner()

    @initialize()
    def begin(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.open()

    def open(self) -> None:
        self.shelf = Shelf(self.root, Bounds(2**30, TAKEN, 0))
        self.runner.run(self.shelf.__aenter__())
        self.runner.run(self.shelf.settled())

    @rule()
    def open_again(self) -> None:
        self.close()
        self.open()

    @rule(
        image=st.sampled_from(NAMES),
        key=st.sampled_from(KEYS),
        body=st.binary(max_size=60) | st.integers(0, 600_000).map(bytes),
    )
    def put(self, image: str, key: str, body: bytes) -> None:
        self.runner.run(self.shelf.put(image, image + key, io.BytesIO(body)))
        self.put_last[image, key] = body
        assert self.read(image, key) == body

    @rule(image=st.sampled_from(NAMES), key=st.sampled_from(KEYS))
    def look(self, image: str, key: str) -> None:
        found = self.read(image, key)
        assert found is None or found == self.put_last.get((image, key))

    @rule(image=st.sampled_from(NAMES))
    def forget(self, image: str) -> None:
        there = [image + key for name, key in self.put_last if name == image]
        assert set(self.runner.run(self.shelf.forget(image))) <= set(there)
        for key in KEYS:
            self.put_last.pop((image, key), None)
            assert self.read(image, key) is None

    @rule(data=st.data(), junk=st.binary(min_size=1, max_size=40))
    def damage(self, data: st.DataObject, junk: bytes) -> None:
        there = sorted(files(self.root))
        if there:
            file = data.draw(st.sampled_from(there))
            whole = bytearray(file.read_bytes())
            at = data.draw(st.integers(0, len(whole)))
            whole[at : data.draw(st.integers(at, len(whole)))] = junk
            file.write_bytes(whole)

    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        there = sorted(files(self.root))
        if there:
            shutil.copy(
                data.draw(st.sampled_from(there)), self.root / "entries" / "spare"
            )
            (self.root / "entries" / "spare").rename(
                data.draw(st.sampled_from(there)),
            )

    @rule()
    def lose(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @invariant()
    def stays_within_its_bounds(self) -> None:
        assert len(files(self.root)) <= TAKEN

    def read(self, image: str, key: str) -> bytes | None:
        found = self.runner.run(self.shelf.read(image, image + key))
        return None if found is None else found[1]

    def close(self) -> None:
        self.runner.run(self.shelf.__aexit__(None, None, None))

    def teardown(self) -> None:
        self.close()
        self.runner.close()


def test_whatever_happens_in_whatever_order_what_is_found_is_what_was_put(
    tmp_path: Path,
) -> None:
    class Here(Model):
        root = tmp_path / "root"

    run_state_machine_as_test(
        Here, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
