"""Changes on a store that lags, or that does not say what became of them."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Mapping
from typing import BinaryIO

import pytest
import pytest_asyncio
from services import Bench, X, derived, open_bench, plain, seen
from stores.lagging import LaggingStore

from image_repo import changes, names
from image_repo.errors import StoreError, UnknownImageError
from image_repo.names import Revision
from image_repo.service import ServiceOptions
from image_repo.stores.store import Stored
from image_repo.transform.pool import Pool

RED, GREEN, BLUE = (255, 0, 0), (0, 128, 0), (0, 0, 255)
SHADES = {"red": RED, "green": GREEN, "blue": BLUE}


class Doubtful(LaggingStore):
    """A store that lags; and fails a write when it is told to, which may land later."""

    failing = False
    body = b""

    async def put(
        self,
        key: str,
        body: BinaryIO,
        *,
        media_type: str,
        metadata: Mapping[str, str] | None = None,
        lifetime: int | None = None,
    ) -> Stored:
        if not self.failing:
            return await super().put(
                key, body, media_type=media_type, metadata=metadata, lifetime=lifetime
            )
        body.seek(0)
        self.body = body.read()
        raise StoreError("the store does not answer in time")

    async def delete(self, key: str) -> bool:
        if not self.failing:
            return await super().delete(key)
        raise StoreError("the store does not answer in time")

    async def land(self) -> None:
        """Do what had not been done in time."""
        self.failing = False
        await self.put(X, io.BytesIO(self.body), media_type="image/png")


@pytest_asyncio.fixture
async def bench(pool: Pool) -> AsyncIterator[Bench[Doubtful]]:
    # Each question is asked of the store.
    options = ServiceOptions(revision_lifetime=0)
    async with open_bench(Doubtful(), pool, options) as bench:
        yield bench


async def shade_of(bench: Bench[Doubtful]) -> tuple[tuple[int, ...], bool]:
    """Return the colour that is answered, and whether it may be kept by caches."""
    answer = await bench.service.derivations.get(derived())
    return seen(answer.derived.body), answer.lasting


async def check_kept(bench: Bench[Doubtful], *allowed: str) -> None:
    """Check that all that is kept is of *allowed* shades, each under its own tag."""
    tags = {
        bench.service._revisions.tag_of(
            Revision(bench.originals.revision_of(io.BytesIO(plain(shade))))
        ): SHADES[shade]
        for shade in allowed
    }
    for key in await bench.kept_keys():
        tag = names.read_tag(key.split("/")[-2])
        found = await bench.kept.fetch(key)
        assert tag is not None
        assert found is not None
        with found:
            assert seen(await found.read()) == tags[tag]


@pytest.mark.parametrize(
    ("heads", "fetches"), [(0, 1), (1, 0), (1, 1), (2, 1), (9, 1), (9, 0)]
)
async def test_a_short_lag_after_our_put_is_not_seen(
    bench: Bench[Doubtful], heads: int, fetches: int
) -> None:
    await bench.put(plain("red"))
    assert await shade_of(bench) == (RED, True)
    old = bench.originals.state()
    await bench.put(plain("blue"))
    bench.originals.lag(old, heads=heads, fetches=fetches)

    assert await shade_of(bench) == (BLUE, True)

    assert len(await bench.kept_keys()) == 1
    await check_kept(bench, "blue")


async def test_old_bytes_after_our_put_are_kept_by_no_cache(
    bench: Bench[Doubtful],
) -> None:
    await bench.put(plain("red"))
    tag = await bench.service.tag(X)
    old = bench.originals.state()
    await bench.put(plain("blue"))
    bench.originals.lag(old)

    answer = await bench.service.derivations.get(derived())

    assert (seen(answer.derived.body), answer.lasting) == (RED, False)
    assert answer.tag == tag != await bench.service.tag(X)
    await check_kept(bench, "red")

    bench.originals.catch_up()
    assert await shade_of(bench) == (BLUE, True)
    assert (await bench.service.derivations.get(derived())).source == "memory"
    await check_kept(bench, "red", "blue")


async def test_a_new_image_that_the_store_lacks_is_an_error_and_no_404(
    bench: Bench[Doubtful],
) -> None:
    await bench.put(plain("red"))
    bench.originals.lag({})

    with pytest.raises(StoreError, match="yet"):
        await bench.service.derivations.get(derived())
    with pytest.raises(StoreError, match="yet"):
        await bench.service.tag(X)

    bench.originals.lag({}, heads=0)
    with pytest.raises(StoreError, match="yet"):
        await bench.service.derivations.get(derived())

    bench.originals.catch_up()
    assert await shade_of(bench) == (RED, True)


async def test_lag_does_not_let_an_image_be_made_twice(
    bench: Bench[Doubtful],
) -> None:
    found: list[Revision | None] = []
    await bench.put(plain("red"))
    await bench.delete()
    old = bench.originals.state()
    await bench.put(plain("blue"))
    bench.originals.lag(old, heads=1)

    await bench.put(plain("green"), allowed=found.append)

    assert found != [None]


async def test_a_deleted_image_that_the_store_still_tells_is_a_404(
    bench: Bench[Doubtful],
) -> None:
    await bench.put(plain("red"))
    await shade_of(bench)
    old = bench.originals.state()
    await bench.delete()
    bench.originals.lag(old)

    with pytest.raises(UnknownImageError):
        await bench.service.derivations.get(derived())
    with pytest.raises(UnknownImageError):
        await bench.service.describe(X)

    assert await bench.kept_keys() == []


async def test_bytes_that_come_back_are_served_again(bench: Bench[Doubtful]) -> None:
    await bench.put(plain("red"))
    first = bench.originals.state()
    await bench.put(plain("blue"))
    second = bench.originals.state()
    await bench.put(plain("red"))

    bench.originals.lag(first)
    assert await shade_of(bench) == (RED, True)
    bench.originals.lag(second, fetches=1)
    assert await shade_of(bench) == (RED, True)

    await check_kept(bench, "red")


async def test_a_change_by_another_server_is_served_and_kept(
    bench: Bench[Doubtful],
) -> None:
    await bench.put(plain("red"))
    await bench.put(plain("blue"))
    body = io.BytesIO(plain("red"))
    await bench.originals.put(X, body, media_type="image/png")

    assert await shade_of(bench) == (RED, True)
    await check_kept(bench, "red")


async def test_an_original_that_vanishes_between_two_questions_is_a_404(
    bench: Bench[Doubtful],
) -> None:
    body = io.BytesIO(plain("red"))
    await bench.originals.put(X, body, media_type="image/png")  # by another server
    bench.originals.lag(bench.originals.state(), heads=1, fetches=0)
    await bench.originals.delete(X)

    with pytest.raises(UnknownImageError):
        await bench.service.derivations.get(derived())


# Writes of which it is not known what became of them


async def fail_to_put(bench: Bench[Doubtful], shade: str) -> None:
    bench.originals.failing = True
    with pytest.raises(StoreError):
        await bench.put(plain(shade))


async def purges(bench: Bench[Doubtful], pause: float) -> int:
    """Return how often nginx was purged during a pause."""
    before = len(bench.nginx.purged)
    await asyncio.sleep(pause)
    return len(bench.nginx.purged) - before


async def test_a_put_that_lands_after_it_failed_is_purged(
    bench: Bench[Doubtful], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LATE_LOOKS", (0.1, 0.1, 0.1))
    await bench.put(plain("red"))
    await fail_to_put(bench, "blue")
    assert len(bench.nginx.purged) == 2
    assert await shade_of(bench) == (RED, True)
    assert await purges(bench, 0.15) == 0

    await bench.originals.land()

    assert await purges(bench, 0.3) >= 1
    assert await shade_of(bench) == (BLUE, True)
    assert bench.service._changes._watches == {}


async def test_a_delete_that_fails_is_purged_and_again_when_it_lands(
    bench: Bench[Doubtful], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LATE_LOOKS", (0.1, 0.1))
    await bench.originals.put(X, io.BytesIO(plain("red")), media_type="image/png")
    bench.originals.failing = True
    with pytest.raises(StoreError):
        await bench.delete()
    assert len(bench.nginx.purged) == 1
    assert await shade_of(bench) == (RED, True)

    bench.originals.failing = False
    await bench.originals.delete(X)

    assert await purges(bench, 0.3) >= 1
    assert await bench.kept_keys() == []


async def test_a_write_that_never_lands_is_looked_for_and_then_left_alone(
    bench: Bench[Doubtful], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LATE_LOOKS", (0.05, 0.05))
    await bench.put(plain("red"))
    await fail_to_put(bench, "blue")

    assert await purges(bench, 0.2) == 0
    assert bench.service._changes._watches == {}
    assert await shade_of(bench) == (RED, True)


async def test_the_next_change_that_is_sure_ends_the_looking(
    bench: Bench[Doubtful], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LATE_LOOKS", (0.1,))
    await bench.put(plain("red"))
    await fail_to_put(bench, "blue")
    await fail_to_put(bench, "blue")
    assert len(bench.service._changes._watches) == 1
    bench.originals.failing = False

    await bench.put(plain("green"))

    assert bench.service._changes._watches == {}
    assert await purges(bench, 0.2) == 0


async def test_a_look_that_fails_is_not_the_last(
    bench: Bench[Doubtful], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "LATE_LOOKS", (0.1, 0.1))
    await bench.put(plain("red"))
    await fail_to_put(bench, "blue")
    bench.originals.lag({}, fetches=0)  # what was put just now is not there
    await asyncio.sleep(0.15)
    bench.originals.catch_up()
    await bench.originals.land()

    assert await purges(bench, 0.15) == 1


async def test_a_delete_that_finds_nothing_where_something_was_is_no_success(
    bench: Bench[Doubtful],
) -> None:
    await bench.originals.put(X, io.BytesIO(plain("red")), media_type="image/png")
    bench.originals.lag(bench.originals.state(), heads=2)
    await bench.originals.delete(X)

    with pytest.raises(StoreError, match="did not find"):
        await bench.delete()
    with pytest.raises(UnknownImageError):
        await bench.delete()
