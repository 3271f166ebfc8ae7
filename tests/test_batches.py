"""Work on many images, beside that on single ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from contextlib import aclosing

import pytest

from image_repo import batches
from image_repo.batches import AHEAD, BUSY_TRIES, STORE_ERRORS, Batches
from image_repo.errors import (
    BadImageError,
    BusyError,
    ImageRepoError,
    StoreError,
    UnknownImageError,
)
from image_repo.names import ImageName

IMAGES = [ImageName(f"a/{n}") for n in range(12)]


class Work:
    """Makes images, and counts how many at once."""

    def __init__(self, seconds: float = 0.002) -> None:
        self.seconds = seconds
        self.begun: list[ImageName] = []
        self.done = 0
        self.most = 0

    async def __call__(self, image: ImageName) -> str:
        self.begun.append(image)
        self.most = max(self.most, len(self.begun) - self.done)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.done += 1
        return f"made {image}"


async def collected(
    found: Batches, make: Work | None = None
) -> list[tuple[ImageName, str | ImageRepoError]]:
    async with aclosing(found.each(IMAGES, make or Work())) as each:
        return [item async for item in each]


async def test_each_image_is_made_once_and_comes_in_order() -> None:
    work = Work()

    async with Batches(4, 1) as found:
        made = await collected(found, work)

    assert made == [(image, f"made {image}") for image in IMAGES]
    assert work.begun == IMAGES


async def test_no_more_is_made_ahead_than_can_be_held() -> None:
    work = Work(0)

    async with Batches(100, 1) as found, aclosing(found.each(IMAGES, work)) as each:
        taken = 0
        async for _ in each:
            taken += 1
            await asyncio.sleep(0.005)  # the client is slow
            assert len(work.begun) <= taken + AHEAD

    assert work.most <= AHEAD


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4)])
async def test_all_batches_together_take_half_of_the_workers(
    workers: int, most: int
) -> None:
    work = Work()

    async with Batches(workers, 8) as found:
        await asyncio.gather(*(collected(found, work) for _ in range(6)))

    assert work.most == most


async def test_batches_take_turns() -> None:
    first, second = Work(), Work()

    async with Batches(1, 8) as found:
        begun = asyncio.create_task(collected(found, first))
        await asyncio.sleep(0.005)
        await collected(found, second)
        assert len(first.begun) <= len(IMAGES) <= len(first.begun) + 8
        await begun


async def test_what_fails_is_told_and_ends_nothing() -> None:
    async def make(image: ImageName) -> str:
        if image == "a/3":
            raise BadImageError("broken")
        if image == "a/4":
            raise KeyError("a fault of ours")
        return "made"

    async with Batches(2, 1) as found:
        made = dict([item async for item in found.each(IMAGES, make)])

    assert list(made) == IMAGES
    assert isinstance(made[ImageName("a/3")], BadImageError)
    assert type(made[ImageName("a/4")]) is ImageRepoError
    assert "fault" not in str(made[ImageName("a/4")])
    assert list(made.values()).count("made") == len(IMAGES) - 2


async def test_what_is_refused_while_busy_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batches, "BUSY_SECONDS", 0.001)
    tries: dict[ImageName, int] = {}

    async def make(image: ImageName) -> str:
        tries[image] = tries.get(image, 0) + 1
        if image == "a/1" or tries[image] < 3:
            raise BusyError("full", 60)
        return "made"

    async with Batches(2, 1) as found:
        made = dict([item async for item in found.each(IMAGES, make)])

    assert isinstance(made[ImageName("a/1")], BusyError)
    assert tries[ImageName("a/1")] == BUSY_TRIES
    assert list(made.values()).count("made") == len(IMAGES) - 1


async def test_a_store_that_fails_again_and_again_ends_the_tries() -> None:
    tried = []

    async def make(image: ImageName) -> str:
        tried.append(image)
        if image == "a/2":
            raise UnknownImageError("deleted meanwhile")
        raise StoreError("down")

    async with Batches(2, 1) as found:
        made = [item async for item in found.each(IMAGES, make)]

    assert [image for image, _ in made] == IMAGES
    reached = 3 + STORE_ERRORS
    assert len(tried) <= reached + AHEAD
    assert {str(error) for _, error in made[3:reached]} == {"down"}
    assert all("not tried" in str(error) for _, error in made[reached:])


async def test_who_leaves_stops_what_has_not_begun() -> None:
    work = Work(0.05)

    async with Batches(2, 1) as found:
        async with aclosing(found.each(IMAGES, work)) as each:
            await anext(each)
        begun = len(work.begun)
        await asyncio.sleep(0.1)

        assert len(work.begun) == begun <= 1 + AHEAD


async def test_a_turn_ends_with_the_work_not_with_who_asked_for_it() -> None:
    work = Work(0.05)

    async with Batches(2, 8) as found:
        for _ in range(5):
            asking = asyncio.create_task(collected(found, work))
            await asyncio.sleep(0.005)
            asking.cancel()
            await asyncio.wait([asking])

        assert (work.most, work.done) == (1, 0)
    assert work.done == len(work.begun)


async def test_only_so_many_batches_run_at_once() -> None:
    async with Batches(2, 2) as found:
        with found.begun(), found.begun():
            with pytest.raises(BusyError) as caught, found.begun():
                pass
            assert caught.value.retry_after > 1
        with found.begun():
            pass


async def test_a_single_job_never_waits_for_more_than_one_of_a_batch() -> None:
    """With one worker, given in turn to whoever asks."""
    worker = asyncio.Lock()

    async def make(image: ImageName) -> ImageName:
        async with worker:
            await asyncio.sleep(0.01)
        return image

    def many(found: Batches) -> Coroutine[None, None, list[object]]:
        async def run() -> list[object]:
            return [item async for item in found.each(IMAGES * 3, make)]

        return run()

    async with Batches(1, 8) as found:
        running = [asyncio.create_task(many(found)) for _ in range(5)]
        await asyncio.sleep(0.015)
        waits = []
        for _ in range(5):
            begun = time.perf_counter()
            await make(ImageName("single"))
            waits.append(time.perf_counter() - begun)
        for task in running:
            task.cancel()
        await asyncio.wait(running)

    assert sorted(waits)[2] < 0.035
