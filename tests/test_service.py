"""The rules between originals, caches, workers and nginx, with real workers."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio
from pictures import jpeg
from services import Bench, X, derived, open_bench, plain, seen

from image_repo import names
from image_repo.errors import BadImageError, StoreError, UnknownImageError
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Object, Stored
from image_repo.transform.pool import Pool


class Faulting(MemoryStore):
    """A store that waits or fails when it is told to."""

    gate: asyncio.Event | None = None
    broken = False
    heads = 0

    async def head(self, key: str) -> Stored | None:
        self.heads += 1
        await asyncio.sleep(0)
        if self.broken:
            raise StoreError("the store is broken")
        return await super().head(key)

    async def fetch(self, key: str) -> Object | None:
        found = await super().fetch(key)
        if self.gate is not None:
            await self.gate.wait()
        return found


@pytest_asyncio.fixture
async def bench(pool: Pool) -> AsyncIterator[Bench[Faulting]]:
    async with open_bench(Faulting(), pool) as bench:
        yield bench


async def test_the_store_is_asked_once_for_many_who_ask_at_once(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    bench.service._revisions.forget(X)
    heads = bench.originals.heads

    await asyncio.gather(*(bench.service.tag(X) for _ in range(100)))

    assert bench.originals.heads == heads + 1


async def test_an_image_replaced_during_its_derivation_comes_out_new(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    bench.originals.gate = asyncio.Event()
    before = asyncio.create_task(bench.service.derivations.get(derived()))
    await asyncio.sleep(0.05)
    await bench.put(plain("blue"))
    after = asyncio.create_task(bench.service.derivations.get(derived()))
    await asyncio.sleep(0.05)

    bench.originals.gate.set()

    assert seen((await before).derived.body) == (0, 0, 255)
    assert seen((await after).derived.body) == (0, 0, 255)
    tag = await bench.service.tag(X)
    assert await bench.kept_keys() == [names.stored_key(derived(), tag)]


async def test_an_image_deleted_during_its_derivation_leaves_nothing(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    bench.originals.gate = asyncio.Event()
    asked = asyncio.create_task(bench.service.derivations.get(derived()))
    await asyncio.sleep(0.05)
    await bench.service.delete(X, lambda _: None)

    bench.originals.gate.set()

    with pytest.raises(UnknownImageError):
        await asked
    assert await bench.kept_keys() == []


async def test_bytes_of_another_revision_than_remembered_get_their_own_tag(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    remembered = await bench.service.tag(X)
    await bench.originals.put(X, io.BytesIO(plain("blue")), media_type="image/png")

    answer = await bench.service.derivations.get(derived())

    assert seen(answer.derived.body) == (0, 0, 255)
    assert answer.lasting
    assert answer.tag != remembered
    assert await bench.kept_keys() == [names.stored_key(derived(), answer.tag)]


async def test_a_store_that_never_agrees_with_itself_is_not_cached(
    bench: Bench[Faulting], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Torn(Object):
        pass

    await bench.put(plain("red"))
    fetch = bench.originals.fetch

    async def other(key: str) -> Object | None:
        found = await fetch(key)
        assert found is not None
        return Torn(replace(found.stored, revision="elsewhere"), found.file)

    monkeypatch.setattr(bench.originals, "fetch", other)

    answer = await bench.service.derivations.get(derived())

    assert not answer.lasting
    assert await bench.kept_keys() == []


async def test_what_was_made_of_an_image_is_told_to_nginx_when_it_changes(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    tag = await bench.service.tag(X)
    await bench.service.derivations.get(derived())
    await asyncio.sleep(0.05)

    await bench.put(plain("blue"))

    assert bench.nginx.purged[-1] == (X, [names.stored_key(derived(), tag)])


async def test_a_change_waits_for_answers_that_are_leaving_and_purges_again(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    purges = len(bench.nginx.purged)
    with bench.service.sending(X, "/images/x/_/w_20.png"):
        change = asyncio.create_task(bench.service.purge(X))
        await asyncio.sleep(0.1)
        assert not change.done()

    await change

    assert len(bench.nginx.purged) == purges + 2
    assert bench.nginx.noted == ["/images/x/_/w_20.png"]


async def test_a_failing_store_fails_reading_and_readiness_but_not_for_long(
    bench: Bench[Faulting],
) -> None:
    await bench.put(plain("red"))
    bench.service._revisions.forget(X)
    bench.originals.broken = True

    with pytest.raises(StoreError):
        await bench.service.derivations.get(derived())
    with pytest.raises(StoreError):
        await bench.service.ready()

    bench.originals.broken = False
    assert (await bench.service.derivations.get(derived())).lasting
    await bench.service.ready()


async def test_an_image_that_cannot_be_derived_is_not_tried_again(
    bench: Bench[Faulting], pool: Pool
) -> None:
    await bench.originals.put(X, io.BytesIO(jpeg()[:-300]), media_type="image/jpeg")
    derivations = pool.derivations

    for _ in range(2):
        with pytest.raises(BadImageError):
            await bench.service.derivations.get(derived())

    assert pool.derivations <= derivations + 1
