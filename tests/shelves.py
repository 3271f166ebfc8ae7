"""What tests of shelves share: bodies that anybody can judge, and other processes."""

from __future__ import annotations

import asyncio
import io
import multiprocessing
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from multiprocessing.process import BaseProcess
from pathlib import Path

from image_repo.errors import StoreError
from image_repo.quota import BLOCK, Bounds, Quota, space
from image_repo.shelf import Shelf

ROOMY = Bounds(2**40, 10**6, 0)

IMAGE = "plots/site-7"
KEY = f"{IMAGE}/_/tag/w_400.webp"
OTHER = "plots/site-8"

IMAGES = [f"plots/site-{number}" for number in range(12)]

_processes = multiprocessing.get_context("forkserver")
# The package is imported once, so that another process costs a few milliseconds.
_processes.set_forkserver_preload(["shelves"])


def keys_of(image: str) -> list[str]:
    return [f"{image}/_/tag/w_{width}.webp" for width in (100, 200, 400)]


def body_of(key: str, size: int) -> bytes:
    """Return the one right body of a key that has so many bytes."""
    digest = blake2b(f"{key} {size}".encode()).digest()
    return (digest * (size // len(digest) + 1))[:size]


async def put(shelf: Shelf, image: str, key: str, size: int) -> None:
    await shelf.put(image, key, io.BytesIO(body_of(key, size)), media_type="image/webp")


async def is_right(shelf: Shelf, image: str, key: str) -> bool:
    """Return whether there is such an entry; it has the right body, or this fails."""
    found = await shelf.read(image, key)
    if found is None:
        return False
    stored, body = found
    assert (stored.key, stored.media_type) == (key, "image/webp")
    assert body == body_of(key, len(body)), key
    return True


def files(root: Path) -> list[Path]:
    """Return the files of all entries."""
    return list((root / "entries").glob("*/*"))


def place(root: Path, image: str) -> Path:
    """Return the file of the image's only entry."""
    beginning = blake2b(image.encode(), digest_size=16).hexdigest()
    (found,) = (path for path in files(root) if path.name.startswith(beginning))
    return found


def age(path: Path, seconds: float) -> None:
    """Make a file one that was used so long ago."""
    os.utime(path, (time.time() - seconds, time.time() - seconds))


def counted(root: Path) -> tuple[int, int]:
    """Return bytes on the disk and entries, as they are."""
    sizes = [space(path.lstat().st_size) for path in files(root)]
    return sum(sizes), len(sizes)


def used(root: Path) -> int:
    """Return the bytes of all files as `du` has them, also of those being written."""
    total = 0
    for path in root.rglob("*"):
        with suppress(FileNotFoundError):  # it has gone meanwhile
            total += path.lstat().st_blocks * 512 if path.is_file() else 0
    return total


def left(root: Path) -> list[Path]:
    """Return the files that are being written, or were left behind."""
    return list((root / "tmp").iterdir())


@contextmanager
def beside(work: Callable[..., None], *args: object) -> Iterator[BaseProcess]:
    """Run *work* in a process of its own, which is killed at the end at the latest."""
    process = _processes.Process(target=work, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def put_all(root: Path) -> None:
    """Put an entry of each key of each image."""
    asyncio.run(_put_all(root))


async def _put_all(root: Path) -> None:
    async with Shelf(root, ROOMY) as shelf:
        await shelf.settled()  # what comes meanwhile may be counted twice
        for image in IMAGES:
            for key in keys_of(image):
                await put(shelf, image, key, 5000)


def stall(root: Path, stalled: Path) -> None:
    """Begin to put an entry, make the file *stalled* half way, and never end."""

    class Stuck(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell():
                stalled.touch()
                time.sleep(600)
            return super().read(size)

    async def begin() -> None:
        async with Shelf(root, ROOMY) as shelf:
            await shelf.settled()
            await shelf.put(IMAGES[0], "stuck", Stuck(bytes(1_000_000)))

    asyncio.run(begin())


def churn(root: Path, bounds: Bounds, steps: int, largest: int) -> None:
    """Put, read and forget at random; end with an error where a body is wrong."""
    asyncio.run(_churn(root, bounds, steps, largest))


async def _churn(root: Path, bounds: Bounds, steps: int, largest: int) -> None:
    async with Shelf(root, bounds) as shelf:
        for _ in range(steps):
            image = random.choice(IMAGES)
            key = random.choice(keys_of(image))
            if random.random() < 0.03:
                await shelf.forget(image)
            elif random.random() < 0.5:
                with suppress(StoreError):  # others have taken the room
                    await put(shelf, image, key, random.randrange(largest))
            else:
                await is_right(shelf, image, key)


def count_many(root: Path) -> None:
    """Note 500 times that two blocks came and one went."""
    quota = Quota(str(root), str(root / "entries"), ROOMY)
    for _ in range(500):
        quota.add(2 * BLOCK, 1)
        quota.add(-BLOCK, 0)


@contextmanager
def disk(root: Path, size: int) -> Iterator[None]:
    """Have a file system of *size* bytes at *root*; CalledProcessError: not allowed."""
    root.mkdir()
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", root)
    try:
        yield
    finally:
        # Lazily, since a test that has failed may still have a file open.
        subprocess.run(["umount", "--lazy", root], check=True)


def remount(root: Path, how: str) -> None:
    """Make a disk `ro` or `rw`, or give it another `size=`."""
    _mount("-o", f"remount,{how}", root)


def _mount(*args: str | Path) -> None:
    subprocess.run(["mount", *args], check=True, capture_output=True)
