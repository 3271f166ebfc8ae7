"""Doing a thing once for all who ask at once, and remembering things for a while."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo.errors import DeriveError
from image_repo.flights import Flights, Remembered


class Work:
    """Something that counts how often it is done, and ends when it is let go."""

    def __init__(self, outcome: int | Exception = 7) -> None:
        self.outcome = outcome
        self.begun = 0
        self.ended = 0
        self.let_go = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        await self.let_go.wait()
        self.ended += 1
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


async def settle() -> None:
    """Let all tasks go on as far as they can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def flights() -> Flights[str, int]:
    return Flights()


async def test_callers_at_once_share_one_piece_of_work(
    flights: Flights[str, int],
) -> None:
    work = Work()
    callers = [asyncio.create_task(flights.do("x", work)) for _ in range(20)]
    await settle()
    assert len(flights) == 1

    work.let_go.set()

    assert await asyncio.gather(*callers) == [7] * 20
    assert work.begun == 1
    assert len(flights) == 0


async def test_other_keys_are_other_work(flights: Flights[str, int]) -> None:
    one, other = Work(1), Work(2)
    one.let_go.set()
    other.let_go.set()

    both = await asyncio.gather(flights.do("x", one), flights.do("y", other))

    assert list(both) == [1, 2]


async def test_nothing_is_kept_for_who_asks_later(flights: Flights[str, int]) -> None:
    work = Work()
    work.let_go.set()

    await flights.do("x", work)
    await flights.do("x", work)

    assert work.begun == 2


async def test_all_callers_get_the_error_and_the_next_one_tries_anew(
    flights: Flights[str, int],
) -> None:
    work = Work(DeriveError("died"))
    callers = [asyncio.create_task(flights.do("x", work)) for _ in range(3)]
    await settle()

    work.let_go.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    work.outcome = 7

    assert [type(outcome) for outcome in outcomes] == [DeriveError] * 3
    assert await flights.do("x", work) == 7


@pytest.mark.parametrize("leaving", [0, 1, 2])
async def test_a_caller_that_leaves_changes_nothing_for_the_others(
    flights: Flights[str, int], leaving: int
) -> None:
    work = Work()
    callers = [asyncio.create_task(flights.do("x", work)) for _ in range(3)]
    await settle()

    callers[leaving].cancel()
    await settle()
    work.let_go.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)

    assert outcomes.count(7) == 2
    assert isinstance(outcomes[leaving], asyncio.CancelledError)
    assert work.begun == work.ended == 1


@pytest.mark.parametrize("outcome", [7, DeriveError("died")])
async def test_work_goes_on_when_all_have_left(
    flights: Flights[str, int], outcome: int | Exception
) -> None:
    work = Work(outcome)
    caller = asyncio.create_task(flights.do("x", work))
    await settle()

    caller.cancel()
    await settle()
    late = asyncio.create_task(flights.do("y", Work()))
    assert len(flights) == 1
    work.let_go.set()
    await settle()

    assert work.ended == 1
    assert len(flights) == 1
    late.cancel()


async def test_work_that_the_end_of_the_loop_cancels_leaves_nothing_behind(
    flights: Flights[str, int],
) -> None:
    caller = asyncio.create_task(flights.do("x", Work()))
    await settle()

    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await settle()

    assert len(flights) == 0


async def test_work_under_way_can_be_waited_for(flights: Flights[str, int]) -> None:
    one, other = Work(), Work()
    callers = [
        asyncio.create_task(flights.do("x", one)),
        asyncio.create_task(flights.do("y", other)),
    ]
    await settle()
    waiting = asyncio.create_task(flights.landed(lambda key: key == "x"))
    await settle()
    assert not waiting.done()

    one.let_go.set()
    await waiting

    assert len(flights) == 1
    other.let_go.set()
    assert await asyncio.gather(*callers) == [7, 7]
    await flights.landed(lambda _: True)


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_value_is_remembered_for_its_lifetime_and_no_longer() -> None:
    clock = Clock()
    remembered = Remembered[str, int](5, clock=clock)

    remembered.put("x", 1)
    remembered.put("y", 2, lifetime=7)

    clock.now = 4.9
    assert (remembered.get("x"), remembered.get("y")) == (1, 2)
    clock.now = 5
    assert (remembered.get("x"), remembered.get("y")) == (None, 2)
    clock.now = 7
    assert (remembered.get("x"), remembered.get("y")) == (None, None)
    assert len(remembered) == 0


def test_a_value_put_anew_lives_anew() -> None:
    clock = Clock()
    remembered = Remembered[str, int](5, clock=clock)

    remembered.put("x", 1)
    clock.now = 3
    remembered.put("x", 2)
    clock.now = 7

    assert remembered.get("x") == 2


def test_a_forgotten_value_is_gone() -> None:
    remembered = Remembered[str, int](5)
    remembered.put("x", 1)

    remembered.forget("x")
    remembered.forget("never put")

    assert remembered.get("x") is None


def test_values_of_some_keys_are_forgotten_and_those_of_others_are_not() -> None:
    remembered = Remembered[tuple[str, int], int](5)
    for key in (("x", 1), ("y", 1), ("x", 2)):
        remembered.put(key, key[1])

    remembered.forget_where(lambda key: key[0] == "x")

    assert remembered.get(("y", 1)) == 1
    assert len(remembered) == 1


def test_no_lifetime_remembers_nothing() -> None:
    remembered = Remembered[str, int](0)

    remembered.put("x", 1)

    assert remembered.get("x") is None


@given(
    keys=st.lists(st.integers(0, 9)),
    most=st.integers(0, 4),
    reads=st.sets(st.integers(0, 9)),
)
def test_the_oldest_make_room(keys: list[int], most: int, reads: set[int]) -> None:
    remembered = Remembered[int, int](5, most, clock=Clock())

    for key in keys:
        remembered.put(key, -key)
        for read in reads:
            remembered.get(read)

    newest = list(dict.fromkeys(reversed(keys)))[:most]
    assert len(remembered) == len(newest)
    assert [remembered.get(key) for key in newest] == [-key for key in newest]
