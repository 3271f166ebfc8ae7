"""What each original is now, by a store that lags."""

from __future__ import annotations

import asyncio
import io
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from revising import LIFETIME, MISSING, Bench, X, come_back
from stores.lagging import State

from image_repo import names
from image_repo.errors import StoreError
from image_repo.revisions import LAG_SECONDS, NEW_SECONDS


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
