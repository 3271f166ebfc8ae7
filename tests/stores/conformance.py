"""What `Store` promises, as one suite: a store's tests derive a class from it."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from image_repo.stores.store import MAX_KEY, Listed, Store, Stored

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]

HOSTILE = [
    "x", "X", "x/y", "x/y/z", "x-y", "x0", "x.o", "x.d", "x.c", "x.d/y", ".o",
    ".hidden", "~", "a b", "a%20b", "a%2fb", "a%2Fb", "..x", "...", "x..", "tmp",
    "../../etc/passwd", "con", "nul.jpg", "-rf", "@2x+", "back\\slash", "quote'\"",
    "\u00e9", "e\u0301", "\u65e5\u672c/\u8a9e", "\U0001f600", "?query#fragment", "*",
    "line\u2028separator",
]  # fmt: skip
LONG = [
    "n" * 700,
    "N" * 700,
    "\u00e9" * 350,
    "\U0001f600" * 175,
    "/".join(["\u65e5" * 20] * 11),
    "a/" * 349 + "ab",
    "\u00e9" * 350 + "/_/0123456789abcdef/" + "w_400-" * 41 + "h.webp",
    "n" * MAX_KEY,
    "A/" * 511 + "AB",
]

_segments = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/"), min_size=1
)
_keys = (
    st.lists(_segments | st.sampled_from(["_", "x", "X"]), min_size=1, max_size=4)
    .map("/".join)
    .filter(lambda key: len(key.encode()) <= MAX_KEY)
)


async def put(store: Store, key: str, body: bytes = b"body", **metadata: str) -> Stored:
    """Put *body* as a jpg."""
    return await store.put(
        key, io.BytesIO(body), media_type="image/jpeg", metadata=metadata
    )


async def body_of(store: Store, key: str) -> bytes | None:
    """Return the body; None: there is no such object."""
    found = await store.fetch(key)
    if found is None:
        return None
    with found:
        return await found.read()


async def look(store: Store, key: str) -> tuple[bytes, str] | None:
    """Return the body and its metadatum `letter`, as one look at it gives them."""
    found = await store.fetch(key)
    if found is None:
        return None
    with found:
        return await found.read(), found.stored.metadata["letter"]


async def keys(
    store: Store, prefix: str = "", after: str = "", limit: int | None = None
) -> list[str]:
    """Return what the store lists."""
    return [key async for key in store.list(prefix, after, limit)]


async def entries(
    store: Store, prefix: str = "", after: str = "", limit: int | None = None
) -> list[Listed]:
    """Return what the store lists, with what it says of each."""
    return [entry async for entry in store.entries(prefix, after, limit)]


class StoreSuite:
    """Every promise of `Store`; a subclass gives the store."""

    @pytest.fixture
    def opened(self) -> OpenStore:
        """Open a new, empty store each time it is called."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, opened: OpenStore) -> AsyncIterator[Store]:
        async with opened() as store:
            yield store

    async def test_what_was_put_is_fetched_with_all_that_is_known_of_it(
        self, store: Store
    ) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)

        put_ = await put(store, "site/plot", b"bytes", colour="r\u00f6t 100%41")

        found = await store.fetch("site/plot")
        assert found is not None
        with found:
            assert await found.read() == b"bytes"
            assert found.stored == put_ == await store.head("site/plot")
        assert (put_.key, put_.size, put_.media_type) == ("site/plot", 5, "image/jpeg")
        assert put_.metadata == {"colour": "r\u00f6t 100%41"}
        assert before <= put_.modified <= datetime.now(UTC) + timedelta(seconds=1)

    async def test_an_object_that_was_never_put_is_none(self, store: Store) -> None:
        await put(store, "x/y")

        assert await store.head("x") is None
        assert await store.fetch("x") is None
        assert await store.fetch("x/y/z") is None
        assert await store.delete("x") is False

    async def test_the_file_of_an_object_is_one_of_the_system_with_the_body_in_front(
        self, store: Store
    ) -> None:
        await put(store, "x", b"0123456789")

        found = await store.fetch("x")

        assert found is not None
        with found:
            assert found.size == 10
            assert found.file.tell() == 0
            assert os.pread(found.file.fileno(), found.size, 0) == b"0123456789"
            assert found.file.read(4) == b"0123"
            assert [chunk async for chunk in found.chunks(4)] == [
                b"0123",
                b"4567",
                b"89",
            ]
        assert found.file.closed

    @pytest.mark.parametrize("size", [0, 1, 2**18, 2**18 + 1, 2**21])
    async def test_bodies_of_any_size_come_back(self, store: Store, size: int) -> None:
        body = os.urandom(size)

        stored = await put(store, "x", body)

        assert stored.size == size
        assert await body_of(store, "x") == body

    async def test_all_of_the_body_is_put_wherever_its_file_stands(
        self, store: Store
    ) -> None:
        body = io.BytesIO(b"0123456789")
        body.seek(5)

        await store.put("x", body, media_type="image/png")

        assert await body_of(store, "x") == b"0123456789"
        assert not body.closed

    async def test_a_put_replaces_body_media_type_and_metadata(
        self, store: Store
    ) -> None:
        await put(store, "x", b"first", old="yes")

        await store.put("x", io.BytesIO(b"second!"), media_type="image/png")

        stored = await store.head("x")
        assert stored is not None
        assert (stored.size, stored.media_type, stored.metadata) == (7, "image/png", {})
        assert await body_of(store, "x") == b"second!"
        assert await keys(store) == ["x"]

    async def test_another_body_has_another_revision(self, store: Store) -> None:
        first = await put(store, "x", b"first")
        second = await put(store, "x", b"other")

        assert first.revision
        assert first.revision != second.revision

    async def test_the_revision_of_bytes_can_be_told_before_they_are_put(
        self, store: Store
    ) -> None:
        body = io.BytesIO(os.urandom(300_000))
        body.seek(7)

        told = store.revision_of(body)

        stored = await store.put("x", body, media_type="image/png")
        assert told == stored.revision

    async def test_an_object_with_a_lifetime_is_kept_at_least_as_long(
        self, store: Store
    ) -> None:
        before = datetime.now(UTC)

        put_ = await store.put(
            "x", io.BytesIO(b"body"), media_type="image/png", lifetime=60
        )

        seen = await store.head("x")
        assert seen is not None
        assert replace(seen, expires=None) == replace(put_, expires=None)
        for ends in (put_.expires, seen.expires):
            assert ends is None or ends >= before + timedelta(seconds=58)
        assert await body_of(store, "x") == b"body"
        assert (await put(store, "x")).expires is None
        again = await store.head("x")
        assert again is not None
        assert again.expires is None

    async def test_an_open_object_stays_what_it_was_when_replaced_or_deleted(
        self, store: Store
    ) -> None:
        first = await put(store, "x", b"first" * 100_000)
        found = await store.fetch("x")
        assert found is not None

        await put(store, "x", b"second")
        await store.delete("x")

        with found:
            assert found.stored == first
            assert await found.read() == b"first" * 100_000

    async def test_a_deleted_object_is_gone_and_its_neighbours_are_not(
        self, store: Store
    ) -> None:
        for key in ("x", "x/y", "x/y/z"):
            await put(store, key, key.encode())

        assert await store.delete("x/y") is True

        assert await store.delete("x/y") is False
        assert await store.head("x/y") is None
        assert await keys(store) == ["x", "x/y/z"]
        assert await body_of(store, "x/y/z") == b"x/y/z"
        await store.delete("x/y/z")
        await store.delete("x")
        assert await keys(store) == []

    async def test_hostile_keys_are_all_different_objects(self, store: Store) -> None:
        for key in HOSTILE:
            await put(store, key, key.encode())

        assert await keys(store) == sorted(HOSTILE, key=str.encode)
        for key in HOSTILE:
            assert await body_of(store, key) == key.encode()

    @pytest.mark.parametrize("key", LONG, ids=range(len(LONG)))
    async def test_keys_as_long_as_allowed_come_back(
        self, store: Store, key: str
    ) -> None:
        await put(store, key, b"long")

        assert await body_of(store, key) == b"long"
        assert await keys(store) == [key]
        assert await keys(store, key[:-1]) == [key]
        assert await store.delete(key)
        assert await keys(store) == []

    @pytest.mark.parametrize("key", ["", "n" * (MAX_KEY + 1), "\u00e9" * 513, "\ud800"])
    async def test_what_can_be_no_key_is_refused(self, store: Store, key: str) -> None:
        with pytest.raises(ValueError, match=r"key|surrogates"):
            await store.head(key)
        with pytest.raises(ValueError, match=r"key|surrogates"):
            await store.fetch(key)
        with pytest.raises(ValueError, match=r"key|surrogates"):
            await put(store, key)
        with pytest.raises(ValueError, match=r"key|surrogates"):
            await store.delete(key)

    @pytest.mark.parametrize("word", ["", "Colour", "a_b", "-a", "a:b", "\u00e9"])
    async def test_metadata_has_plain_words(self, store: Store, word: str) -> None:
        with pytest.raises(ValueError, match="metadata"):
            await store.put(
                "x", io.BytesIO(b""), media_type="image/png", metadata={word: "1"}
            )

        assert await store.head("x") is None

    async def test_a_listing_has_the_order_of_utf8_bytes(self, store: Store) -> None:
        some = ["x/y", "x0", "x", "x-y", "x.y", "\u00e9", "x/", "\U0001f600", "\uffee"]
        for key in some:
            await put(store, key)

        listed = await keys(store)

        assert listed == sorted(some, key=str.encode)

    @pytest.mark.parametrize(
        ("prefix", "after", "limit", "expected"),
        [
            ("", "", 0, []),
            ("", "", 2, ["a", "a/b"]),
            ("a", "", None, ["a", "a/b", "a/b/c", "a/d", "a0"]),
            ("a/", "", None, ["a/b", "a/b/c", "a/d"]),
            ("a/b", "", None, ["a/b", "a/b/c"]),
            ("a/b/", "", None, ["a/b/c"]),
            ("a/b/c/", "", None, []),
            ("q/w/e", "", None, []),
            ("", "a", None, ["a/b", "a/b/c", "a/d", "a0", "b"]),
            ("", "a/b", None, ["a/b/c", "a/d", "a0", "b"]),
            ("", "a/bb", None, ["a/d", "a0", "b"]),
            ("", "a/", 1, ["a/b"]),
            ("a/", "a/b", 1, ["a/b/c"]),
            ("a", "a/z", None, ["a0"]),
            ("", "z", None, []),
            ("n" * 2000, "", None, []),
        ],
    )
    async def test_a_listing_is_cut_by_prefix_after_and_limit(
        self,
        store: Store,
        prefix: str,
        after: str,
        limit: int | None,
        expected: list[str],
    ) -> None:
        for key in ("b", "a/d", "a/b/c", "a", "a/b", "a0"):
            await put(store, key)

        assert await keys(store, prefix, after, limit) == expected
        listed = await entries(store, prefix, after, limit)
        assert [entry.key for entry in listed] == expected

    async def test_a_listing_says_the_size_and_date_of_what_is_there(
        self, store: Store
    ) -> None:
        for key in HOSTILE:
            await put(store, key, b"first")
        for size, key in enumerate(HOSTILE):
            await put(store, key, bytes(size))

        listed = await entries(store)

        assert [entry.key for entry in listed] == sorted(HOSTILE, key=str.encode)
        for entry in listed:
            stored = await store.head(entry.key)
            assert stored is not None
            assert entry.size == stored.size == HOSTILE.index(entry.key)
            assert abs(entry.modified - stored.modified) <= timedelta(seconds=1)

    async def test_a_listing_goes_on_over_many_pages(self, store: Store) -> None:
        some = [f"many/{n:04}" for n in range(1203)]
        await asyncio.gather(*(put(store, key) for key in some))

        assert await keys(store) == some
        assert await keys(store, "many/", "many/1199") == some[1200:]
        assert [entry.key for entry in await entries(store)] == some

    async def test_an_object_of_a_reader_is_always_one_whole_revision(
        self, store: Store
    ) -> None:
        bodies = [bytes([65 + n]) * (70_000 + n) for n in range(4)]

        async def write(body: bytes) -> None:
            for turn in range(10):
                await put(store, "a/b", body, letter=chr(body[0]))
                if turn % 3 == 0:
                    await store.delete("a/b")

        async def read() -> None:
            for _ in range(40):
                seen = await look(store, "a/b")
                assert seen is None or seen[0] in bodies
                assert seen is None or seen[1] == chr(seen[0][0])
                assert await keys(store) in ([], ["a/b"])

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for body in bodies:
                group.create_task(write(body))
            for _ in range(3):
                group.create_task(read())

        await put(store, "a/b", b"end")
        assert await body_of(store, "a/b") == b"end"

    async def test_puts_and_deletes_side_by_side_do_not_disturb_each_other(
        self, store: Store
    ) -> None:
        async def come_and_go(key: str) -> None:
            for _ in range(15):
                await put(store, key, key.encode())
                assert await body_of(store, key) == key.encode()
                assert await store.delete(key)
                assert await store.head(key) is None

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for key in ("d/e/f", "d/e/g", "d/e", "d", "d/h"):
                group.create_task(come_and_go(key))

        assert await keys(store) == []

    @settings(
        max_examples=25,
        deadline=None,
        database=None,  # the subclasses would share one
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.differing_executors,
        ],
    )
    @given(
        some=st.sets(_keys, max_size=6),
        cut=st.tuples(_keys, _keys),
        limit=st.none() | st.integers(0, 4),
    )
    async def test_any_keys_come_back_and_are_listed_as_a_sorted_list_would(
        self, opened: OpenStore, some: set[str], cut: tuple[str, str], limit: int | None
    ) -> None:
        prefix, after = cut[0][:1], cut[1]
        async with opened() as store:
            for key in some:
                await put(store, key, key.encode())

            for key in some:
                assert await body_of(store, key) == key.encode()
            in_order = sorted(some, key=str.encode)
            assert await keys(store) == in_order
            assert (
                await keys(store, prefix, after, limit)
                == [
                    key
                    for key in in_order
                    if key.startswith(prefix) and key.encode() > after.encode()
                ][:limit]
            )
            for key in some:
                assert await store.delete(key)
            assert await keys(store) == []
