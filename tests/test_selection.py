"""Choosing images by path and pattern."""

from __future__ import annotations

import asyncio
import io
import random
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import image_names

from image_repo import names
from image_repo.errors import BadRequestError
from image_repo.names import ImageName
from image_repo.originals import Originals
from image_repo.selection import PAGE, Selector
from image_repo.stores.memory import MemoryStore

KEYS = (
    "a",
    "a-b",
    "a.b/c",
    "a/1",
    "a/2.jpg",
    "a/2.png",
    "a/b/3",
    "a/é",
    "ab/4",
    unicodedata.normalize("NFD", "é/ö.JPG"),
    "é/x",
)


class Asked(MemoryStore):
    """Remembers the prefixes of its listings."""

    def __init__(self) -> None:
        super().__init__()
        self.prefixes: list[str] = []

    def list(
        self, prefix: str = "", after: str = "", limit: int | None = None
    ) -> AsyncIterator[str]:
        self.prefixes.append(prefix)
        return super().list(prefix, after, limit)


@asynccontextmanager
async def selecting(
    *keys: str, most: int = 100
) -> AsyncGenerator[tuple[Selector, Asked], None]:
    async with Asked() as store:
        for key in keys:
            await store.put(key, io.BytesIO(b"x"), media_type="image/jpeg")
        async with Selector(Originals(store).names, most) as selector:
            yield selector, store


async def selected(path: str, regex: str | None = None, *keys: str) -> list[str]:
    async with selecting(*(keys or KEYS)) as (selector, _):
        return list(await selector.select(names.image_name(path), regex))


@pytest.mark.parametrize(
    ("path", "regex", "found"),
    [
        ("a", None, ["a/1", "a/2", "a/b/3", "a/é"]),
        ("a/b", None, ["a/b/3"]),
        ("a/1", None, []),
        ("none", None, []),
        ("é", None, ["é/x", "é/ö"]),
        ("a", "[0-9]", ["a/1", "a/2", "a/b/3"]),
        ("a", "^a/[0-9]", ["a/1", "a/2"]),
        ("a", "^a/é", ["a/é"]),
        ("a", "^a", ["a/1", "a/2", "a/b/3", "a/é"]),
        ("a", "^b", []),
        ("a", "^a/2.jpg", []),
        ("a", "^a/2$", ["a/2"]),
        ("a", "(?i)^A/B", ["a/b/3"]),
        ("é", "^é/ö", ["é/ö"]),
        ("é", "ö", ["é/ö"]),
    ],
)
async def test_what_is_strictly_below_a_path_is_searched_by_its_full_name(
    path: str, regex: str | None, found: list[str]
) -> None:
    assert sorted(await selected(path, regex)) == sorted(found)


@given(st.lists(image_names, max_size=8), image_names)
def test_a_path_chooses_what_lies_below_it(keys: list[ImageName], path: str) -> None:
    keys = [*keys, *(ImageName(f"{path}/{n}") for n in range(2))]

    found = asyncio.run(selected(path, None, *keys))

    below = {names.image_name(key) for key in keys if key.startswith(f"{path}/")}
    assert {f"{path}/0", f"{path}/1"} <= set(found)
    assert all(name.startswith(f"{path}/") for name in found)
    assert len(found) == len(set(found)) <= len(below)


@pytest.mark.parametrize(
    ("regex", "asked"),
    [
        (None, ["a/"]),
        ("site", ["a/"]),
        ("^a", ["a/"]),
        ("^a/site-[0-9]", ["a/site-"]),
        ("^b", []),
    ],
)
async def test_only_what_may_match_is_asked_of_the_store(
    regex: str | None, asked: list[str]
) -> None:
    async with selecting(*KEYS) as (selector, store):
        await selector.select(names.image_name("a"), regex)

        assert store.prefixes == asked


async def test_more_than_may_be_chosen_are_refused_with_the_number() -> None:
    async with selecting(*KEYS, most=3) as (selector, _):
        assert len(await selector.select(names.image_name("a"), "[0-9]")) == 3

        with pytest.raises(BadRequestError, match=r"more than 3 images .* 'regex'"):
            await selector.select(names.image_name("a"), None)


async def test_names_are_found_across_pages_in_order() -> None:
    count = 3 * PAGE + 7
    keys = [f"a/{n:05}" for n in range(count)]
    async with selecting(*keys, most=count) as (selector, _):
        found = await selector.select(names.image_name("a"), "[05]$")

    assert found == [key for key in keys if key[-1] in "05"]


async def test_a_pattern_that_takes_too_long_is_refused() -> None:
    letters = random.Random(7)
    keys = ["".join(letters.choices("ab", k=700)) for _ in range(1000)]

    async def each() -> AsyncIterator[ImageName]:
        for key in keys:
            yield ImageName(key)

    async with Selector(lambda _: each(), 10_000) as selector:
        pattern = await selector.compiled("(.{0,10}a){15}x")
        with pytest.raises(BadRequestError, match="takes too long"):
            _ = [name async for name in selector.matching(each(), pattern)]
