"""A benchmark of the whole server: nginx, server, workers, on this machine.

Run by `scripts/bench`. Only figures of one run can be compared with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from cloud import cluster
from PIL import Image, ImageFilter

PHOTOGRAPHS = Path("/usr/share/backgrounds/mate")
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Row:
    """What one load came to: times in ms, memory in MiB of all processes together."""

    name: str
    requests: int
    seconds: float
    latencies: list[float]
    cpu: float
    memory: float
    steps: dict[str, list[float]]
    """What the server's answers say that each step took, in ms."""

    def where(self) -> str:
        """Say where the time of a median request went."""
        steps = (f"{step} {statistics.median(v):.1f}" for step, v in self.steps.items())
        return f"{self.name}: {', '.join(steps)} ms"

    def __str__(self) -> str:
        cuts = statistics.quantiles(self.latencies, n=100, method="inclusive")
        return (
            f"| {self.name} | {self.requests} | {self.requests / self.seconds:.0f} "
            f"| {cuts[49]:.1f} | {cuts[98]:.1f} "
            f"| {1000 * self.cpu / self.requests:.2f} | {self.memory:.0f} |"
        )


def photograph(megapixels: float) -> bytes:
    """Return a JPEG of that size: a real photograph if Debian's are here."""
    size = (round((megapixels * 4e6 / 3) ** 0.5), round((megapixels * 3e6 / 4) ** 0.5))
    found = sorted(PHOTOGRAPHS.rglob("*.jpg"), key=lambda p: p.stat().st_size)
    if found:
        print(f"photograph: {found[-1].name}, cut to {size[0]} by {size[1]}")
        picture = Image.open(found[-1]).convert("RGB").resize(size)
        grain = Image.effect_noise(size, 12).convert("RGB")
        picture = Image.blend(picture, grain, 0.06)
    else:
        print("no photograph here: coloured noise of several sizes instead")
        picture = Image.new("RGB", size, "grey")
        for scale in (4, 32, 256):
            small = (size[0] // scale, size[1] // scale)
            noise = Image.merge("RGB", [Image.effect_noise(small, 99) for _ in "rgb"])
            smooth = noise.resize(size).filter(ImageFilter.GaussianBlur(2))
            picture = Image.blend(picture, smooth, 0.5)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    print(f"{len(out.getvalue()) / 1e6:.1f} MB")
    return out.getvalue()


def tree(root: int) -> set[int]:
    """Return the processes below and with *root*."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(stat[1])
    found = {root}
    while more := {p for p, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(processes: Iterable[int]) -> float:
    total = 0
    for process in processes:
        try:
            stat = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(stat[11]) + int(stat[12])
    return total / TICK


def memory(processes: Iterable[int]) -> float:
    """Return MiB: proportional shares where the kernel tells, else resident sets."""
    total = 0.0
    for process in processes:
        try:
            text = Path(f"/proc/{process}/smaps_rollup").read_text()
            line = next(x for x in text.splitlines() if x.startswith("Pss:"))
            total += int(line.split()[1]) / 1024
        except (OSError, StopIteration):
            try:
                statm = Path(f"/proc/{process}/statm").read_text().split()
                total += int(statm[1]) * PAGE / 2**20
            except OSError:
                continue
    return total


@asynccontextmanager
async def served(
    data: Path, environment: Mapping[str, str]
) -> AsyncIterator[tuple[int, str]]:
    """Yield the process and the address of server and nginx."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "image_repo.cli",
        "with-nginx",
        "--port",
        "0",
        env={**os.environ, "IMAGE_REPO_WORK": str(data), **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=(data / "log").open("wb"),
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield process.pid, line.split()[1].removesuffix("/images")
    finally:
        process.terminate()
        await process.wait()


async def load(
    name: str, root: int, session: aiohttp.ClientSession, urls: list[str], clients: int
) -> Row:
    """Ask for all *urls*, by so many clients at once."""
    queue = iter(urls)
    latencies: list[float] = []
    steps: defaultdict[str, list[float]] = defaultdict(list)
    peak = 0.0

    async def client() -> None:
        for url in queue:
            started = time.perf_counter()
            async with session.get(url) as answer:
                body = await answer.read()
            latencies.append(1000 * (time.perf_counter() - started))
            said = answer.headers.get("Server-Timing", "")
            for step, milliseconds in re.findall(r"(\w+);dur=([0-9.]+)", said):
                steps[step].append(float(milliseconds))
            if answer.status != 200 or not body:
                raise RuntimeError(f"{url}: {answer.status}")

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, await asyncio.to_thread(memory, tree(root)))
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    before, started = cpu_seconds(tree(root)), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - started
    cpu = cpu_seconds(tree(root)) - before
    watching.cancel()
    return Row(name, len(urls), seconds, latencies, cpu, peak, steps)


async def run(images: int, hot: int, *, swift: bool) -> None:
    photo = photograph(12)
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        places = {"": {"IMAGE_REPO_DATA": folder, "IMAGE_REPO_STORE": "directory"}}
        if swift:
            cloud = cluster.start(Path(folder) / "cloud")
            stack.callback(cloud.stop)
            names = {"SWIFT_P": "bench", "SWIFT_C": "bench-derived"}
            places["Swift: "] = {
                **cloud.environment,
                **names,
                "IMAGE_REPO_STORE": "swift",
            }
        done: list[Row] = []
        print("\n| load | requests | /s | p50 ms | p99 ms | CPU ms | MiB |")
        print("|---|---|---|---|---|---|---|")
        for place, environment in places.items():
            work = Path(folder) / f"work-{len(done)}"
            work.mkdir()
            done += await measure(photo, images, hot, place, work, environment)
        print("\nmedians of what the server says of its steps:\n")
        for row in done:
            if row.steps:
                print(row.where())


async def measure(
    photo: bytes,
    images: int,
    hot: int,
    place: str,
    work: Path,
    environment: Mapping[str, str],
) -> list[Row]:
    """Serve from one store, and put every load on it."""
    async with (
        served(work, environment) as (root, base),
        aiohttp.ClientSession(base, timeout=aiohttp.ClientTimeout(300)) as session,
    ):
        for number in range(images):
            async with session.put(f"/images/bench/{number}", data=photo) as done:
                done.raise_for_status()
        paths = [f"/images/bench/{number}" for number in range(images)]
        loads = [
            ("12 MP → 400 px jpg, cold", [p + "/_/w_400.jpg" for p in paths], 2),
            ("the same → thumbnail, cold", [p + "?thumbnail=1" for p in paths], 2),
            ("hot, canonical URL", [paths[0] + "/_/w_400.jpg"] * hot, 8),
            ("hot, query form", [paths[0] + "?w=400"] * hot, 8),
        ]
        rows = []
        for name, urls, clients in loads:
            rows.append(await load(place + name, root, session, urls, clients))
            print(rows[-1], flush=True)
        return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=40, help="cold requests")
    parser.add_argument("--hot", type=int, default=5000, help="hot requests")
    parser.add_argument("--swift", action="store_true", help="on a real Swift, too")
    given = parser.parse_args()
    asyncio.run(run(given.images, given.hot, swift=given.swift))
