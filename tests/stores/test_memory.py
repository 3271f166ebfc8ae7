"""The store in memory keeps every promise of a store."""

from __future__ import annotations

import io

import pytest
from stores.conformance import OpenStore, StoreSuite, put

from image_repo.errors import StoreError
from image_repo.stores.memory import MemoryStore


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def opened(self) -> OpenStore:
        return MemoryStore


class Failing(io.BytesIO):
    def read(self, _size: int | None = -1) -> bytes:
        raise OSError(5, "at /secret/place")


async def test_a_body_that_cannot_be_read_is_an_error_of_the_store() -> None:
    async with MemoryStore() as store:
        with pytest.raises(StoreError, match=r"^cannot write 'x': Input/output error$"):
            await store.put("x", Failing(), media_type="image/png")

        assert await store.head("x") is None


async def test_an_object_that_finds_no_room_for_its_file_is_an_error_of_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryStore() as store:
        await put(store, "x")
        monkeypatch.setattr("tempfile.tempdir", "/nowhere/at/all")

        with pytest.raises(StoreError, match=r"^cannot read 'x': No such file"):
            await store.fetch("x")
