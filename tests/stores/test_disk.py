"""The store in a directory: the promises of a store, and what a disk does to it."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from stores.conformance import OpenStore, StoreSuite, body_of, keys, look, put

from image_repo.errors import StoreError
from image_repo.stores import layout
from image_repo.stores.disk import DirectoryStore


class TestDirectoryStore(StoreSuite):
    @pytest.fixture
    def opened(self, tmp_path: Path) -> OpenStore:
        return lambda: DirectoryStore(Path(tempfile.mkdtemp(dir=tmp_path)))


WHOLE = [(b"A" * 3_000_000, "A"), (b"B" * 2_000_001, "B")]

CHILD = """
import asyncio, io, sys, time
from pathlib import Path
from image_repo.stores.disk import DirectoryStore

class Stuck(io.BytesIO):
    def read(self, size=-1):
        if self.tell():
            print("half", flush=True)
            time.sleep(600)
        return super().read(size)

async def main(root, how):
    async with DirectoryStore(Path(root)) as store:
        if how == "stuck":
            await store.put("a/b", Stuck(b"C" * 10**6), media_type="image/png")
        print("writing", flush=True)
        while True:
            for body in (b"A" * 3_000_000, b"B" * 2_000_001):
                said = {"letter": body[:1].decode()}
                file = io.BytesIO(body)
                await store.put("a/b", file, media_type="image/png", metadata=said)
            await store.delete("a/b")

asyncio.run(main(*sys.argv[1:]))
"""


@contextmanager
def writer(root: Path, how: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes; killed at the end at the latest."""
    package = str(Path(layout.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(root), how],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": package},
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() in {b"half\n", b"writing\n"}
            yield child
        finally:
            child.kill()


def place(root: Path, key: str) -> Path:
    return root / "objects" / layout.place(key)


async def test_a_writer_killed_half_way_leaves_what_was_there_before(
    tmp_path: Path,
) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a/b", b"before")

        with writer(tmp_path, "stuck") as child:
            child.send_signal(signal.SIGKILL)
            child.wait()

        assert await body_of(store, "a/b") == b"before"
        assert len(list((tmp_path / "tmp").iterdir())) == 1


async def test_what_a_killed_writer_left_behind_is_swept_at_the_next_start(
    tmp_path: Path,
) -> None:
    with writer(tmp_path, "stuck") as child:
        async with DirectoryStore(tmp_path):
            assert len(list((tmp_path / "tmp").iterdir())) == 1, "it is being written"
        child.send_signal(signal.SIGKILL)
        child.wait()

        async with DirectoryStore(tmp_path) as store:
            assert list((tmp_path / "tmp").iterdir()) == []
            assert await keys(store) == []


async def test_writers_killed_at_any_time_never_leave_half_an_object(
    tmp_path: Path,
) -> None:
    for _ in range(6):
        with writer(tmp_path, "busy"):
            await asyncio.sleep(random.uniform(0, 0.1))

        async with DirectoryStore(tmp_path) as store:
            assert list((tmp_path / "tmp").iterdir()) == []
            seen = await look(store, "a/b")
            assert seen is None or seen in WHOLE
            assert await keys(store) == ([] if seen is None else ["a/b"])


async def test_processes_that_write_one_name_never_show_half_an_object(
    tmp_path: Path,
) -> None:
    async with DirectoryStore(tmp_path) as store:
        with writer(tmp_path, "busy"), writer(tmp_path, "busy"):
            for _ in range(100):
                seen = await look(store, "a/b")
                assert seen is None or seen in WHOLE
                assert await keys(store) in ([], ["a/b"])


async def test_a_store_opened_again_has_what_it_had(tmp_path: Path) -> None:
    modified = datetime(2020, 2, 29, 12, 30, 1, 250, tzinfo=UTC)
    async with DirectoryStore(tmp_path / "not" / "there", lambda: modified) as store:
        stored = await put(store, "a/b", b"body", of="caf\u00e9")

    async with DirectoryStore(tmp_path / "not" / "there") as store:
        assert await store.head("a/b") == stored
        assert stored.modified == modified
        assert await body_of(store, "a/b") == b"body"


async def test_equal_bytes_have_equal_revisions_whatever_is_said_of_them(
    tmp_path: Path,
) -> None:
    async with DirectoryStore(tmp_path) as store:
        one = await put(store, "a", b"body", of="one")
        other = await put(store, "b", b"body", of="other")

    assert one.revision == other.revision


async def test_folders_that_became_empty_are_gone(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a/b/c")
        await put(store, "a/d")

        await store.delete("a/b/c")
        assert [path.name for path in place(tmp_path, "a/d").parent.iterdir()] == [
            "d.o"
        ]
        await store.delete("a/d")

    assert list((tmp_path / "objects").iterdir()) == []


@pytest.mark.parametrize("left", [0, 1, 3, 10, 16, 25, 150, -1])
async def test_an_object_that_was_cut_off_is_damaged(tmp_path: Path, left: int) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a", b"body")
        file = place(tmp_path, "a")
        file.write_bytes(file.read_bytes()[:left])

        for read in (store.fetch, store.head):
            with pytest.raises(StoreError, match=r"^the stored object 'a' is damaged$"):
                await read("a")

        assert await keys(store) == ["a"]
        await put(store, "a", b"better")
        assert await body_of(store, "a") == b"better"


@pytest.mark.parametrize("at", range(-20, 0))
async def test_an_object_whose_foot_was_changed_is_damaged(
    tmp_path: Path, at: int
) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a", b"body")
        file = place(tmp_path, "a")
        data = bytearray(file.read_bytes())
        data[at] ^= 1
        file.write_bytes(data)

        with pytest.raises(StoreError, match=r"^the stored object 'a' is damaged$"):
            await store.head("a")


@pytest.mark.parametrize(
    "said", [b"", b"[]", b"{}", b'{"modified": 1}', b'{"modified": "2020-01-01"}']
)
async def test_a_foot_without_what_belongs_in_it_is_damaged(
    tmp_path: Path, said: bytes
) -> None:
    foot = len(said).to_bytes(4) + zlib.crc32(said).to_bytes(4) + b"ImgRepo1"
    async with DirectoryStore(tmp_path) as store:
        place(tmp_path, "a").write_bytes(b"body" + said + foot)

        with pytest.raises(StoreError, match=r"^the stored object 'a' is damaged$"):
            await store.head("a")


async def test_an_object_at_the_place_of_another_is_damaged(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a", b"body")
        shutil.copy(place(tmp_path, "a"), place(tmp_path, "b"))
        longer = place(tmp_path, "c")
        longer.write_bytes(b"more" + place(tmp_path, "a").read_bytes())
        longer.rename(place(tmp_path, "a"))

        for key in ("a", "b"):
            with pytest.raises(StoreError, match=r"is damaged$"):
                await store.head(key)


async def test_a_listing_with_sizes_leaves_out_what_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with DirectoryStore(tmp_path) as store:
        for key in ("a", "b", "c", "d"):
            await put(store, key)
        place(tmp_path, "b").write_bytes(b"bo")
        place(tmp_path, "c").unlink()
        place(tmp_path, "c").mkdir()

        listed = [entry.key async for entry in store.entries()]
        first = [entry.key async for entry in store.entries(limit=2)]

    assert listed == first == ["a", "d"]
    assert "'b' is damaged" in caplog.text


async def test_a_listing_for_which_no_file_can_be_opened_is_an_error_of_the_store(
    tmp_path: Path,
) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a")
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = [os.dup(0)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 1, limits[1]))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))

            with pytest.raises(StoreError, match="Too many open files"):
                store._listed("a")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for descriptor in taken:
                os.close(descriptor)


async def test_files_that_are_not_ours_are_passed_by(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a/b")
        for name in (
            "README", "Upper.o", "%61.o", "%zz.o", "%ff.o", "short.c/x.o", "\u00e9.o",
            ".DS_Store", "a.d/.nfs0001", os.fsdecode(b"\xff.o"),
        ):  # fmt: skip
            (tmp_path / "objects" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "objects" / name).touch()

        assert await keys(store) == ["a/b"]


async def test_a_file_where_a_folder_should_be_is_an_error_of_the_store(
    tmp_path: Path,
) -> None:
    async with DirectoryStore(tmp_path) as store:
        (tmp_path / "objects" / "a.d").touch()

        for call in (
            store.head("a/b"),
            store.fetch("a/b"),
            store.delete("a/b"),
            put(store, "a/b"),
            keys(store, "a/"),
        ):
            with pytest.raises(StoreError, match=r"'a/b?': Not a directory$") as raised:
                await call
            assert str(tmp_path) not in str(raised.value)
        assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_root_that_is_a_file_cannot_be_opened(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.touch()

    with pytest.raises(
        StoreError, match=r"^cannot open .*: Not a directory$"
    ) as raised:
        async with DirectoryStore(root):
            pass

    assert str(tmp_path) not in str(raised.value)


async def test_a_put_gives_up_when_its_folder_keeps_vanishing(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as store:
        shutil.rmtree(tmp_path / "objects")

        with pytest.raises(StoreError, match=r"^cannot write 'a/b': its folder keeps"):
            await put(store, "a/b")

        assert list((tmp_path / "tmp").iterdir()) == []
        assert await keys(store) == []


async def test_a_disk_that_takes_no_more_keeps_what_was_there_before(
    tmp_path: Path,
) -> None:
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a", b"before")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
        try:
            with pytest.raises(
                StoreError, match=f"^cannot write 'a': {os.strerror(errno.EFBIG)}$"
            ):
                await put(store, "a", bytes(200_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, ignored)

        assert await body_of(store, "a") == b"before"
        assert list((tmp_path / "tmp").iterdir()) == []


async def test_a_put_that_is_cancelled_is_over_when_it_comes_back(
    tmp_path: Path,
) -> None:
    body = io.BytesIO(b"A" * 20_000_000)
    async with DirectoryStore(tmp_path) as store:
        task = asyncio.create_task(store.put("a", body, media_type="image/png"))
        await asyncio.sleep(0.005)

        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        body.close()
        assert list((tmp_path / "tmp").iterdir()) == []
        found = await body_of(store, "a")
        assert found is None or found == b"A" * 20_000_000


async def test_the_metadata_is_readable_without_this_program(tmp_path: Path) -> None:
    async with DirectoryStore(tmp_path) as store:
        await put(store, "a", b"body", of="us")

    data = place(tmp_path, "a").read_bytes()
    length = int.from_bytes(data[-16:-12])
    assert json.loads(data[-16 - length : -16])["metadata"] == {"of": "us"}
    assert data[: -16 - length] == b"body"


async def test_what_has_come_to_its_end_is_swept_away(tmp_path: Path) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    async with DirectoryStore(tmp_path, lambda: now[0]) as store:
        for key, lifetime in (("short", 60), ("long", 3600), ("unlimited", None)):
            body = io.BytesIO(key.encode())
            await store.put(key, body, media_type="image/png", lifetime=lifetime)

        now[0] += timedelta(seconds=61)
        assert await store.sweep(timedelta(days=1)) == 1
        assert [key async for key in store.list()] == ["long", "unlimited"]
        now[0] += timedelta(days=1)
        assert await store.sweep(timedelta(days=1)) == 2
