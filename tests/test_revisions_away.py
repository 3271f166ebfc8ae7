"""What is told of an original while the store is away."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from revising import LIFETIME, PATIENCE, Bench, X, come_back

from image_repo import names
from image_repo.errors import StoreError
from image_repo.lastknown import LastKnown
from image_repo.quota import Bounds
from image_repo.revisions import LAG_SECONDS
from image_repo.shelf import Shelf


@pytest.fixture(params=[False, True], ids=["hangs", "fails"])
def fails(request: pytest.FixtureRequest) -> bool:
    """Whether a store that is away fails; otherwise it hangs."""
    return bool(request.param)


@pytest.fixture
def bench() -> Bench:
    """Return a bench whose last known revisions are in memory."""
    return Bench(LastKnown())


def leave(bench: Bench, fails: bool) -> None:
    """Let the store go away, and all that is believed be over."""
    bench.now += LAG_SECONDS
    bench.store.failing = fails
    if not fails:
        bench.store.gate.clear()


@asynccontextmanager
async def on_disk(root: Path) -> AsyncIterator[LastKnown]:
    async with Shelf(root, Bounds(10**6, 10**3, 0)) as shelf, LastKnown(shelf) as known:
        yield known


async def test_the_last_known_revision_is_told_while_the_store_is_away(
    bench: Bench, fails: bool
) -> None:
    theirs = await bench.other(b"A")
    assert await bench.told() == theirs
    assert not bench.revisions.assumed(X)

    leave(bench, fails)

    assert await bench.told() == theirs
    assert bench.revisions.assumed(X)
    asked = bench.store.asked
    assert await bench.told() == theirs  # at once
    assert bench.store.asked == asked
    await come_back(bench)


async def test_only_the_first_of_a_lifetime_waits(bench: Bench) -> None:
    await bench.other(b"A")
    await bench.told()
    leave(bench, fails=False)
    loop = asyncio.get_running_loop()

    waited = []
    for _ in range(3):
        began = loop.time()
        await bench.told()
        waited.append(loop.time() - began)
        bench.now += LIFETIME / 2

    assert [seconds >= PATIENCE / 2 for seconds in waited] == [True, False, True]
    assert bench.store.asked == 2  # once before, once since
    await come_back(bench)


async def test_what_is_assumed_is_asked_again_after_the_lifetime(
    bench: Bench, fails: bool
) -> None:
    await bench.other(b"A")
    await bench.told()
    leave(bench, fails)
    await bench.told()
    theirs = await bench.other(b"B")
    await come_back(bench)
    bench.now += LIFETIME

    assert await bench.told() == theirs
    assert not bench.revisions.assumed(X)


async def test_no_lifetime_still_spares_a_store_that_is_away() -> None:
    bench = Bench(LastKnown(), lifetime=0)
    theirs = await bench.other(b"A")
    assert await bench.told() == theirs
    leave(bench, fails=True)

    assert [await bench.told() for _ in range(3)] == [theirs] * 3

    assert bench.store.asked == 2


async def test_a_late_answer_takes_the_place_of_what_was_assumed(bench: Bench) -> None:
    await bench.other(b"A")
    await bench.told()
    leave(bench, fails=False)
    await bench.told()
    theirs = await bench.other(b"B")

    await come_back(bench)

    assert await bench.told() == theirs
    assert not bench.revisions.assumed(X)


async def test_a_late_answer_that_nothing_is_there_is_believed(bench: Bench) -> None:
    await bench.other(b"A")
    await bench.told()
    leave(bench, fails=False)
    await bench.told()
    await bench.store.delete(X)

    await come_back(bench)

    assert await bench.told() is None
    leave(bench, fails=True)
    with pytest.raises(StoreError, match="away"):
        await bench.told()


async def test_a_late_answer_from_before_our_change_is_not_believed(
    bench: Bench,
) -> None:
    await bench.other(b"A")
    await bench.told()
    old = bench.store.state()
    leave(bench, fails=False)
    bench.store.lag(old, heads=1)
    await bench.told()
    stored = await bench.originals.put(X, io.BytesIO(b"B"), media_type="x/y")
    bench.revisions.replaced(X, stored, ())

    await come_back(bench)

    assert await bench.told() == stored.revision
    assert not bench.revisions.assumed(X)
    leave(bench, fails=True)
    assert await bench.told() == stored.revision
    assert bench.revisions.assumed(X)


async def test_a_late_answer_from_before_our_delete_is_not_believed(
    bench: Bench,
) -> None:
    await bench.other(b"A")
    await bench.told()
    old = bench.store.state()
    leave(bench, fails=False)
    bench.store.lag(old, heads=1)
    assumed = await bench.told()
    bench.now += LIFETIME
    waiting = asyncio.create_task(bench.told())
    await asyncio.sleep(PATIENCE / 5)
    await bench.originals.delete(X)
    bench.revisions.deleted(X, ())  # as if what was there had never been seen

    await come_back(bench)

    assert assumed is not None
    assert await waiting is None
    assert await bench.told() is None


async def test_an_answer_that_comes_while_the_disk_is_asked_is_not_assumed() -> None:
    class SlowDisk(LastKnown):
        gate = asyncio.Event()

        async def recall(self, image: names.ImageName) -> names.Revision | None:
            await self.gate.wait()
            return await super().recall(image)

    bench = Bench(SlowDisk())
    theirs = await bench.other(b"A")
    await bench.told()
    leave(bench, fails=False)
    waiting = asyncio.create_task(bench.told())
    await asyncio.sleep(2 * PATIENCE)
    await come_back(bench)
    SlowDisk.gate.set()

    assert await waiting == theirs
    assert not bench.revisions.assumed(X)


async def test_our_put_while_somebody_waits_is_what_they_get(bench: Bench) -> None:
    await bench.other(b"A")
    await bench.told()
    leave(bench, fails=False)
    waiting = asyncio.create_task(bench.told())
    await asyncio.sleep(PATIENCE / 5)
    stored = await bench.originals.put(X, io.BytesIO(b"B"), media_type="x/y")
    bench.revisions.replaced(X, stored, ())

    assert await waiting == stored.revision
    assert not bench.revisions.assumed(X)
    await come_back(bench)


async def test_without_a_last_known_revision_the_store_is_waited_for(
    bench: Bench,
) -> None:
    theirs = await bench.other(b"A")
    leave(bench, fails=False)
    waiting = asyncio.create_task(bench.told())
    await asyncio.sleep(3 * PATIENCE)
    assert not waiting.done()

    await come_back(bench)

    assert await waiting == theirs
    assert bench.store.asked == 1


async def test_without_a_last_known_revision_a_failure_is_an_error(
    bench: Bench,
) -> None:
    await bench.other(b"A")
    leave(bench, fails=True)

    with pytest.raises(StoreError, match="away"):
        await bench.told()

    assert not bench.revisions.assumed(X)


@pytest.mark.parametrize("change", ["deleted", "doubted"])
async def test_nothing_is_assumed_after_a_change_whose_outcome_is_not_a_revision(
    bench: Bench, change: str
) -> None:
    await bench.put(b"A")
    leave(bench, fails=True)
    await bench.told()

    if change == "deleted":
        bench.revisions.deleted(X, ())
    else:
        bench.revisions.doubted(X)

    assert not bench.revisions.assumed(X)
    with pytest.raises(StoreError, match="away"):
        await bench.told()


async def test_a_delete_while_somebody_waits_leaves_nothing_to_assume(
    bench: Bench,
) -> None:
    await bench.put(b"A")
    leave(bench, fails=False)
    waiting = asyncio.create_task(bench.told())
    await asyncio.sleep(PATIENCE / 5)
    await bench.originals.delete(X)
    bench.revisions.deleted(X, ())
    await asyncio.sleep(3 * PATIENCE)
    assert not waiting.done()

    await come_back(bench)

    assert await waiting is None


async def test_our_put_is_assumed_while_the_store_does_not_have_it(
    bench: Bench,
) -> None:
    ours = await bench.put(b"A")
    bench.store.lag({})

    assert await bench.current() == ours
    assert bench.revisions.assumed(X)


async def test_what_is_assumed_is_asked_again_when_it_is_forgotten(
    bench: Bench,
) -> None:
    await bench.put(b"A")
    leave(bench, fails=True)
    await bench.told()
    theirs = await bench.other(b"B")
    await come_back(bench)

    bench.revisions.forget(X)

    assert await bench.told() == theirs


async def test_callers_that_leave_do_not_end_the_question(bench: Bench) -> None:
    theirs = await bench.other(b"A")
    leave(bench, fails=False)
    asked = asyncio.create_task(bench.told())
    await asyncio.sleep(0.01)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)

    await come_back(bench)

    bench.store.failing = True
    assert await bench.told() == theirs


async def test_the_last_known_revision_survives_a_restart(
    tmp_path: Path, fails: bool
) -> None:
    async with on_disk(tmp_path) as known:
        bench = Bench(known)
        theirs = await bench.other(b"A")
        await bench.told()

    leave(bench, fails)
    async with on_disk(tmp_path) as known:
        bench.restart(known)

        assert await bench.told() == theirs
        assert bench.revisions.assumed(X)
        await come_back(bench)


@pytest.mark.parametrize("change", ["put", "delete", "doubt"])
async def test_what_was_before_our_change_is_not_assumed_after_a_sudden_end(
    tmp_path: Path, change: str
) -> None:
    async with on_disk(tmp_path) as known, on_disk(tmp_path) as other:
        bench = Bench(known)
        expected: str | None = None
        await bench.put(b"A")
        await bench.revisions.settled(X)
        if change == "put":
            expected = await bench.put(b"B")
        elif change == "delete":
            await bench.delete()
        else:
            bench.revisions.doubted(X)
        await bench.revisions.settled(X)

        # Another process has nothing but the disk, as the one after kill -9.
        assert await other.recall(X) == expected


# -- any order -------------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "delete", "doubt", "other", "gone"]),
            st.sampled_from([b"A", b"B", b"C"]),
            st.floats(0, 8),
            st.booleans(),
        ),
        max_size=15,
    )
)
async def test_what_is_told_was_there_since_our_last_change(
    script: list[tuple[str, bytes, float, bool]],
) -> None:
    bench = Bench(LastKnown())
    possible: set[str | None] = {None}  # since our last change
    for step, body, pause, fails in script:
        bench.now += pause
        with suppress(StoreError):  # when it does not have our last put any more
            if step == "put":
                possible = {await bench.put(body)}
        if step == "delete":
            await bench.delete()
            possible = {None}
        elif step == "doubt":
            bench.revisions.doubted(X)
        elif step == "other":
            possible.add(await bench.other(body))
        elif step == "gone":
            await bench.store.delete(X)
            possible.add(None)

        bench.store.failing = fails
        with suppress(StoreError):
            assert await bench.told() in possible
        bench.store.failing = False
