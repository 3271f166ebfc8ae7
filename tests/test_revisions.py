"""What each original is now, by a store that lags."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stores.lagging import LaggingStore, State

from image_repo import names
from image_repo.errors import StoreError
from image_repo.lastknown import LastKnown
from image_repo.originals import Originals
from image_repo.quota import Bounds
from image_repo.revisions import LAG_SECONDS, NEW_SECONDS, Revisions
from image_repo.shelf import Shelf
from image_repo.stores.store import Stored

X = names.image_name("x")
LIFETIME = 5.0
MISSING = 3.0
PATIENCE = 0.05


class AwayStore(LaggingStore):
    """May fail as well as lag, and hangs while its gate is not set.

    Attributes:
        asked: How many heads there were.
        failing: Whether each of them fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.failing = False

    async def head(self, key: str) -> Stored | None:
        self.asked += 1
        if self.failing:
            raise StoreError("away")
        return await super().head(key)


class Bench:
    """Revisions over a store that lags, with a clock to set.

    `put` and `delete` are our own; those of `store` are another server's.
    """

    def __init__(
        self, last_known: LastKnown | None = None, lifetime: float = LIFETIME
    ) -> None:
        self.now = 1000.0
        self.store = AwayStore()
        self.store._now = lambda: next(self._times)
        self._times = self._ticks()
        self.originals = Originals(self.store, lambda: self.now)
        self.last_known = last_known
        self.lifetime = lifetime
        self.restart()

    def restart(self, last_known: LastKnown | None = None) -> None:
        """Forget all that is only in memory, but what *last_known* has."""
        self.last_known = last_known or self.last_known
        self.revisions = Revisions(
            self.originals,
            names.recipe("test"),
            self.lifetime,
            lambda: self.now,
            missing_lifetime=MISSING,
            store_patience=PATIENCE,
            last_known=self.last_known,
        )

    def _ticks(self) -> Iterator[datetime]:
        at = datetime(2024, 1, 1, tzinfo=UTC)
        while True:
            at += timedelta(seconds=1)
            yield at

    async def put(self, body: bytes) -> str:
        before = await self.revisions.look(X)
        stored = await self.originals.put(X, io.BytesIO(body), media_type="x/y")
        self.revisions.replaced(X, stored, () if before is None else (before,))
        return stored.revision

    async def delete(self) -> None:
        every = await self.originals.every(X)
        await self.originals.delete(X)
        self.revisions.deleted(X, every)

    async def other(self, body: bytes) -> str:
        stored = await self.store.put(X, io.BytesIO(body), media_type="x/y")
        return stored.revision

    async def current(self) -> str | None:
        """Ask after what was remembered is over."""
        self.now += LIFETIME
        return await self.revisions.current(X)

    async def told(self) -> str | None:
        """Ask now, and wait a second at most."""
        async with asyncio.timeout(1):
            return await self.revisions.current(X)


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


async def come_back(bench: Bench) -> None:
    """Let the store answer, and what was asked of it meanwhile end."""
    bench.store.failing = False
    bench.store.gate.set()
    async with asyncio.timeout(1):
        await bench.revisions._asking.landed(lambda _: True)


@asynccontextmanager
async def on_disk(root: Path) -> AsyncIterator[LastKnown]:
    async with Shelf(root, Bounds(10**6, 10**3, 0)) as shelf, LastKnown(shelf) as known:
        yield known


async def test_our_own_put_is_believed_while_the_store_tells_what_was_before() -> None:
    bench = Bench()
    await bench.put(b"A")
    old = bench.store.state()
    ours = await bench.put(b"B")

    bench.store.lag(old)

    while bench.now < 1000 + LAG_SECONDS - LIFETIME:
        assert await bench.current() == ours
    bench.now += LAG_SECONDS
    assert await bench.current() != ours  # it isn't lag any more


async def test_all_that_was_superseded_is_known_as_old() -> None:
    bench = Bench()
    states = []
    ours = await bench.other(b"Z")
    for body in (b"A", b"B", b"C"):
        states.append(bench.store.state())
        ours = await bench.put(body)

    for state in states:
        bench.store.lag(state)
        assert await bench.current() == ours


async def test_what_another_put_before_us_is_old_though_we_never_saw_it() -> None:
    bench = Bench()
    await bench.put(b"A")
    await bench.other(b"Z")
    unseen = bench.store.state()
    await bench.other(b"Y")
    ours = await bench.put(b"B")

    bench.store.lag(unseen)
    assert await bench.current() == ours

    bench.store.catch_up()
    await bench.delete()
    bench.store.lag(unseen)
    assert await bench.current() is None


async def test_what_lies_beside_the_image_is_not_taken_for_what_we_have_put() -> None:
    bench = Bench()
    await bench.store.put("x.png", io.BytesIO(b"old"), media_type="x/y")
    beside = bench.store.state()
    await bench.put(b"A")
    bench.now += LAG_SECONDS
    ours = await bench.put(b"B")

    bench.store.lag(beside)
    with pytest.raises(StoreError, match="not have the image 'x' yet"):
        await bench.current()

    bench.store.catch_up()
    assert await bench.current() == ours


async def test_bytes_that_come_back_by_us_are_current_again() -> None:
    bench = Bench()
    first = await bench.put(b"A")
    before = bench.store.state()
    await bench.put(b"B")
    between = bench.store.state()
    assert await bench.put(b"A") == first

    assert await bench.current() == first
    for state in (before, between):
        bench.store.lag(state)
        assert await bench.current() == first


async def test_bytes_that_come_back_by_another_server_are_believed() -> None:
    bench = Bench()
    first = await bench.put(b"A")
    old = bench.store.state()
    await bench.put(b"B")

    await bench.other(b"A")

    assert await bench.current() == first
    bench.store.lag(old)
    assert await bench.current() != first


async def test_another_servers_change_is_seen_after_the_lifetime() -> None:
    bench = Bench()
    ours = await bench.put(b"A")
    theirs = await bench.other(b"B")

    assert await bench.revisions.current(X) == ours
    assert await bench.current() == theirs


async def test_what_was_asked_before_our_change_is_not_believed_after_it() -> None:
    bench = Bench()
    old = await bench.other(b"A")
    bench.store.lag(bench.store.state(), heads=1)
    bench.store.gate.clear()
    asked = asyncio.create_task(bench.revisions.current(X))
    await asyncio.sleep(0.01)
    stored = await bench.originals.put(X, io.BytesIO(b"B"), media_type="x/y")
    bench.revisions.replaced(X, stored, ())
    bench.store.gate.set()

    assert await asked == stored.revision != old


async def test_nothing_just_after_our_put_is_lag_and_an_error() -> None:
    bench = Bench()
    ours = await bench.put(b"A")
    bench.store.lag({}, heads=1)
    assert await bench.current() == ours

    bench.store.lag({})
    bench.revisions.forget(X)
    with pytest.raises(StoreError, match="yet"):
        await bench.revisions.current(X)
    with pytest.raises(StoreError, match="yet"):
        await bench.revisions.look(X)


async def test_nothing_a_while_after_our_put_is_a_delete() -> None:
    bench = Bench()
    await bench.put(b"A")
    await bench.store.delete(X)

    bench.now += NEW_SECONDS
    assert await bench.current() is None


async def test_what_we_have_deleted_does_not_come_back() -> None:
    bench = Bench()
    await bench.put(b"A")
    await bench.store.put("x.jpg", io.BytesIO(b"adopted"), media_type="x/y")
    old = bench.store.state()
    await bench.delete()

    bench.store.lag(old)
    assert await bench.current() is None
    bench.store.lag({"x.jpg": old["x.jpg"]})
    assert await bench.current() is None

    theirs = await bench.other(b"A")
    bench.store.catch_up()
    assert await bench.current() == theirs


async def test_a_doubtful_change_leaves_what_is_sure() -> None:
    bench = Bench()
    await bench.put(b"A")
    old = bench.store.state()
    ours = await bench.put(b"B")
    bench.revisions.doubted(X)
    bench.store.lag(old)

    assert await bench.current() == ours

    landed = await bench.other(b"C")
    bench.store.catch_up()
    assert await bench.current() == landed


async def test_our_upload_over_an_adopted_original_is_not_undone_by_lag() -> None:
    bench = Bench()
    await bench.store.put("x.jpg", io.BytesIO(b"adopted"), media_type="x/y")
    old = bench.store.state()
    ours = await bench.put(b"A")

    bench.store.lag(old)

    assert await bench.current() == ours


# -- nothing there ---------------------------------------------------------------------


async def test_that_there_is_nothing_is_remembered_for_a_while() -> None:
    bench = Bench()

    assert await bench.revisions.current(X) is None
    asked = bench.store.asked
    theirs = await bench.other(b"A")
    bench.now += MISSING - 0.1
    assert await bench.revisions.current(X) is None
    assert bench.store.asked == asked

    bench.now += 0.1
    assert await bench.revisions.current(X) == theirs


async def test_our_own_upload_is_there_at_once_where_nothing_was() -> None:
    bench = Bench()
    assert await bench.revisions.current(X) is None

    ours = await bench.put(b"A")

    assert await bench.revisions.current(X) == ours
    assert not bench.revisions.assumed(X)


async def test_what_was_missing_is_asked_again_after_a_doubtful_change() -> None:
    bench = Bench()
    assert await bench.revisions.current(X) is None
    landed = await bench.other(b"A")

    bench.revisions.doubted(X)

    assert await bench.revisions.current(X) == landed


async def test_what_was_missing_is_asked_again_when_it_is_forgotten() -> None:
    bench = Bench()
    assert await bench.revisions.current(X) is None
    theirs = await bench.other(b"A")

    bench.revisions.forget(X)

    assert await bench.revisions.current(X) == theirs


async def test_what_was_missing_before_our_put_is_not_remembered_after_it() -> None:
    bench = Bench()
    bench.store.lag({}, heads=1)
    bench.store.gate.clear()
    asked = asyncio.create_task(bench.revisions.current(X))
    await asyncio.sleep(0.01)
    stored = await bench.originals.put(X, io.BytesIO(b"A"), media_type="x/y")
    bench.revisions.replaced(X, stored, ())
    await come_back(bench)

    assert await asked == stored.revision
    assert await bench.revisions.current(X) == stored.revision


async def test_many_names_of_nothing_displace_no_revision() -> None:
    bench = Bench()
    ours = await bench.put(b"A")
    for number in range(10_001):
        await bench.revisions.current(names.image_name(f"nothing/{number}"))
    bench.store.failing = True

    assert await bench.revisions.current(X) == ours


# -- a store that is away --------------------------------------------------------------


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


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "delete", "ask"]),
        st.sampled_from([b"A", b"B", b"C"]),
        st.integers(0, 9),
        st.floats(0, 8),
        st.booleans(),
    ),
    max_size=15,
)
"""Our changes, and each time which old state the store tells after how many seconds,
and whether it has caught up before."""


@given(steps)
async def test_no_lag_ever_brings_back_what_was_before_our_own_change(
    script: list[tuple[str, bytes, int, float, bool]],
) -> None:
    bench = Bench()
    states: list[State] = [{}]
    ours: str | None = None
    for step, body, which, pause, caught_up in script:
        bench.now += pause
        if caught_up:
            bench.store.catch_up()
        with suppress(StoreError):  # when it does not have our last put yet
            if step == "put":
                ours = await bench.put(body)
            elif step == "delete":
                await bench.delete()
                ours = None
        states.append(bench.store.state())

        bench.store.lag(states[which % len(states)])
        try:
            told = await bench.current()
        except StoreError:
            continue
        nothing = not states[which % len(states)]
        assert told == ours or (told is None and nothing)


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
