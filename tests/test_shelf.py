"""A shelf: what is found in it is whole, or it is a miss."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import random
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from shelves import (
    IMAGE,
    IMAGES,
    KEY,
    OTHER,
    ROOMY,
    age,
    beside,
    body_of,
    counted,
    files,
    is_right,
    keys_of,
    left,
    place,
    put,
    put_all,
)

from image_repo.errors import StoreError
from image_repo.shelf import TOUCH_SECONDS, Shelf
from image_repo.stores.store import Stored


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


async def test_a_read_marks_an_entry_as_used_at_most_once_a_minute(
    tmp_path: Path, shelf: Shelf
) -> None:
    await put(shelf, IMAGE, KEY, 10)
    file = place(tmp_path, IMAGE)

    for seconds in (TOUCH_SECONDS - 5, -TOUCH_SECONDS + 5):
        age(file, seconds)
        before = file.stat().st_mtime
        assert await is_right(shelf, IMAGE, KEY)
        assert file.stat().st_mtime == before

    # Also where the clock has been put back.
    for seconds in (TOUCH_SECONDS + 5, -TOUCH_SECONDS - 5):
        for look in (shelf.get, shelf.read):
            age(file, seconds)
            found = await look(IMAGE, KEY)
            assert found is not None
            assert abs(file.stat().st_mtime - time.time()) < 5
            if not isinstance(found, tuple):
                found.close()


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
