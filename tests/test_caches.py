"""The caches as their user sees them: servers that stop, die, and lose their disk."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError, run
from zlib import crc32

import pytest
from caching import Server, Shade, picture, server, shade_of, sizes, upload
from pictures import colour, decode
from shelves import disk, remount

# -- restarts --------------------------------------------------------------------------


async def test_after_a_restart_all_is_found_on_disk_and_nothing_derived_again(
    tmp_path: Path,
) -> None:
    targets = sizes(20, range(20, 30))
    async with server(tmp_path) as first:
        await upload(first, 20)
        before = await first.bodies(targets)
        assert await first.derivations() == 200
        await first.stop()  # at once after the last answer
        assert first.process.returncode == 0
        assert first.faults() == []
    async with server(tmp_path) as second:
        for _ in range(5):
            assert await second.bodies(targets) == before

        assert await second.derivations() == 0
        assert await second.found() == {"disk": 200, "memory": 800}


async def test_a_killed_server_derives_again_only_what_was_being_written(
    tmp_path: Path,
) -> None:
    targets = sizes(20, range(20, 30))
    async with server(tmp_path) as first:
        await upload(first, 20)
        before = await first.bodies(targets)
        await first.stop(signal.SIGKILL)
    async with server(tmp_path) as second:
        assert await second.bodies(targets) == before

        assert await second.derivations() < 10
        assert second.faults() == []


# -- a disk that fails -----------------------------------------------------------------


def fill(root: Path) -> None:
    """Leave no byte of the disk free, for reasons that are not the cache's."""
    with suppress(OSError), (root / "other").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def files(root: Path) -> list[Path]:
    """Return the files of all entries of all caches on the disk."""
    return list(root.glob("*/entries/*/*"))


def _other(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "x").touch()


def _put(path: Path, body: bytes) -> None:
    """Have other bytes on the disk; who reads the file just now goes on with its own.

    So it is with a disk: what has been read and found right stays so in memory.
    """
    other = path.parents[3] / "other"
    other.write_bytes(body)
    other.replace(path)


def _turned(path: Path) -> None:
    body = bytearray(path.read_bytes())
    body[random.randrange(len(body))] ^= 1 << random.randrange(8)
    _put(path, bytes(body))


WAYS: tuple[Callable[[Path], object], ...] = (
    _turned,
    _other,
    lambda path: _put(path, b""),
    lambda path: _put(path, path.read_bytes()[: random.randrange(5000)]),
    lambda path: _put(path, path.read_bytes() + b"x"),
    lambda path: _put(path, bytes(path.stat().st_size)),
    lambda path: _put(path, random.randbytes(random.randrange(9000))),
    lambda path: _put(path, random.choice(files(path.parents[3])).read_bytes()),
    lambda path: path.unlink(),
    lambda path: path.chmod(0),
)
"""How files are damaged."""


def spoil(root: Path, count: int) -> None:
    """Damage so many files of all caches, one after the other."""
    for number in range(count):
        with suppress(OSError, ValueError):  # gone, a folder or empty by now
            WAYS[number % len(WAYS)](random.choice(files(root)))


@dataclass
class Trouble:
    """A server whose caches have a disk of their own, and what is right of it."""

    server: Server
    right: dict[str, bytes]

    async def check(self, targets: Iterable[str] = ()) -> None:
        """Check that all is served as before, or derived as it should be."""
        wanted = {*self.right, *targets}
        bodies = await self.server.bodies(wanted)
        for target, body in zip(wanted, bodies, strict=True):
            assert self.right.setdefault(target, body) == body, target
            shade = shade_of(int(target.split("/")[2]))
            assert colour(decode(body), (9, 9)) == shade, target
        for path in ("/healthz", "/readyz"):
            assert (await self.server.ask(path)).status == 200


@asynccontextmanager
async def troubled(cache: Path) -> AsyncIterator[Trouble]:
    """Run a server with caches in *cache*, some of which are filled."""
    # Without the level in memory everything comes from the disk.
    async with server(
        cache.parent,
        IMAGE_REPO_LOCAL_CACHE_CONFIGURATION_CACHE_PATH=str(cache),
        IMAGE_REPO_MEMORY_CACHE_CONFIGURATION_MAX_SIZE="0",
    ) as started:
        await upload(started, 10, 900)
        trouble = Trouble(started, {})
        await trouble.check(sizes(10, range(20, 40, 4)))
        yield trouble


@pytest.fixture
def parts(tmp_path: Path) -> Iterator[list[Path]]:
    """Give the two caches of a server disks of their own."""
    (tmp_path / "cache").mkdir()
    found = [tmp_path / "cache" / name for name in ("derived", "intermediates")]
    with ExitStack() as stack:
        for part in found:
            try:
                stack.enter_context(disk(part, 2**22))
            except (FileNotFoundError, CalledProcessError):
                pytest.skip("a disk can't be mounted here")
        yield found


@pytest.mark.skipif(os.geteuid() == 0, reason="these tests have run as they are")
@pytest.mark.timeout(300)
def test_all_this_holds_in_a_namespace_where_a_disk_may_be_mounted() -> None:
    namespace = ["unshare", "--map-root-user", "--mount"]
    if run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("there are no namespaces")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += [__file__, "-k", "whose_disk"]
    done = run([*namespace, *command], capture_output=True, check=False)
    assert (done.returncode, b" passed" in done.stdout) == (0, True), done.stdout


async def test_a_server_whose_disk_becomes_full_serves_all_as_before(
    parts: list[Path],
) -> None:
    async with troubled(parts[0].parent) as trouble:
        async with filled(parts):
            await trouble.check(sizes(10, range(41, 51)))
        await trouble.check(sizes(10, range(51, 56)))

        assert_quiet(trouble.server)


@asynccontextmanager
async def filled(parts: list[Path]) -> AsyncIterator[None]:
    """Take every byte of some disks, also those that caches give back."""

    async def take() -> None:
        while True:
            for part in parts:
                await asyncio.to_thread(fill, part)
            await asyncio.sleep(0.01)

    taking = asyncio.create_task(take())
    await asyncio.sleep(0.1)
    try:
        yield
    finally:
        taking.cancel()
        await asyncio.gather(taking, return_exceptions=True)
        for part in parts:
            (part / "other").unlink()


async def test_a_server_whose_disk_can_only_be_read_serves_all_and_changes_images(
    parts: list[Path],
) -> None:
    async with troubled(parts[0].parent) as trouble:
        await change_disks(parts, "ro")
        await trouble.check(sizes(10, range(41, 51)))
        to = trouble.server
        old, new = shade_of(3), shade_of(11)
        statuses = [
            (await to.ask("/images/3", "PUT", picture(new, 900))).status,
            (await to.ask("/images/4", "DELETE")).status,
            (await to.ask("/images/4/_/w_20.png")).status,
        ]
        shown = colour(decode((await to.ask("/images/3/_/w_20.png")).body), (9, 9))
        assert (statuses, shown) == ([200, 204, 404], new)
        for number, shade in ((3, old), (4, shade_of(4))):
            await to.ask(f"/images/{number}", "PUT", picture(shade, 900))
        await change_disks(parts, "rw")
        await trouble.check(sizes(10, range(61, 66)))

        assert_quiet(to)


async def change_disks(parts: list[Path], how: str) -> None:
    async with asyncio.timeout(20):
        for part in parts:
            while True:
                with suppress(CalledProcessError):  # files are being written there
                    remount(part, how)
                    break
                await asyncio.sleep(0.02)


async def test_a_server_whose_cache_is_removed_makes_a_new_one(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    async with troubled(cache) as trouble:
        for _ in range(5):
            checking = asyncio.create_task(trouble.check(sizes(10, range(41, 46))))
            await asyncio.sleep(0.2)
            await asyncio.to_thread(shutil.rmtree, cache, ignore_errors=True)
            await checking
        await trouble.check()
        before = await trouble.server.derivations()
        await trouble.check()

        assert await trouble.server.derivations() == before
        assert_quiet(trouble.server)


async def test_a_server_whose_files_are_damaged_never_serves_one_of_them(
    tmp_path: Path,
) -> None:
    cache = tmp_path / "cache"
    async with troubled(cache) as trouble:
        for _ in range(10):
            await asyncio.gather(trouble.check(), asyncio.to_thread(spoil, cache, 20))
        await trouble.check()

        assert_quiet(trouble.server)


def assert_quiet(of: Server) -> None:
    """Check that no level has said twice in less than a minute that it fails."""
    # A damaged file is no fault of a level: each is said, once.
    said = [line for line in of.faults() if " is damaged: " not in line]
    who = Counter(
        line.split(": ")[0].split(" ")[-1] + line.split(": ")[1] for line in said
    )
    assert max(who.values(), default=0) <= 1, said
    assert len(set(of.faults())) == len(of.faults())


# -- a server that is killed -----------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_server_killed_under_load_loses_no_upload_and_never_errs(
    tmp_path: Path,
) -> None:
    known: dict[str, list[Shade | None]] = {f"kill/{n}": [None] for n in range(10)}
    left: list[int] = []
    for number in range(11):
        async with server(tmp_path) as one:
            for name, shades in known.items():
                shades[:] = [await shade_at(one, name, shades)]
            left.append(len(list((tmp_path / "data").glob("**/tmp/*"))))
            if number < 10:
                await load(one, known, random.uniform(0.5, 2))
            assert one.faults() == []
    assert max(left) <= 2


async def shade_at(of: Server, name: str, allowed: list[Shade | None]) -> Shade | None:
    """Return the colour that every size of an image has; None: there is none."""
    widths = random.sample(range(10, 60), 5)
    targets = [f"/images/{name}/_/w_{width}.png" for width in widths]
    answers = await asyncio.gather(
        *map(of.ask, [*targets, f"/images/{name}/_/full.png"])
    )
    if allowed == [None] or (None in allowed and answers[0].status == 404):
        assert {answer.status for answer in answers} == {404}, name
        return None
    assert {answer.status for answer in answers} == {200}, (name, allowed, answers)
    pictures = [decode(answer.body) for answer in answers]
    assert [p.width for p in pictures] == [*widths, 60]
    (shade,) = {colour(p, (5, 5)) for p in pictures}
    assert shade in allowed
    return shade


async def load(
    on: Server, known: dict[str, list[Shade | None]], seconds: float
) -> None:
    """Kill a server while many ask for random sizes, and one changes the images.

    *known* is what each image may be: more than one thing where it was not answered.
    """

    async def read() -> None:
        while True:
            name, width = random.choice(list(known)), random.randrange(10, 60)
            target = f"/images/{name}/_/w_{width}.png"
            assert (await on.ask(target)).status in {200, 404}, target

    async def write() -> None:
        while True:
            name, shade = random.choice(list(known)), None
            body, method = b"", "DELETE"
            if random.random() < 0.7:
                shade = (random.randrange(256), random.randrange(256), 77)
                body, method = picture(shade), "PUT"
            known[name].append(shade)
            answer = await on.ask(f"/images/{name}", method, body)
            assert answer.status in {200, 201, 204, 404}, answer
            known[name] = [shade]

    tasks = [
        asyncio.create_task(write()),
        *(asyncio.create_task(read()) for _ in range(20)),
    ]
    await asyncio.sleep(seconds)
    await on.stop(signal.SIGKILL)
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(outcome, OSError | EOFError), outcome


# -- an image that is broken -----------------------------------------------------------


def broken() -> bytes:
    """Return a picture that is whole, but for what its compressed pixels are."""
    body = picture((9, 9, 9))
    at = body.index(b"IDAT")
    size = int.from_bytes(body[at - 4 : at])
    data = b"IDAT" + bytes(size)
    return body[:at] + data + crc32(data).to_bytes(4) + body[at + len(data) + 4 :]


async def test_what_could_not_be_derived_is_tried_again_after_an_upload_alone(
    tmp_path: Path,
) -> None:
    async with server(tmp_path) as one:

        async def ask() -> tuple[int, int]:
            """Return the status, and how often it has been tried until now."""
            status = (await one.ask("/images/0/_/w_20.png")).status
            return status, one.log.read_text().count("cannot derive 0/_/w_20.png")

        for tries in (1, 2):  # the same bytes again
            put = await one.ask("/images/0", "PUT", broken())
            assert put.status in {200, 201}, put
            assert [await ask() for _ in range(3)] == [(422, tries)] * 3
        await one.ask("/images/0", "PUT", picture(shade_of(0)))
        assert await ask() == (200, 2)
