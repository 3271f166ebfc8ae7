"""What is kept of derived images, in levels that may forget."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo import options
from image_repo.cache import PENDING, PENDING_BYTES, RESTING, Cache, Hit
from image_repo.errors import StoreError
from image_repo.levels import (
    ENTRY_BYTES,
    Derived,
    DiskLevel,
    Level,
    MemoryLevel,
    MemoryOptions,
    StoreLevel,
)
from image_repo.names import (
    DerivedName,
    ImageName,
    MadeName,
    Tag,
    image_name,
    stored_key,
)
from image_repo.quota import Bounds
from image_repo.shelf import Shelf
from image_repo.stores.disk import DirectoryStore
from image_repo.stores.memory import MemoryStore

OLD, NEW = Tag("0" * 16), Tag("f" * 16)
SMALL = DerivedName.parse("site/plot/_/w_40.webp")
FULL = DerivedName.parse("site/plot/_/full.jpg")
OTHER = DerivedName.parse("site/plot 2/_/full.jpg")
PLOT = image_name("site/plot")
PICTURE = Derived(b"picture", "image/webp")
ROOMY = MemoryOptions()


class Broken:
    """A level in which everything fails."""

    name = "broken"
    instant = True
    shared = True

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        raise self._at(tag, name)

    async def has(self, tag: Tag, name: MadeName) -> bool:
        raise self._at(tag, name)

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        raise self._at(tag, name, derived)

    async def forget(self, image: ImageName) -> None:
        raise self._at(image)

    async def names(self, image: ImageName) -> AsyncIterator[str]:
        yield stored_key(SMALL, OLD)
        raise self._at(image)

    def _at(self, *_: object) -> Exception:
        return self.error


class Slow(MemoryLevel):
    """A level that does nothing until it is let go."""

    name = "slow"
    instant = False

    def __init__(self) -> None:
        super().__init__(ROOMY)
        self.let_go = asyncio.Event()

    async def get(self, tag: Tag, name: MadeName) -> Derived | None:
        await self.let_go.wait()
        return await super().get(tag, name)

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        await self.let_go.wait()
        await super().put(tag, name, derived)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> MemoryLevel:
    return MemoryLevel(ROOMY)


@pytest.fixture(params=["memory", "store", "directory", "disk"])
async def level(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Level]:
    """Each kind of level."""
    if request.param == "memory":
        yield MemoryLevel(ROOMY)
    elif request.param == "store":
        yield StoreLevel(MemoryStore())
    elif request.param == "directory":
        async with DirectoryStore(tmp_path) as store:
            yield StoreLevel(store)
    else:
        async with Shelf(tmp_path, Bounds(2**20, 100, 0)) as shelf:
            yield DiskLevel(shelf)


async def names(level: Level, image: ImageName = PLOT) -> list[str]:
    return sorted([key async for key in level.names(image)])


async def test_a_level_gives_back_what_was_put_under_tag_and_name(level: Level) -> None:
    await level.put(OLD, SMALL, PICTURE)
    await level.put(NEW, SMALL, Derived(b"new", "image/webp"))

    assert await level.get(OLD, SMALL) == PICTURE
    assert await level.get(NEW, SMALL) == Derived(b"new", "image/webp")
    assert await level.get(NEW, FULL) is None
    assert await level.get(OLD, OTHER) is None


async def test_a_level_forgets_all_that_is_made_from_one_image(level: Level) -> None:
    for tag in (OLD, NEW):
        for name in (SMALL, FULL, OTHER):
            await level.put(tag, name, PICTURE)
    assert await names(level) == [
        f"site/plot/_/{tag}/{text}"
        for tag in (OLD, NEW)
        for text in ("full.jpg", "w_40.webp")
    ]

    await level.forget(PLOT)
    await level.forget(image_name("never seen"))

    assert await names(level) == []
    assert await level.get(OLD, SMALL) is None
    assert await level.get(NEW, FULL) is None
    assert await level.get(NEW, OTHER) == PICTURE


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3000), st.booleans())),
    st.integers(0, 12_000),
    st.integers(0, 5),
)
async def test_memory_is_bounded_and_the_longest_unused_goes_first(
    turns: list[tuple[int, int, bool]], max_size: int, max_elements: int
) -> None:
    level = MemoryLevel(MemoryOptions(max_size, max_elements))
    used: list[tuple[int, int]] = []  # which and size, the longest unused first

    for which, new_size, reading in turns:
        name = DerivedName.parse(f"x/_/w_{which}.jpg")
        known = dict(used)
        if reading:
            found = await level.get(OLD, name)
            assert (None if found is None else len(found.body)) == known.get(which)
        else:
            await level.put(OLD, name, Derived(bytes(new_size), "image/jpeg"))
        size = known.get(which, -1) if reading else new_size
        used = [entry for entry in used if entry[0] != which]
        if 0 <= size <= max_size - ENTRY_BYTES:
            used.append((which, size))
        while (
            sum(s + ENTRY_BYTES for _, s in used) > max_size or len(used) > max_elements
        ):
            used.pop(0)

        assert level.size == sum(s + ENTRY_BYTES for _, s in used)
        assert len(level) == len(used)
        assert await names(level, image_name("x")) == sorted(
            f"x/_/{OLD}/w_{w}.jpg" for w, _ in used
        )


def test_the_options_of_memory_say_what_they_are() -> None:
    said = {item.path: item for item in options.describe(MemoryOptions)}

    assert list(said) == [("max_size",), ("max_elements",)]
    assert said["max_size",].about.size


async def test_the_nearest_level_that_has_it_answers_and_nearer_ones_get_it(
    memory: MemoryLevel,
) -> None:
    middle, far = StoreLevel(MemoryStore(), "middle"), StoreLevel(MemoryStore(), "far")
    await far.put(OLD, SMALL, PICTURE)

    async with Cache([memory, middle, far]) as cache:
        assert await cache.get(OLD, SMALL) == Hit(PICTURE, "far")
        assert await cache.get(OLD, SMALL) == Hit(PICTURE, "memory")
        assert await cache.get(NEW, SMALL) is None
        assert cache.found == {"far": 1, "memory": 1, "none": 1}

    assert await middle.get(OLD, SMALL) == PICTURE


async def test_a_put_reaches_all_levels_and_waits_for_no_slow_one(
    memory: MemoryLevel,
) -> None:
    slow = Slow()
    async with Cache([memory, slow]) as cache:
        await cache.put(OLD, SMALL, PICTURE)

        assert await memory.get(OLD, SMALL) == PICTURE
        assert len(slow) == 0
        slow.let_go.set()

    assert await slow.get(OLD, SMALL) == PICTURE


async def test_writes_that_take_too_long_are_given_up_at_the_end() -> None:
    slow = Slow()
    async with asyncio.timeout(5), Cache([slow], patience=0.01) as cache:
        await cache.put(OLD, SMALL, PICTURE)

    slow.let_go.set()
    await asyncio.sleep(0)
    assert len(slow) == 0


async def test_only_so_many_writes_wait_for_a_slow_level(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slow = Slow()
    async with Cache([slow]) as cache:
        for width in range(PENDING + 3):
            name = DerivedName.parse(f"x/_/w_{width + 1}.jpg")
            await cache.put(OLD, name, PICTURE)
        slow.let_go.set()

    assert len(slow) == PENDING
    (message,) = caplog.messages
    assert message.startswith(f"cache level slow: cannot keep x/_/w_{PENDING + 1}.jpg:")


async def test_a_level_that_fails_is_passed_by(
    memory: MemoryLevel, caplog: pytest.LogCaptureFixture
) -> None:
    async with Cache([Broken(StoreError("it is down")), memory]) as cache:
        await cache.put(OLD, SMALL, PICTURE)

        assert await cache.get(OLD, SMALL) == Hit(PICTURE, "memory")
        assert await cache.get(OLD, FULL) is None

    assert caplog.record_tuples == [
        (
            "image_repo.cache",
            logging.WARNING,
            "cache level broken: cannot keep site/plot/_/w_40.webp: it is down",
        )
    ]


async def test_a_level_that_goes_on_failing_is_logged_once_a_minute(
    memory: MemoryLevel, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    broken = Broken(StoreError("it is down"))
    async with Cache([broken, memory], clock=clock) as cache:
        for seconds in range(0, 121, 10):
            clock.now = seconds
            await cache.get(OLD, SMALL)

    assert len(caplog.messages) == 3


async def test_a_level_that_does_not_answer_is_a_miss(
    memory: MemoryLevel, caplog: pytest.LogCaptureFixture
) -> None:
    await memory.put(OLD, SMALL, PICTURE)
    async with Cache([Slow(), memory], patience=0.01) as cache:
        assert await cache.get(OLD, SMALL) == Hit(PICTURE, "memory")

    assert "no answer in 0.01 s" in caplog.messages[0]


async def test_a_fault_of_ours_is_not_passed_by() -> None:
    async with Cache([Broken(ZeroDivisionError("ours"))]) as cache:
        with pytest.raises(ZeroDivisionError):
            await cache.get(OLD, SMALL)


async def test_a_damaged_derived_image_is_a_miss_until_it_is_made_anew(
    tmp_path: Path,
) -> None:
    async with DirectoryStore(tmp_path) as store, Cache([StoreLevel(store)]) as cache:
        await StoreLevel(store).put(OLD, SMALL, PICTURE)
        (file,) = (path for path in tmp_path.rglob("*.o"))
        file.write_bytes(b"half")
        assert await cache.get(OLD, SMALL) is None

        await cache.put(OLD, SMALL, PICTURE)
        async with asyncio.timeout(5):
            while await cache.get(OLD, SMALL) is None:
                await asyncio.sleep(0.01)


async def test_forgetting_returns_the_key_of_everything_that_was_kept(
    memory: MemoryLevel,
) -> None:
    store = MemoryStore()
    async with Cache([memory, StoreLevel(store)]) as cache:
        await memory.put(OLD, SMALL, PICTURE)
        await StoreLevel(store).put(OLD, SMALL, PICTURE)
        await StoreLevel(store).put(NEW, FULL, PICTURE)
        await StoreLevel(store).put(NEW, OTHER, PICTURE)

        assert sorted(await cache.forget(PLOT)) == [
            stored_key(SMALL, OLD),
            stored_key(FULL, NEW),
        ]

        assert await cache.get(OLD, SMALL) is None
        assert [key async for key in store.list()] == [stored_key(OTHER, NEW)]
        assert await cache.forget(PLOT) == []


async def test_forgetting_goes_on_when_a_level_fails(
    memory: MemoryLevel, caplog: pytest.LogCaptureFixture
) -> None:
    await memory.put(OLD, FULL, PICTURE)
    async with Cache([Broken(StoreError("it is down")), memory]) as cache:
        keys = await cache.forget(PLOT)

    assert keys == [stored_key(SMALL, OLD), stored_key(FULL, OLD)]
    assert len(memory) == 0
    assert "it is down" in caplog.messages[0]


class Undeletable(MemoryStore):
    """A store that cannot delete a certain key."""

    async def delete(self, key: str) -> bool:
        if key.endswith("full.jpg"):
            raise StoreError("it must stay")
        return await super().delete(key)


async def test_a_delete_that_fails_does_not_stop_the_others() -> None:
    store = Undeletable()
    level = StoreLevel(store)
    for tag in (OLD, NEW):
        for name in (FULL, SMALL):
            await level.put(tag, name, PICTURE)

    with pytest.raises(StoreError, match="it must stay"):
        await level.forget(PLOT)

    assert await names(level) == [stored_key(FULL, OLD), stored_key(FULL, NEW)]


async def test_writes_still_to_come_are_dropped_for_a_forgotten_image() -> None:
    slow = Slow()
    async with Cache([slow]) as cache:
        await cache.put(OLD, SMALL, PICTURE)
        await cache.put(OLD, OTHER, PICTURE)

        await cache.forget(PLOT)
        slow.let_go.set()

    assert await slow.get(OLD, SMALL) is None
    assert await slow.get(OLD, OTHER) == PICTURE


async def test_what_was_read_before_a_purge_does_not_come_back_by_it(
    memory: MemoryLevel,
) -> None:
    slow = Slow()
    async with Cache([memory, slow]) as cache:
        await MemoryLevel.put(slow, OLD, SMALL, PICTURE)
        reading = asyncio.create_task(cache.get(OLD, SMALL))
        await asyncio.sleep(0)
        forgetting = asyncio.create_task(cache.forget(image_name("any")))
        await forgetting
        slow.let_go.set()

        assert await reading == Hit(PICTURE, "slow")
        assert len(memory) == 0


class Hung(Slow):
    """A level that also forgets only when it is let go."""

    async def forget(self, image: ImageName) -> None:
        await self.let_go.wait()
        await super().forget(image)


async def test_forgetting_does_not_wait_for_a_level_that_hangs(
    memory: MemoryLevel,
) -> None:
    async with asyncio.timeout(5), Cache([Hung(), memory], patience=0.01) as cache:
        await memory.put(OLD, FULL, PICTURE)

        assert await cache.forget(PLOT) == [stored_key(FULL, OLD)]
        assert await memory.get(OLD, FULL) is None


async def test_a_write_that_hangs_gives_its_place_back() -> None:
    slow = Slow()
    large = Derived(bytes(PENDING_BYTES), "image/bmp")
    async with Cache([slow], patience=0.01) as cache:
        await cache.put(OLD, FULL, large)
        await asyncio.sleep(0.1)
        slow.let_go.set()
        await cache.put(OLD, SMALL, PICTURE)
        await asyncio.sleep(0.05)

        assert await slow.get(OLD, FULL) is None
        assert await slow.get(OLD, SMALL) == PICTURE


async def test_only_so_many_bytes_wait_for_a_slow_level() -> None:
    slow = Slow()
    large = Derived(bytes(PENDING_BYTES // 2 + 1), "image/bmp")
    async with Cache([slow]) as cache:
        for name in (FULL, SMALL, OTHER):
            await cache.put(OLD, name, large)
        slow.let_go.set()
        await asyncio.sleep(0.05)
        await cache.put(NEW, OTHER, PICTURE)
        await asyncio.sleep(0.05)

        kept = [await slow.get(OLD, name) for name in (FULL, SMALL, OTHER)]
        assert [found is None for found in kept] == [False, True, True]
        assert await slow.get(NEW, OTHER) == PICTURE


class Moody(MemoryLevel):
    """A level whose first writes fail."""

    name = "moody"
    instant = False

    def __init__(self, faults: int) -> None:
        super().__init__(ROOMY)
        self.faults = faults

    async def put(self, tag: Tag, name: MadeName, derived: Derived) -> None:
        if self.faults:
            self.faults -= 1
            raise StoreError("not now")
        await super().put(tag, name, derived)


async def test_a_write_that_fails_is_tried_again() -> None:
    moody = Moody(2)
    async with Cache([moody], pauses=(0.01, 0.02)) as cache:
        await cache.put(OLD, SMALL, PICTURE)
        await asyncio.sleep(0.2)

        assert await moody.get(OLD, SMALL) == PICTURE


async def test_a_write_that_waits_for_its_next_try_is_finished_at_the_end() -> None:
    moody = Moody(1)
    async with asyncio.timeout(5), Cache([moody], pauses=(60.0,)) as cache:
        await cache.put(OLD, SMALL, PICTURE)
        await asyncio.sleep(0.01)

    assert await moody.get(OLD, SMALL) == PICTURE


async def test_a_write_that_waits_for_its_next_try_is_dropped_by_a_purge() -> None:
    moody = Moody(1)
    async with asyncio.timeout(5), Cache([moody], pauses=(60.0,)) as cache:
        await cache.put(OLD, SMALL, PICTURE)
        await asyncio.sleep(0.01)
        await cache.forget(PLOT)

    assert await moody.get(OLD, SMALL) is None


async def test_writes_that_fail_at_one_level_take_no_place_at_another() -> None:
    failing, well = Moody(10**6), Slow()
    well.let_go.set()
    async with Cache([failing, well], pauses=(60.0,)) as cache:
        for width in range(1, 2 * PENDING):
            await cache.put(OLD, DerivedName.parse(f"x/_/w_{width}.jpg"), PICTURE)
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)

        assert len(well) == 2 * PENDING - 1


async def test_a_level_that_did_not_answer_is_left_alone_for_a_while(
    memory: MemoryLevel,
) -> None:
    clock, slow = Clock(), Slow()
    slow.let_go.set()
    await slow.put(OLD, SMALL, PICTURE)
    slow.let_go.clear()
    async with Cache([memory, slow], patience=0.01, clock=clock) as cache:
        assert await cache.get(OLD, SMALL) is None
        slow.let_go.set()
        assert await cache.get(OLD, SMALL) is None
        clock.now = RESTING

        assert await cache.get(OLD, SMALL) == Hit(PICTURE, "slow")


async def test_only_levels_that_take_no_time_are_near(memory: MemoryLevel) -> None:
    far = StoreLevel(MemoryStore())
    async with Cache([memory, far]) as cache:
        await far.put(OLD, SMALL, PICTURE)
        assert await cache.near(OLD, SMALL) is None
        await memory.put(OLD, SMALL, PICTURE)

        assert await cache.near(OLD, SMALL) == Hit(PICTURE, "memory")


async def test_it_says_where_a_derived_image_is(memory: MemoryLevel) -> None:
    far = StoreLevel(MemoryStore(), "far")
    await far.put(OLD, SMALL, PICTURE)
    async with Cache([memory, far, Broken(StoreError("it is down"))]) as cache:
        where = await cache.where(OLD, SMALL)

    assert where == {"memory": False, "far": True, "broken": None}


async def test_one_image_is_written_once_however_many_have_found_it_far_away() -> None:
    slow, far = Slow(), StoreLevel(MemoryStore())
    await far.put(OLD, SMALL, PICTURE)
    async with Cache([slow, far], patience=0.05) as cache:
        await asyncio.gather(*(cache.put(OLD, SMALL, PICTURE) for _ in range(PENDING)))
        await cache.put(OLD, FULL, PICTURE)
        slow.let_go.set()

    assert len(slow) == 2


async def test_what_others_share_can_be_left_alone_by_a_purge(
    memory: MemoryLevel,
) -> None:
    shared = StoreLevel(MemoryStore())
    async with Cache([memory, shared]) as cache:
        await memory.put(OLD, SMALL, PICTURE)
        await shared.put(NEW, FULL, PICTURE)

        keys = await cache.forget(PLOT, shared=False)

        assert sorted(keys) == sorted([stored_key(SMALL, OLD), stored_key(FULL, NEW)])
        assert await memory.get(OLD, SMALL) is None
        assert await shared.get(NEW, FULL) == PICTURE


async def test_a_level_may_hold_only_what_others_put() -> None:
    level = StoreLevel(MemoryStore(), keeps=False)

    await level.put(OLD, SMALL, PICTURE)

    assert not await level.has(OLD, SMALL)
