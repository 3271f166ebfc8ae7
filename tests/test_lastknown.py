"""The last revision of each image that the store has confirmed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

import pytest

from image_repo import lastknown, names
from image_repo.errors import StoreError
from image_repo.lastknown import PENDING, QUIET, REWRITE_SECONDS, LastKnown
from image_repo.names import Revision
from image_repo.quota import Bounds
from image_repo.shelf import Shelf
from image_repo.stores.store import Stored

X = names.image_name("x")
Y = names.image_name("y")
A, B, C = Revision("A"), Revision("B"), Revision("C")


class Disk(Shelf):
    """A shelf that may fail or hang, and counts.

    Attributes:
        reads: How many records were asked for.
        writes: How many were put.
        failing: What fails: some of read, put and forget.
        gate: Each of them waits while it is not set.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, Bounds(10**8, 10**4, 0))
        self.reads = 0
        self.writes = 0
        self.failing: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _pass(self, doing: str) -> None:
        await self.gate.wait()
        if doing in self.failing:
            raise StoreError(f"cannot {doing}")

    async def read(self, image: str, key: str) -> tuple[Stored, bytes] | None:
        self.reads += 1
        await self._pass("read")
        return await super().read(image, key)

    async def put(
        self,
        image: str,
        key: str,
        body: BinaryIO,
        *,
        size: int | None = None,
        media_type: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.writes += 1
        await self._pass("put")
        await super().put(
            image, key, body, size=size, media_type=media_type, metadata=metadata
        )

    async def forget(self, image: str) -> list[str]:
        await self._pass("forget")
        return await super().forget(image)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    async with Disk(tmp_path) as disk:
        yield disk
        disk.gate.set()


@pytest.fixture
async def known(disk: Disk) -> AsyncIterator[LastKnown]:
    async with LastKnown(disk) as known:
        yield known
        disk.gate.set()


@asynccontextmanager
async def restarted(disk: Disk) -> AsyncIterator[LastKnown]:
    """Yield what a process knows that finds nothing but the disk."""
    async with Disk(Path(disk._root)) as same, LastKnown(same) as known:
        yield known


async def begun() -> None:
    """Let what was noted be on its way to the disk."""
    await asyncio.sleep(0.01)


async def test_nothing_is_known_of_what_was_never_noted(known: LastKnown) -> None:
    assert await known.recall(X) is None


async def test_the_newest_is_known_at_once(known: LastKnown) -> None:
    for revision in (A, B):
        known.note(X, revision)
        assert await known.recall(X) == revision


async def test_without_a_disk_it_is_known_in_memory() -> None:
    async with LastKnown() as known:
        known.note(X, A)
        await known.settled(X)
        assert await known.recall(X) == A
        known.void(X)
        assert await known.recall(X) is None


async def test_what_was_noted_survives_a_restart(disk: Disk) -> None:
    async with LastKnown(disk) as known:
        known.note(X, A)
        known.note(X, B)
        known.note(Y, C)

    async with restarted(disk) as later:
        assert [await later.recall(image) for image in (X, Y)] == [B, C]


async def test_a_record_is_apart_from_what_is_made_of_the_image(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)
    known.note(names.image_name("x/revision"), B)

    assert await disk.forget(X) == []

    async with restarted(disk) as later:
        assert await later.recall(X) == A


async def test_the_disk_is_not_touched_for_what_it_has(
    disk: Disk, known: LastKnown
) -> None:
    for _ in range(3):
        known.note(X, A)
        await known.settled(X)
        await known.recall(X)

    assert (disk.writes, disk.reads) == (1, 0)


async def test_what_was_read_once_is_neither_read_nor_written_again(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)

    async with Disk(Path(disk._root)) as same, LastKnown(same) as later:
        for _ in range(3):
            assert await later.recall(X) == A
            later.note(X, A)
            await later.settled(X)
        assert (same.writes, same.reads) == (0, 1)


async def test_a_disk_that_has_forgotten_gets_it_again_after_a_while(
    disk: Disk,
) -> None:
    now = 0.0
    async with LastKnown(disk, lambda: now) as known:
        known.note(X, A)
        await known.settled(X)
        await disk.forget(lastknown._place(X))

        now = REWRITE_SECONDS
        known.note(X, A)

    async with restarted(disk) as later:
        assert await later.recall(X) == A


# -- what is no longer true ------------------------------------------------------------


async def test_what_is_void_is_known_no_longer(disk: Disk, known: LastKnown) -> None:
    known.note(X, A)
    known.void(X)
    assert await known.recall(X) is None
    await known.settled(X)

    assert await known.recall(X) is None
    async with restarted(disk) as later:
        assert await later.recall(X) is None


async def test_what_another_process_has_written_is_void_as_well(
    disk: Disk, known: LastKnown
) -> None:
    async with restarted(disk) as other:
        other.note(X, A)
        await other.settled(X)

    known.void(X)
    await known.settled(X)

    async with restarted(disk) as later:
        assert await later.recall(X) is None


async def test_that_there_is_nothing_makes_void_what_was_known(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)

    known.note(X, None)
    assert await known.recall(X) is None
    await known.settled(X)

    async with restarted(disk) as later:
        assert await later.recall(X) is None


async def test_what_is_noted_after_it_was_void_is_known(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)

    known.void(X)
    known.note(X, A)
    await known.settled(X)

    async with restarted(disk) as later:
        assert await later.recall(X) == A


async def test_a_write_under_way_does_not_bring_back_what_is_void(
    disk: Disk, known: LastKnown
) -> None:
    disk.gate.clear()
    known.note(X, A)
    await begun()

    known.void(X)
    settled = asyncio.create_task(known.settled(X))
    await begun()
    assert not settled.done()
    disk.gate.set()
    await settled

    async with restarted(disk) as later:
        assert await later.recall(X) is None


async def test_of_many_at_once_the_newest_is_written_and_few_others(
    disk: Disk, known: LastKnown
) -> None:
    disk.gate.clear()
    for revision in (A, B, A, C):
        known.note(X, revision)
        await begun()
    disk.gate.set()
    await known.settled(X)

    assert disk.writes == 2
    async with restarted(disk) as later:
        assert await later.recall(X) == C


async def test_what_the_disk_has_is_written_again_behind_something_else(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)
    disk.gate.clear()
    for revision in (B, A):
        known.note(X, revision)
        await begun()
    disk.gate.set()
    await known.settled(X)

    async with restarted(disk) as later:
        assert await later.recall(X) == A


async def test_what_is_void_stays_so_until_the_disk_has_heard_of_it(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)
    disk.gate.clear()
    known.void(X)
    for number in range(10_000):  # more than are remembered
        known.note(names.image_name(f"many/{number}"), B)

    assert await known.recall(X) is None
    assert disk.reads == 0


async def test_what_is_noted_while_the_disk_is_read_is_newer(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)
    async with Disk(Path(disk._root)) as same, LastKnown(same) as later:
        for noted in (B, None):
            later._known.forget(X)
            same.gate.clear()
            recalled = asyncio.create_task(later.recall(X))
            await begun()
            later.note(X, noted)
            same.gate.set()

            assert await recalled == noted
            await later.settled(X)


# -- a disk that fails -----------------------------------------------------------------


async def test_a_record_that_cannot_be_replaced_is_removed(
    disk: Disk, known: LastKnown
) -> None:
    known.note(X, A)
    await known.settled(X)

    disk.failing = {"put"}
    known.note(X, B)
    await known.settled(X)

    assert await known.recall(X) == B
    async with restarted(disk) as later:
        assert await later.recall(X) is None


async def test_what_could_not_be_written_is_tried_again_when_it_is_noted_again(
    disk: Disk, known: LastKnown
) -> None:
    disk.failing = {"put"}
    known.note(X, A)
    await known.settled(X)

    disk.failing = set()
    known.note(X, A)
    await known.settled(X)

    async with restarted(disk) as later:
        assert await later.recall(X) == A


async def test_a_disk_that_fails_is_logged_once_a_minute(
    disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    disk.failing = {"read", "put", "forget"}
    now = 0.0
    async with LastKnown(disk, lambda: now) as known:
        for now in (0.0, 1.0, QUIET):
            caplog.clear()
            with caplog.at_level(logging.WARNING):
                assert await known.recall(Y) is None
                known.note(X, Revision(str(now)))
                await known.settled(X)
            assert len(caplog.records) == int(now != 1.0)


async def test_nobody_waits_for_a_disk_that_hangs(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lastknown, "READ_SECONDS", 0.02)
    monkeypatch.setattr(lastknown, "FINISH_SECONDS", 0.02)
    disk.gate.clear()
    async with asyncio.timeout(1):
        async with LastKnown(disk) as known:
            assert await known.recall(X) is None
            known.note(X, A)
            await known.settled(X)


async def test_a_disk_that_hangs_gets_no_more_than_it_can_take_but_all_that_is_void(
    disk: Disk, known: LastKnown
) -> None:
    images = [names.image_name(f"many/{number}") for number in range(PENDING + 2)]
    known.note(images[-1], A)
    await known.settled(images[-1])
    disk.gate.clear()
    for image in images[:-1]:
        known.note(image, B)
    known.void(images[-1])
    disk.gate.set()
    for image in images:
        await known.settled(image)

    assert await known.recall(images[-2]) == B
    async with restarted(disk) as later:
        recalled = [await later.recall(image) for image in images]
    assert recalled == [B] * PENDING + [None, None]


async def test_nothing_is_written_after_the_end(disk: Disk) -> None:
    async with LastKnown(disk) as known:
        pass

    known.note(X, A)
    await begun()

    assert disk.writes == 0
