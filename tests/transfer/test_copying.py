"""Copying all originals between stores of different kinds."""

from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from transfer.fakes import Corrupting, Counting, Endless, Other, counts, said, silent

from image_repo.errors import ConfigError, StoreError
from image_repo.stores.disk import DirectoryStore
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import CHUNK, Object, Store, Stored
from image_repo.transfer.copying import (
    COPIED_FROM,
    Disk,
    Place,
    Swift,
    check_source,
    copy,
    read_place,
)
from image_repo.transfer.moving import Rules
from image_repo.transfer.progress import GIVE_UP, Progress

ONE = Rules(jobs=1)


async def fill(store: Store, **bodies: bytes) -> None:
    for key, body in bodies.items():
        await store.put(key, io.BytesIO(body), media_type="image/png")


async def body(store: Store, key: str) -> bytes:
    found = await store.fetch(key)
    assert found is not None
    with found:
        return await found.read()


def opened(kind: str, place: Path) -> AbstractAsyncContextManager[Store]:
    return DirectoryStore(place) if kind == "disk" else Other()


@pytest.mark.parametrize("source_kind", ["disk", "other"])
@pytest.mark.parametrize("target_kind", ["disk", "other"])
async def test_every_original_arrives_with_all_that_is_said_of_it(
    tmp_path: Path, source_kind: str, target_kind: str
) -> None:
    large = bytes(range(256)) * (CHUNK // 100)
    async with (
        opened(source_kind, tmp_path / "a") as source,
        opened(target_kind, tmp_path / "b") as target,
    ):
        await fill(source, x=b"x", large=large, empty=b"")
        await source.put(
            "plots/site 7.JPG",
            io.BytesIO(b"adopted"),
            media_type="image/jpeg",
            metadata={"uploaded-by": "me"},
        )
        progress = silent()

        await copy(source, target, progress)

        assert counts(progress) == {"copied": 4}
        assert progress.summary.status == 0
        assert await body(target, "large") == large
        assert await body(target, "empty") == b""
        assert await body(target, "plots/site 7.JPG") == b"adopted"
        stored = await target.head("plots/site 7.JPG")
        there = await source.head("plots/site 7.JPG")
        assert stored is not None
        assert there is not None
        assert stored.media_type == "image/jpeg"
        assert stored.metadata == {"uploaded-by": "me", COPIED_FROM: there.revision}


async def test_derived_images_are_left_out() -> None:
    source, target = MemoryStore(), Counting()
    await fill(source, x=b"x", **{"x/_/0123456789abcdef/w_4.jpg": b"d", "x/_y": b"y"})

    await copy(source, target, silent())

    assert sorted(target.puts) == ["x", "x/_y"]


async def test_a_second_run_fetches_nothing_and_puts_nothing() -> None:
    source, target = Counting(), Other()
    await fill(source, a=b"1", b=b"2", c=b"3")
    await copy(source, target, silent())
    source.fetches.clear()
    target.puts.clear()
    progress = silent()

    await copy(source, target, progress)

    assert counts(progress) == {"there": 3}
    assert (source.fetches, target.puts) == ([], [])


async def test_a_copy_is_known_in_the_place_that_it_came_from() -> None:
    home, away = Counting(), Other()
    await fill(home, a=b"1", b=b"2")
    await copy(home, away, silent())
    away.fetches.clear()
    progress = silent()

    await copy(away, home, progress)

    assert counts(progress) == {"there": 2}
    assert away.fetches == []


async def test_equal_bytes_that_came_another_way_are_known_by_their_checksum() -> None:
    source, target = Counting(), Other()
    await fill(source, a=b"1")
    await fill(target, a=b"1")
    target.puts.clear()
    progress = silent()

    await copy(source, target, progress)

    assert counts(progress) == {"there": 1}
    assert (source.fetches, target.puts) == (["a"], [])


async def test_what_is_different_in_the_target_stays_and_is_said() -> None:
    source, target = MemoryStore(), Counting()
    await fill(source, a=b"new", b=b"b")
    await fill(target, a=b"old")
    progress = silent()

    await copy(source, target, progress)

    assert counts(progress) == {"copied": 1, "conflict": 1}
    assert progress.summary.status == 1
    assert "conflict: 'a': " in said(progress)
    assert "--replace" in said(progress)
    assert await body(target, "a") == b"old"


async def test_what_is_different_is_overwritten_when_that_is_asked_for() -> None:
    source, target = MemoryStore(), Counting()
    await fill(source, a=b"new")
    await fill(target, a=b"old")
    progress = silent()

    await copy(source, target, progress, Rules(replace=True))

    assert counts(progress) == {"copied": 1}
    assert await body(target, "a") == b"new"


async def test_an_original_replaced_after_its_copy_is_a_conflict() -> None:
    source, target = MemoryStore(), Other()
    await fill(source, a=b"old")
    await copy(source, target, silent())
    await fill(source, a=b"new")
    progress = silent()

    await copy(source, target, progress)

    assert counts(progress) == {"conflict": 1}


async def test_a_dry_run_says_what_would_be_done_and_puts_nothing() -> None:
    source, target = MemoryStore(), Counting()
    await fill(source, a=b"123", b=b"b", c=b"new")
    await fill(target, b=b"b", c=b"old")
    target.puts.clear()
    careful, bold = silent(), silent()

    await copy(source, target, careful, Rules(dry_run=True))
    await copy(source, target, bold, Rules(dry_run=True, replace=True))

    assert counts(careful) == {"would": 1, "there": 1, "conflict": 1}
    assert counts(bold) == {"would": 2, "there": 1}
    assert "would copy: 'a'\n" in said(careful)
    assert "would copy: 'c': over other bytes" in said(bold)
    assert "would copy 1 (3 bytes)" in str(careful.summary)
    assert target.puts == []


@pytest.mark.parametrize("moment", ["before head", "before fetch"])
async def test_an_original_that_is_deleted_meanwhile_is_not_a_failure(
    moment: str,
) -> None:
    class Vanishing(Counting):
        async def head(self, key: str) -> Stored | None:
            found = await super().head(key)
            await self.delete(key)
            return None if moment == "before head" else found

    source, target, progress = Vanishing(), Counting(), silent()
    await fill(source, a=b"a")

    await copy(source, target, progress)

    assert counts(progress) == {"gone": 1}
    assert progress.summary.status == 0


async def test_an_original_that_is_replaced_meanwhile_arrives_whole() -> None:
    class Replaced(Counting):
        async def fetch(self, key: str) -> Object | None:
            await fill(self, a=b"new and longer")
            return await super().fetch(key)

    source, target, progress = Replaced(), Other(), silent()
    await fill(source, a=b"old")

    await copy(source, target, progress)

    assert await body(target, "a") == b"new and longer"
    later = silent()
    await copy(source, target, later)
    assert (counts(progress), counts(later)) == ({"copied": 1}, {"there": 1})


async def test_bytes_that_the_target_has_spoiled_are_found_and_removed() -> None:
    source, target, progress = MemoryStore(), Corrupting(), silent()
    await fill(source, a=b"abc")

    await copy(source, target, progress)

    assert counts(progress) == {"failed": 1}
    assert progress.summary.status == 1
    assert "failed: 'a': 'a' was stored as other bytes" in said(progress)
    assert await target.head("a") is None


async def test_one_object_that_fails_stops_no_other() -> None:
    source, target, progress = MemoryStore(), Counting(), silent()
    await fill(source, **{f"k{n:03}": b"%d" % n for n in range(50)})
    target.refused = {"k010", "k030"}

    await copy(source, target, progress)

    assert counts(progress) == {"copied": 48, "failed": 2}
    assert progress.summary.status == 1
    assert "failed: 'k010': cannot write 'k010': no space" in said(progress)


async def test_a_key_that_the_target_cannot_hold_stops_no_other() -> None:
    class Narrow(Counting):
        async def head(self, key: str) -> Stored | None:
            if len(key) > 3:
                raise ValueError("the key is too long")
            return await super().head(key)

    source, target, progress = MemoryStore(), Narrow(), silent()
    await fill(source, a=b"a", abcd=b"b", z=b"z")

    await copy(source, target, progress)

    assert counts(progress) == {"copied": 2, "failed": 1}


async def test_a_store_that_is_down_ends_the_whole() -> None:
    source, target, progress = Counting(), Counting(), silent()
    await fill(source, **{f"k{n:04}": b"%d" % n for n in range(1000)})
    target.down = True

    await copy(source, target, progress)

    assert GIVE_UP <= counts(progress)["failed"] <= GIVE_UP + 8
    assert f"{GIVE_UP} failures in a row" in progress.summary.stopped
    assert "does not answer" in progress.summary.stopped
    assert progress.summary.status == 1


async def test_a_listing_that_breaks_ends_the_whole_and_is_said() -> None:
    class Breaking(Counting):
        async def list(
            self, prefix: str = "", after: str = "", limit: int | None = None
        ) -> AsyncIterator[str]:
            async for key in super().list(prefix, after, limit):
                yield key
            raise StoreError("cannot list ''")

    source, target, progress = Breaking(), Counting(), silent()
    await fill(source, a=b"a")

    await copy(source, target, progress)

    assert target.puts == ["a"]
    assert progress.summary.stopped == "cannot list ''"
    assert progress.summary.status == 1


async def test_a_run_that_is_broken_off_is_taken_up_where_it_was() -> None:
    source, target, progress = Counting(), Other(), silent()
    await fill(source, **{f"k{n:02}": b"%d" % n for n in range(30)})
    target.takes = 10
    run = asyncio.create_task(copy(source, target, progress, ONE))
    await target.waiting.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    target.takes = sys.maxsize
    source.fetches.clear()
    later = silent()

    await copy(source, target, later)

    assert counts(progress) == {"copied": 10}
    assert counts(later) == {"there": 10, "copied": 20}
    assert len(source.fetches) == 20
    assert sorted(target.puts) == [f"k{n:02}" for n in range(30)]


@pytest.mark.parametrize("jobs", [1, 8])
async def test_the_listing_is_read_no_further_than_it_is_needed(jobs: int) -> None:
    source, target, progress = Endless(), Endless(), silent()
    run = asyncio.create_task(copy(source, target, progress, Rules(jobs=jobs)))
    while counts(progress).get("there", 0) < 50:
        await asyncio.sleep(0.001)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run

    assert len(source.listed) == 2  # one of them only counts
    assert min(source.listed) <= counts(progress)["there"] + jobs


async def test_no_more_are_under_way_at_once_than_are_asked_for() -> None:
    class Watched(Counting):
        now = most = 0

        async def head(self, key: str) -> Stored | None:
            self.now += 1
            self.most = max(self.most, self.now)
            await asyncio.sleep(0.001)
            self.now -= 1
            return await super().head(key)

    source, target = Counting(), Watched()
    await fill(source, **{f"k{n:02}": b"%d" % n for n in range(30)})

    await copy(source, target, silent(), Rules(jobs=3))

    assert target.most == 3


async def test_a_damaged_object_of_a_directory_is_said(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as source:
        await fill(source, a=b"a", b=b"b")
        (tmp_path / "objects" / "a.o").write_bytes(b"damaged")
        progress = silent()

        await copy(source, Counting(), progress)

    assert counts(progress) == {"copied": 1, "failed": 1}
    assert "is damaged" in said(progress)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("disk:/var/lib/images", Disk(Path("/var/lib/images"))),
        ("disk:a:b", Disk(Path("a:b"))),
        ("swift", Swift(None)),
        ("swift:originals", Swift("originals")),
    ],
)
def test_a_place_is_read(text: str, place: Place) -> None:
    assert read_place(text) == place


@pytest.mark.parametrize(
    "text",
    [
        "",
        "disk",
        "disk:",
        "swift:",
        "swift:a/b",
        "swift:..",
        "swift:" + "é" * 129,
        "Swift",
        "/var/lib",
        "s3:x",
    ],
)
def test_any_other_place_is_refused_with_those_that_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"disk:DIR, swift or swift:CONTAINER"):
        read_place(text)


async def test_a_directory_without_originals_is_no_source(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no originals in"):
        check_source(Disk(tmp_path))
    async with DirectoryStore(Disk(tmp_path).originals):
        check_source(Disk(tmp_path))
    check_source(Swift(None))


async def test_the_expected_number_becomes_known() -> None:
    source, progress = Counting(), Progress(io.StringIO())
    await fill(source, a=b"a", b=b"b", **{"a/_/t/full.jpg": b"d"})

    await copy(source, Counting(), progress)

    assert progress._total == 2
