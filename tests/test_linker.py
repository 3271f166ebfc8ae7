"""Links are given when what they lead to is stored, and for long enough."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import BinaryIO

import pytest
import pytest_asyncio
from services import Bench, X, derived, open_bench, plain, seen

from image_repo import linker, names
from image_repo.errors import BusyError, StoreError, UnknownImageError
from image_repo.linker import Linker, Terms
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Stored
from image_repo.transform.pool import Pool

START = 1_000_000.0


class Ageing(MemoryStore):
    """The store of a bench's derived images, which forgets in time and counts."""

    def __init__(self, bench: Bench[MemoryStore]) -> None:
        super().__init__()
        self._objects = bench.kept._objects
        self._ends: dict[str, float] = {}
        self.time = START
        self.heads: list[str] = []
        self.puts: list[str] = []
        self.gate: asyncio.Event | None = None
        self.noticed: Callable[[], None] = lambda: None
        self.broken = False

    def clock(self) -> float:
        return self.time

    async def head(self, key: str) -> Stored | None:
        self.heads.append(key)
        if self.broken:
            raise StoreError("the store is broken")
        found = await super().head(key)
        end = self._ends.get(key)
        if found is None or (end is not None and end <= self.time):
            return None
        ends = None if end is None else datetime.fromtimestamp(end, UTC)
        return replace(found, expires=ends)

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        if self.gate is not None:
            await self.gate.wait()
        self.puts.append(key)
        self.noticed()
        self._ends.pop(key, None)
        if lifetime is not None:
            self._ends[key] = self.time + lifetime
        return await super().put(key, body, media_type=media_type, metadata=metadata)


class PlainSigner:
    """Makes links that say what they are."""

    async def link(self, key: str, expires: int, filename: str) -> str:
        return f"{key} {expires} {filename}"

    async def rotate(self) -> None:
        raise NotImplementedError


@dataclass
class Desk:
    bench: Bench[MemoryStore]
    store: Ageing
    linker: Linker

    async def object(self) -> tuple[int, ...]:
        """Return the colour of the one derived image that is stored."""
        (key,) = await self.bench.kept_keys()
        found = await self.store.fetch(key)
        assert found is not None
        with found:
            return seen(await found.read())

    async def forgotten(self) -> None:
        """Let the store lose everything, as one that doesn't keep its promise."""
        await self.bench.kept_keys()  # what is still to be written is
        self.store._objects.clear()


@asynccontextmanager
async def desk_for(bench: Bench[MemoryStore], terms: Terms) -> AsyncIterator[Desk]:
    store = Ageing(bench)
    service = bench.service
    async with Linker(
        service.derivations,
        service.revisions,
        store,
        PlainSigner(),
        terms,
        now=store.clock,
    ) as made:
        yield Desk(bench, store, made)


@pytest_asyncio.fixture
async def bench(pool: Pool) -> AsyncIterator[Bench[MemoryStore]]:
    async with open_bench(MemoryStore(), pool) as bench:
        await bench.put(plain("red"))
        yield bench


@pytest_asyncio.fixture
async def desk(bench: Bench[MemoryStore]) -> AsyncIterator[Desk]:
    async with desk_for(bench, Terms(lifetime=3600, slack=600)) as made:
        yield made


async def test_a_link_leads_to_the_stored_image_and_says_when_it_ends(
    desk: Desk,
) -> None:
    link = await desk.linker.link(derived())

    key = names.stored_key(derived(), await desk.bench.service.tag(X))
    assert link.url == f"{key} {int(link.expires.timestamp())} x.png"
    assert 3600 <= link.expires.timestamp() - START <= 4200
    assert desk.store.puts == [key]
    assert await desk.object() == (255, 0, 0)


async def test_fifty_who_ask_at_once_cost_one_derivation_and_one_write(
    desk: Desk,
) -> None:
    links = await asyncio.gather(*(desk.linker.link(derived()) for _ in range(50)))

    assert len(set(links)) == len(desk.store.heads) == len(desk.store.puts) == 1
    assert desk.bench.service.found == {"none": 1}


async def test_what_is_stored_already_is_neither_derived_nor_written(
    desk: Desk,
) -> None:
    await desk.bench.service.derivations.get(derived())
    await desk.bench.kept_keys()
    found = desk.bench.service.found

    await desk.linker.link(derived())

    assert desk.store.puts == []
    assert desk.bench.service.found == found


async def test_the_store_is_not_asked_again_for_what_is_known_to_be_there(
    desk: Desk,
) -> None:
    first = await desk.linker.link(derived())
    desk.store.broken = True

    assert await desk.linker.link(derived()) == first


async def test_a_later_request_gets_a_later_end(desk: Desk) -> None:
    first = await desk.linker.link(derived())
    desk.store.time += 600

    later = await desk.linker.link(derived())

    assert (later.expires - first.expires).total_seconds() == 600
    assert len(desk.store.puts) == 1


@pytest.mark.parametrize("slack", [0, 600])
@pytest.mark.parametrize("kept_for", [1, 4200, 100_000])
async def test_what_is_stored_outlives_every_link_to_it(
    bench: Bench[MemoryStore], slack: int, kept_for: int
) -> None:
    terms = Terms(lifetime=3600, slack=slack, kept_for=kept_for)
    async with desk_for(bench, terms) as desk:
        for _ in range(40):
            link = await desk.linker.link(derived())
            desk.store.time += 400
            stored = await desk.store.head(desk.store.puts[0])

            assert stored is not None
            assert stored.expires is not None
            left = stored.expires - link.expires
            assert left.total_seconds() >= linker.MARGIN

        assert len(desk.store.puts) <= 5


async def test_an_object_that_ends_too_early_is_stored_again(desk: Desk) -> None:
    key = names.stored_key(derived(), await desk.bench.service.tag(X))
    body = io.BytesIO(plain("red"))
    await desk.store.put(key, body, media_type="image/png", lifetime=3600)

    await desk.linker.link(derived())

    stored = await desk.store.head(key)
    assert desk.store.puts == [key, key]
    assert stored is not None
    assert stored.expires is None


@pytest.mark.parametrize("change", ["purge", "put"])
async def test_a_change_of_the_image_makes_it_forget(desk: Desk, change: str) -> None:
    await desk.linker.link(derived())
    if change == "purge":
        await desk.bench.service.purge(X)
    else:
        await desk.bench.put(plain("blue"))
    assert await desk.bench.kept_keys() == []

    await desk.linker.link(derived())

    expected = (255, 0, 0) if change == "purge" else (0, 0, 255)
    assert await desk.object() == expected


async def test_an_image_that_is_deleted_has_no_link_any_more(desk: Desk) -> None:
    await desk.linker.link(derived())
    await desk.bench.delete()

    with pytest.raises(UnknownImageError):
        await desk.linker.link(derived())


async def test_a_change_of_another_image_is_no_reason_to_ask_again(desk: Desk) -> None:
    await desk.linker.link(derived())
    desk.bench.service.revisions.doubted(names.image_name("y"))

    await desk.linker.link(derived())

    assert len(desk.store.heads) == 1


@pytest.mark.parametrize("change", ["purge", "put", "delete"])
async def test_what_changes_while_it_is_stored_is_stored_as_it_is_now_or_not(
    desk: Desk, change: str
) -> None:
    desk.store.gate = asyncio.Event()
    asked = asyncio.create_task(desk.linker.link(derived()))
    await desk.bench.kept_keys()
    if change == "purge":
        await desk.bench.service.purge(X)
    elif change == "put":
        await desk.bench.put(plain("blue"))
    else:
        await desk.bench.delete()

    desk.store.gate.set()

    if change == "delete":
        with pytest.raises(UnknownImageError):
            await asked
        assert await desk.bench.kept_keys() == []
    else:
        await asked
        expected = (255, 0, 0) if change == "purge" else (0, 0, 255)
        assert await desk.object() == expected


async def test_an_image_that_keeps_changing_is_said_to_be_busy(desk: Desk) -> None:
    desk.store.noticed = lambda: desk.bench.service.revisions.doubted(X)

    with pytest.raises(BusyError):
        await desk.linker.link(derived())

    assert len(desk.store.puts) == linker.TRIES
    assert await desk.bench.kept_keys() == []


async def test_who_leaves_does_not_stop_what_others_wait_for(desk: Desk) -> None:
    desk.store.gate = asyncio.Event()
    leaving = asyncio.create_task(desk.linker.link(derived()))
    staying = asyncio.create_task(desk.linker.link(derived()))
    await asyncio.sleep(0.05)
    leaving.cancel()
    await asyncio.sleep(0)

    desk.store.gate.set()

    assert (await staying).url
    assert len(desk.store.puts) == 1


async def test_a_store_that_fails_gives_no_link(desk: Desk) -> None:
    desk.store.broken = True

    with pytest.raises(StoreError):
        await desk.linker.link(derived())


async def test_knowledge_is_not_kept_for_ever(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.linker.link(derived())
    await desk.forgotten()
    later = desk.linker._known._clock() + linker.KNOWN_SECONDS
    monkeypatch.setattr(desk.linker._known, "_clock", lambda: later)

    await desk.linker.link(derived())

    assert await desk.object() == (255, 0, 0)
