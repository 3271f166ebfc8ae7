"""Originals by name: our own, and those that other tools have put."""

from __future__ import annotations

import asyncio
import io
import itertools
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import image_names, is_name

from image_repo import names
from image_repo.errors import StoreError
from image_repo.formats import FORMATS, by_extension
from image_repo.names import ImageName
from image_repo.originals import KEY_SECONDS, LISTED, Named, Originals
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Object, Stored

X = names.image_name("plots/x")
COMPOSED = names.image_name("caf\u00e9")
APART = "cafe\u0301"

EXTENSIONS = [word for row in FORMATS for word in row.extensions]


class Counting(MemoryStore):
    """Counts what it is asked, and refuses to delete what it is told to keep."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: Counter[str] = Counter()
        self.kept: str | None = None

    async def head(self, key: str) -> Stored | None:
        self.asked["head"] += 1
        return await super().head(key)

    async def fetch(self, key: str) -> Object | None:
        self.asked["fetch"] += 1
        return await super().fetch(key)

    async def delete(self, key: str) -> bool:
        if key == self.kept:
            raise StoreError("the store is broken")
        return await super().delete(key)

    async def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        self.asked["list"] += 1
        async for key in super().list(prefix, after, limit):
            yield key


class Bench:
    """Originals in a store, with a clock to set."""

    def __init__(self, *keys: str) -> None:
        self.now = 0.0
        self.store = Counting()
        self.originals = Originals(self.store, lambda: self.now)
        self._keys = keys

    async def __aenter__(self) -> Bench:
        for key in self._keys:
            await self.add(key)
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def add(self, key: str) -> None:
        """Put what another tool would."""
        await self.store.put(key, io.BytesIO(key.encode()), media_type="x/y")

    async def key_of(self, image: ImageName) -> str | None:
        """Return the key that answers, which head and fetch agree upon."""
        head = await self.originals.head(image)
        found = await self.originals.fetch(image)
        if found is None:
            assert head is None
            return None
        with found:
            assert found.stored == head
            assert await found.read() == found.stored.key.encode()
        return found.stored.key

    async def requests(self, image: ImageName) -> dict[str, int]:
        """Return what one head and one fetch ask of the store."""
        self.store.asked.clear()
        await self.key_of(image)
        return dict(self.store.asked)

    async def names(self) -> list[str]:
        return [name async for name in self.originals.names()]


async def test_our_own_upload_costs_one_request_a_question_and_no_listing() -> None:
    async with Bench() as bench:
        body = io.BytesIO(b"plots/x")
        stored = await bench.originals.put(X, body, media_type="image/png")

        assert stored.key == X
        assert await bench.requests(X) == {"head": 1, "fetch": 1}


@pytest.mark.parametrize("extension", [*EXTENSIONS, "JPG", "Png", "TIFF"])
async def test_a_key_with_any_known_extension_answers_to_the_name(
    extension: str,
) -> None:
    async with Bench(f"{X}.{extension}", f"{X}.txt", f"{X}.") as bench:
        assert await bench.key_of(X) == f"{X}.{extension}"


@pytest.mark.parametrize(
    "key",
    ["plots/x.1.jpg", "plots/x.jpg/y", "plots/xx.jpg", "plots/X.jpg", "plots/x.jpg~"],
)
async def test_what_only_looks_alike_does_not_answer(key: str) -> None:
    async with Bench(key) as bench:
        assert await bench.key_of(X) is None


async def test_the_bare_name_comes_first_and_then_the_order_of_the_table() -> None:
    order = [*(f"{X}.{word}" for word in EXTENSIONS)]
    async with Bench(*order[1:], X) as bench:
        assert await bench.key_of(X) == X
        await bench.store.delete(X)
        for key in order[1:]:
            assert await bench.key_of(X) == key
            await bench.store.delete(key)
        assert await bench.key_of(X) is None


async def test_an_adopted_original_is_listed_once_and_then_asked_for_directly() -> None:
    async with Bench(f"{X}.jpg") as bench:
        assert await bench.requests(X) == {"head": 2, "list": 1, "fetch": 1}

        assert await bench.requests(X) == {"head": 2, "fetch": 1}

        bench.now += KEY_SECONDS
        assert "list" in await bench.requests(X)


async def test_an_adopted_original_that_is_gone_is_looked_for_anew() -> None:
    async with Bench(f"{X}.jpg", f"{X}.png") as bench:
        await bench.key_of(X)
        await bench.store.delete(f"{X}.jpg")

        found = await bench.originals.fetch(X)

        assert found is not None
        found.close()
        assert found.stored.key == f"{X}.png"


async def test_an_upload_beside_an_adopted_original_is_seen_at_once() -> None:
    async with Bench(f"{X}.jpg") as bench:
        await bench.key_of(X)

        await bench.add(X)  # by another server

        assert await bench.key_of(X) == X


async def test_our_own_upload_over_an_adopted_original_wins_over_its_fetch() -> None:
    async with Bench(f"{X}.jpg") as bench:
        await bench.key_of(X)
        await bench.originals.put(X, io.BytesIO(X.encode()), media_type="x/y")

        found = await bench.originals.fetch(X)

        assert found is not None
        found.close()
        assert found.stored.key == X


async def test_what_was_found_before_a_change_is_not_remembered_after_it() -> None:
    class Slow(Counting):
        gate = asyncio.Event()

        async def head(self, key: str) -> Stored | None:
            found = await super().head(key)
            if key != X:
                await self.gate.wait()
            return found

    async with Bench(f"{X}.jpg") as bench:
        slow = Slow()
        slow._objects = bench.store._objects
        originals = Originals(slow)
        asked = asyncio.create_task(originals.head(X))
        await asyncio.sleep(0.01)
        await originals.put(X, io.BytesIO(b"new"), media_type="x/y")
        slow.gate.set()
        await asked

        found = await originals.fetch(X)

        assert found is not None
        found.close()
        assert found.stored.key == X


async def test_delete_removes_all_that_answers_to_the_name_and_nothing_else() -> None:
    others = ["plots/x.1.jpg", "plots/x.txt", "plots/x/y"]
    keys = [X, f"{X}.JPG", f"{X}.jpg", f"{X}.psd"]
    async with Bench(*keys, *others) as bench:
        assert [stored.key for stored in await bench.originals.every(X)] == [
            X, f"{X}.jpg", f"{X}.JPG", f"{X}.psd"
        ]  # fmt: skip

        assert await bench.originals.delete(X)

        assert [key async for key in bench.store.list()] == others
        assert not await bench.originals.delete(X)


async def test_a_delete_that_fails_never_brings_up_what_was_out_of_sight() -> None:
    async with Bench(X, f"{X}.jpg", f"{X}.png") as bench:
        bench.store.kept = f"{X}.jpg"

        with pytest.raises(StoreError):
            await bench.originals.delete(X)

        assert await bench.key_of(X) == X


@pytest.mark.parametrize("extension", ["", ".jpg", ".JPG"])
async def test_a_name_that_macos_has_spelled_is_found(extension: str) -> None:
    key = APART + extension
    async with Bench(key) as bench:
        assert await bench.key_of(COMPOSED) == key
        assert await bench.names() == [COMPOSED]

        await bench.add(f"{COMPOSED}.psd")
        bench.now += KEY_SECONDS

        assert await bench.key_of(COMPOSED) == f"{COMPOSED}.psd"
        assert await bench.names() == [COMPOSED]
        assert await bench.originals.delete(COMPOSED)
        assert await bench.names() == []


async def test_a_name_too_long_to_be_spelled_otherwise_is_just_not_there() -> None:
    long = names.image_name("\u00e9" * 350)  # three bytes each when taken apart

    async with Bench() as bench:
        assert await bench.key_of(long) is None


async def test_a_series_of_pictures_does_not_hide_the_one_that_leads_it() -> None:
    series = [f"{X}.{n:05}.jpg" for n in range(LISTED + 5)]
    async with Bench(*series, f"{X}.JPG") as bench:
        assert await bench.key_of(X) == f"{X}.JPG"


async def test_the_list_has_images_only() -> None:
    strange = ["a/", "a//b", "a\x07b", "_/ready", "x/_/0123456789abcdef/full.jpg",
               "../x", "x/_", "a\u202eb", "\u212b", "n" * 701]  # fmt: skip
    async with Bench(*strange, "y.jpg", "z/.jpg", "v1.2") as bench:
        assert await bench.names() == ["v1.2", "y", "z/.jpg"]


keys = st.builds(
    str.__add__,
    image_names
    | st.text("xa._/-@\u00e9", min_size=1, max_size=6)
    | st.sampled_from(["x", "x-", "x.a", "x.jpg", "x/y", "x/_/y", APART, COMPOSED]),
    st.sampled_from(["", "", ".jpg", ".JPG", ".png", ".j", ".1.jpg", "/y.gif", "0"]),
)


def model(key: str) -> str | None:
    """Return the name under which a key is listed; None: it isn't."""
    folder, slash, last = key.rpartition("/")
    stem, dot, extension = last.rpartition(".")
    if stem and dot and by_extension(extension) is not None:
        key = folder + slash + stem
    name = unicodedata.normalize("NFC", key)
    return (
        name
        if is_name(key) and key in {name, unicodedata.normalize("NFD", name)}
        else None
    )


@given(st.sets(keys, max_size=25))
async def test_the_list_has_each_image_once_and_each_is_found(every: set[str]) -> None:
    async with Bench(*every) as bench:
        found = await bench.names()

        assert len(found) == len(set(found))
        assert set(found) == {model(key) for key in every} - {None}
        for name in found:
            key = await bench.key_of(ImageName(name))
            assert key in every


@given(st.sets(keys, min_size=1, max_size=25))
async def test_what_is_deleted_by_its_name_is_listed_no_more(every: set[str]) -> None:
    async with Bench(*every) as bench:
        for name in await bench.names():
            assert await bench.originals.delete(ImageName(name))

        assert await bench.names() == []
        left = {key async for key in bench.store.list()}
        assert left == {key for key in every if model(key) is None}


# Listings in pages


async def page(bench: Bench, after: str, size: int) -> list[Named]:
    found: list[Named] = []
    async with aclosing(bench.originals.named("", after)) as listed:
        async for named in listed:
            found.append(named)
            if len(found) == size:
                break
    return found


async def pages(bench: Bench, sizes: list[int]) -> list[Named]:
    """List in pages of these sizes in turn, each after the last key of another."""
    found: list[Named] = []
    for size in itertools.cycle(sizes):
        more = await page(bench, found[-1].key if found else "", size)
        if not more:
            break
        found += more
    return found


def spelled_once(every: set[str]) -> set[str]:
    """Leave out names in NFD that are there in NFC too: they may come on two pages."""
    composed = {model(key) for key in every if unicodedata.is_normalized("NFC", key)}
    return {
        key
        for key in every
        if unicodedata.is_normalized("NFC", key) or model(key) not in composed
    }


@given(
    st.sets(keys, max_size=25).map(spelled_once),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
async def test_pages_have_together_what_one_listing_has(
    every: set[str], sizes: list[int]
) -> None:
    async with Bench(*every) as bench:
        whole = [named async for named in bench.originals.named()]

        assert await pages(bench, sizes) == whole


async def test_an_image_of_an_earlier_page_does_not_come_again_with_an_extension() -> (
    None
):
    every = ["x", "x-y", "x.1.jpg", "x.GIF", "x.gif", "x.jpg", "x.jpg.png", "x/y"]
    async with Bench(*every) as bench:
        listed = [(named.image, named.key) for named in await pages(bench, [1])]

    assert listed == [
        ("x", "x"), ("x-y", "x-y"), ("x.1", "x.1.jpg"), ("x.jpg", "x.jpg.png"),
        ("x/y", "x/y"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("", ["a", "b-c", "b", "c"]),
        ("a", ["b-c", "b", "c"]),
        ("b", ["b-c", "c"]),
        ("b.gif", ["c"]),
        ("aa", ["b-c", "b", "c"]),
        ("z", []),
    ],
)
async def test_a_listing_goes_on_after_a_name_as_after_a_key(
    after: str, expected: list[str]
) -> None:
    async with Bench("a", "a.jpg", "b-c", "b.gif", "b.jpg", "c.jpg") as bench:
        listed = [named.image async for named in bench.originals.named("", after)]

    assert listed == expected


async def test_pages_of_our_own_uploads_cost_no_questions_but_the_listing() -> None:
    async with Bench("x", "x/y", "x0", "y") as bench:
        bench.store.asked.clear()

        await pages(bench, [1])

        assert bench.store.asked == {"list": 5}


@given(st.sets(keys, max_size=25), image_names | st.text("xa.-/e\u00e9", max_size=4))
async def test_a_prefix_chooses_the_names_that_begin_so(
    every: set[str], prefix: str
) -> None:
    prefix = unicodedata.normalize("NFC", prefix)
    async with Bench(*every) as bench:
        whole = {named.image async for named in bench.originals.named()}

        chosen = [named.image async for named in bench.originals.named(prefix)]

    assert len(chosen) == len(set(chosen))
    assert set(chosen) == {name for name in whole if name.startswith(prefix)}


@pytest.mark.parametrize("name", ["\u00e9\u0329x", "\u00e9x", "\uac01"])
async def test_a_prefix_chooses_names_that_macos_has_spelled(name: str) -> None:
    async with Bench(unicodedata.normalize("NFD", name)) as bench:
        for end in range(len(name) + 1):
            chosen = [one.image async for one in bench.originals.named(name[:end])]

            assert chosen == [name]


@given(st.sets(keys, max_size=25), st.booleans())
async def test_entries_are_the_names_with_size_and_date_of_what_is_served(
    every: set[str], resumed: bool
) -> None:
    async with Bench(*spelled_once(every)) as bench:
        after = sorted(every)[len(every) // 2] if resumed and every else ""
        listed = [named async for named in bench.originals.named("", after)]

        entries = [entry async for entry in bench.originals.entries("", after)]

        assert [Named(entry.image, entry.key) for entry in entries] == listed
        for entry in entries:
            stored = await bench.originals.head(entry.image)
            assert stored is not None
            # Of x.jpg and x.jpg.png the first answers to the name x.jpg, too.
            if entry.image not in every or model(entry.image) == entry.image:
                assert (entry.size, entry.modified) == (stored.size, stored.modified)


async def test_an_entry_does_not_wait_for_ever_for_a_better_original() -> None:
    between = [f"x.gif/{n:04}" for n in range(LISTED + 1)]
    async with Bench("x.gif", *between, "x.jpg", "y.png") as bench:
        entries = [entry async for entry in bench.originals.entries()]

    assert [entry.image for entry in entries] == ["x", *between, "y"]
    assert entries[0].size == len("x.gif")
