"""Originals by name: our own, and those that other tools have put."""

from __future__ import annotations

import asyncio
import io
import unicodedata
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import image_names, is_name

from image_repo import names
from image_repo.errors import StoreError
from image_repo.formats import FORMATS, by_extension
from image_repo.names import ImageName
from image_repo.originals import KEY_SECONDS, LISTED, Originals
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
