"""Benchmarks of the caches: intermediates, a warm restart, memory over many images.

Run by `scripts/bench-caches`. Only figures of one run can be compared with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from benchmark import cpu_seconds, memory, photograph, served, tree
from PIL import Image

SRCSET = (200, 400, 600, 800, 1000, 1200)
PLAIN = {"IMAGE_REPO_LOCAL_CACHE_CONFIGURATION_INTERMEDIATES_SIZE": "0"}


@dataclass(frozen=True, slots=True)
class Site:
    """A server with nginx in front."""

    root: int
    session: aiohttp.ClientSession

    async def put(self, path: str, body: bytes) -> None:
        async with self.session.put(path, data=body) as done:
            done.raise_for_status()

    async def get(self, path: str) -> bytes:
        async with self.session.get(path) as answer:
            answer.raise_for_status()
            return await answer.read()

    async def cpu(self, path: str) -> float:
        """Return the CPU ms of all processes that one request costs.

        Measured until what is written after the answer has been written, too.
        """
        before = cpu_seconds(tree(self.root))
        await self.get(path)
        await asyncio.sleep(0.15)
        return 1000 * (cpu_seconds(tree(self.root)) - before)

    async def found(self) -> Mapping[str, int]:
        found: Mapping[str, int] = json.loads(await self.get("/healthz"))["found_in"]
        return found


@asynccontextmanager
async def site(
    work: Path, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Site]:
    work.mkdir(exist_ok=True)
    base = {"IMAGE_REPO_DATA": str(work), "IMAGE_REPO_STORE": "directory"}
    async with (
        served(work, base | dict(environment or {})) as (root, address),
        aiohttp.ClientSession(address, timeout=aiohttp.ClientTimeout(300)) as session,
    ):
        yield Site(root, session)


async def srcset(megapixels: float, images: int, work: Path) -> None:
    """Compare a srcset with and without intermediates, image by image in turn."""
    photo = photograph(megapixels)
    async with AsyncExitStack() as stack:
        sites = {
            "direct": await stack.enter_async_context(site(work / "direct", PLAIN)),
            "kept": await stack.enter_async_context(site(work / "kept")),
        }
        taken: dict[tuple[str, str], list[float]] = {}
        firsts = ("200", "400", "800", "1200")
        for number in range(images):
            for way, where in sites.items():
                await where.put(f"/images/set/{number}", photo)
                for width in SRCSET:
                    cpu = await where.cpu(f"/images/set/{number}/_/w_{width}.jpg")
                    taken.setdefault((way, str(width)), []).append(cpu)
                for first in firsts:
                    name = f"/images/first/{first}/{number}"
                    await where.put(name, photo)
                    cpu = await where.cpu(f"{name}/_/w_{first}.jpg")
                    taken.setdefault((way, f"{first}, first"), []).append(cpu)
    print(f"\n{megapixels:g} MP, mean CPU ms of all processes, {images} images\n")
    print("| size | direct | with intermediates | ratio |\n|---|---|---|---|")
    rows = [str(w) for w in SRCSET] + [f"{w}, first" for w in firsts]
    for row in rows:
        direct, kept = (statistics.mean(taken[way, row]) for way in sites)
        print(f"| {row} | {direct:.0f} | {kept:.0f} | {kept / direct:.2f} |")
    sums = [sum(sum(taken[way, str(w)]) for w in SRCSET) / images for way in sites]
    print(f"| all six | {sums[0]:.0f} | {sums[1]:.0f} | {sums[1] / sums[0]:.2f} |")


async def restart(images: int, work: Path) -> None:
    """Ask for the same images after a restart, nginx's cache apart."""
    body = small(600)
    paths = [f"/images/warm/{n}/_/w_{w}.jpg" for n in range(images) for w in (90, 300)]
    async with site(work) as first:
        for number in range(images):
            await first.put(f"/images/warm/{number}", body)
        for path in paths:
            await first.get(path)
        await asyncio.sleep(1)
    shutil.rmtree(work / "nginx")
    async with site(work) as second:
        started = time.perf_counter()
        for path in paths:
            await second.get(path)
        took = 1000 * (time.perf_counter() - started) / len(paths)
        print(f"after a restart: {dict(await second.found())}, {took:.1f} ms each")


def small(side: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((side, side), 60).convert("RGB").save(out, "JPEG")
    return out.getvalue()


async def distinct(count: int, work: Path) -> None:
    """Derive so many different images, and say what memory is taken on the way."""
    body = small(64)
    async with site(work) as where:
        originals = -(-count // 6400)
        for original in range(originals):
            await where.put(f"/images/many/{original}", body)
        names = iter(
            f"/images/many/{n}/_/w_{w}-q_{q}.jpg"
            for n in range(originals)
            for w in range(1, 65)
            for q in range(1, 101)
        )
        done, started = 0, time.perf_counter()

        async def client() -> None:
            nonlocal done
            for path in names:
                if done >= count:
                    return
                done += 1
                number = done
                await where.get(path)
                if number in marks:
                    took = time.perf_counter() - started
                    mib = await asyncio.to_thread(parts, tree(where.root))
                    print(f"{number} images, {took:.0f} s: {mib}", flush=True)

        marks = {count // 100, count // 10, count // 4, count // 2, count}
        await asyncio.gather(*(client() for _ in range(8)))


def parts(processes: Iterable[int]) -> str:
    """Say how much memory server, workers and nginx take."""
    members: dict[str, list[int]] = {"server": [], "workers": [], "nginx": []}
    for process in processes:
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        worker, nginx = b"transform.worker" in command, command.startswith(b"nginx")
        members["workers" if worker else "nginx" if nginx else "server"].append(process)
    return ", ".join(f"{name} {memory(of):.0f} MiB" for name, of in members.items())


async def run(given: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if given.images:
            await srcset(24, given.images, work)
            await srcset(12, given.images, work)
        if given.restart:
            await restart(given.restart, work / "restart")
        if given.distinct:
            await distinct(given.distinct, work / "distinct")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--images", type=int, default=8, help="photographs of each size"
    )
    parser.add_argument("--restart", type=int, default=500, help="images; 0: leave out")
    parser.add_argument("--distinct", type=int, default=10_000, help="derived images")
    asyncio.run(run(parser.parse_args()))
