"""Originals near at hand."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from image_repo.errors import StoreError
from image_repo.kept import KeptOriginals
from image_repo.lenient import RESTING
from image_repo.names import Revision, image_name
from image_repo.originals import Originals
from image_repo.quota import Bounds
from image_repo.shelf import Shelf
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Object, Stored

X = image_name("plots/x")
BOUNDS = Bounds(2**20, 100, 0)


class Far(MemoryStore):
    """A store that counts what is fetched, and may be slow or away."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched = 0
        self.away = False
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def fetch(self, key: str) -> Object | None:
        await self.let_go.wait()
        if self.away:
            raise StoreError("it is away")
        self.fetched += 1
        return await super().fetch(key)

    async def fill(self, body: bytes) -> Stored:
        return await self.put(
            X, io.BytesIO(body), media_type="image/png", metadata={"by": "somebody"}
        )


@pytest.fixture
def far() -> Far:
    return Far()


@asynccontextmanager
async def kept_from(
    far: Far, root: Path, bounds: Bounds = BOUNDS
) -> AsyncIterator[KeptOriginals]:
    async with Shelf(root, bounds) as shelf:
        yield KeptOriginals(Originals(far), shelf)


@pytest_asyncio.fixture
async def kept(far: Far, tmp_path: Path) -> AsyncIterator[KeptOriginals]:
    async with kept_from(far, tmp_path / "kept") as made:
        yield made


async def read(kept: KeptOriginals, stored: Stored) -> bytes:
    found = await kept.open(X, Revision(stored.revision))
    assert found is not None
    with found:
        assert found.stored == stored
        return await found.read()


async def test_ten_readers_of_one_original_fetch_it_once(
    kept: KeptOriginals, far: Far
) -> None:
    stored = await far.fill(b"original")

    bodies = await asyncio.gather(*(read(kept, stored) for _ in range(10)))
    bodies.append(await read(kept, stored))

    assert bodies == 11 * [b"original"]
    assert far.fetched == 1


async def test_an_original_is_still_there_after_a_restart(
    far: Far, tmp_path: Path
) -> None:
    stored = await far.fill(b"original")
    async with kept_from(far, tmp_path) as first:
        await read(first, stored)
        assert await first.is_near(X, Revision(stored.revision))

    far.away = True
    async with kept_from(far, tmp_path) as second:
        assert await read(second, stored) == b"original"


async def test_another_revision_is_never_given_for_the_one_that_is_asked(
    kept: KeptOriginals, far: Far
) -> None:
    old = await far.fill(b"old")
    await read(kept, old)
    new = await far.fill(b"new")

    assert await read(kept, new) == b"new"
    # What the store has now is given where it no longer has what is asked.
    await kept.forget(X)
    found = await kept.open(X, Revision(old.revision))
    assert found is not None
    with found:
        assert found.stored.revision == new.revision
    assert not await kept.is_near(X, Revision(old.revision))


async def test_what_the_store_lacks_is_none(kept: KeptOriginals) -> None:
    assert await kept.open(X, Revision("any")) is None


async def test_an_original_that_is_too_large_is_given_and_not_kept(
    far: Far, tmp_path: Path
) -> None:
    stored = await far.fill(bytes(5000))
    async with kept_from(far, tmp_path, Bounds(5000, 100, 0)) as kept:
        assert await read(kept, stored) == bytes(5000)
        assert not await kept.is_near(X, Revision(stored.revision))


async def test_a_disk_that_fails_costs_nothing_but_the_fetching(
    far: Far, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    stored = await far.fill(b"original")
    async with kept_from(far, tmp_path / "file" / "kept") as kept:
        assert await read(kept, stored) == b"original"
        before = far.fetched
        assert await read(kept, stored) == b"original"

    assert far.fetched == before + 1
    said = [m for m in caplog.messages if m.startswith("originals are not kept")]
    assert len(said) == 1
    assert f"{RESTING:g} s" in said[0]


async def test_an_original_deleted_while_it_was_fetched_is_not_kept(
    kept: KeptOriginals, far: Far
) -> None:
    stored = await far.fill(b"original")
    far.let_go.clear()
    reading = asyncio.create_task(read(kept, stored))
    await asyncio.sleep(0.05)
    await kept.forget(X)
    far.let_go.set()

    assert await reading == b"original"
    assert not await kept.is_near(X, Revision(stored.revision))


async def test_where_the_store_is_near_nothing_is_kept(far: Far) -> None:
    stored = await far.fill(b"original")
    kept = KeptOriginals(Originals(far))

    await read(kept, stored)
    await read(kept, stored)

    assert far.fetched == 2
    assert await kept.is_near(X, Revision(stored.revision))


async def test_a_store_that_is_away_is_an_error(kept: KeptOriginals, far: Far) -> None:
    stored = await far.fill(b"original")
    far.away = True

    with pytest.raises(StoreError, match="it is away"):
        await kept.open(X, Revision(stored.revision))


async def test_one_who_looked_before_it_was_brought_does_not_fetch_it_again(
    far: Far, tmp_path: Path
) -> None:
    stored = await far.fill(b"original")

    class Slow(Shelf):
        """Tells late of what it did not have when it was asked first."""

        asked = 0

        async def get(self, image: str, key: str) -> Object | None:
            found = await super().get(image, key)
            self.asked += 1
            if self.asked == 1:
                await asyncio.sleep(0.3)
            return found

    async with Slow(tmp_path / "kept", BOUNDS) as shelf:
        kept = KeptOriginals(Originals(far), shelf)
        await asyncio.gather(read(kept, stored), read(kept, stored))

    assert far.fetched == 1
