"""A benchmark of nginx's hot answers, beside a static file of the same size.

Run by `scripts/bench-nginx`. Only figures of one run can be compared with each other.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import re
import shutil
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from benchmark import cpu_seconds, photograph, tree
from nginx.harness import free_port, program

BROWSER = "image/avif,image/webp,image/apng,image/*,*/*;q=0.8"
HOT = "/images/hot/_/w_400.jpg"
FULL = ("-c16",)
STEADY = "function delay() return math.random(10, 30) end"  # of wrk: milliseconds
CLIENTS = 40  # of cold requests, from one address, each with one request under way


@asynccontextmanager
async def site(work: Path) -> AsyncIterator[tuple[str, int, int]]:
    """Yield the address, and the processes of nginx and of the server."""
    port = free_port()
    environ = {
        **os.environ,
        "IMAGE_REPO_DATA": str(work / "data"),
        "IMAGE_REPO_STORE": "directory",
        "IMAGE_REPO_LISTEN": f"unix:{work}/server",
        "IMAGE_REPO_BEHIND_NGINX": "true",
        "IMAGE_REPO_NGINX_LISTEN": f"127.0.0.1:{port}",
        "IMAGE_REPO_NGINX_CACHE_PATH": str(work / "cache"),
        "IMAGE_REPO_HTTP_S_MAXAGE": "3600",
    }
    command = (sys.executable, "-m", "image_repo.cli")
    written = await asyncio.create_subprocess_exec(
        *command,
        *("nginx-conf", "--standalone", str(work)),
        env=environ,
        stdout=asyncio.subprocess.PIPE,
    )
    text = (await written.communicate())[0].decode()
    # The first such location is the one of the server that clients reach.
    static = f"location /static/ {{ root {work}; }}\n"
    conf = work / "nginx.conf"
    conf.write_text(text.replace("location / {", f"{static}location / {{", 1))
    log = (work / "log").open("wb")
    server = await asyncio.create_subprocess_exec(*command, env=environ, stderr=log)
    nginx = await asyncio.create_subprocess_exec(program(), "-c", str(conf), stderr=log)
    try:
        yield f"http://127.0.0.1:{port}", nginx.pid, server.pid
    finally:
        for process in (nginx, server):
            process.terminate()
            await process.wait()
        log.close()


async def wrk(
    url: str, headers: Mapping[str, str], seconds: int, *load: str
) -> tuple[int, float]:
    """Return how many requests were answered, and the 99th percentile in ms."""
    given = [part for h in headers.items() for part in ("-H", ": ".join(h))]
    process = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", *(load or FULL), f"-d{seconds}s", "--latency", *given, url),
        stdout=asyncio.subprocess.PIPE,
    )
    said = (await process.communicate())[0].decode()
    count = re.search(r"(\d+) requests in", said)
    late = re.search(r"99%\s+([0-9.]+)(us|ms|s)", said)
    if count is None or late is None or "Non-2xx" in said:
        raise RuntimeError(f"{url}: {said}")
    unit = {"us": 0.001, "ms": 1.0, "s": 1000.0}[late[2]]
    return int(count[1]), float(late[1]) * unit


async def ready(session: aiohttp.ClientSession) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                async with session.get("/readyz") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)


@dataclass
class Crowd:
    """Clients that ask for ever new sizes of an image, and wait when they are refused.

    Attributes:
        statuses: How often each was answered.
        silent: Refusals that did not say when to try again.
    """

    session: aiohttp.ClientSession
    statuses: Counter[int] = field(default_factory=Counter)
    silent: int = 0
    _widths: Iterator[int] = field(default_factory=lambda: itertools.count(500))

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._ask()) for _ in range(CLIENTS)]
        await asyncio.sleep(1)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self) -> None:
        while True:
            path = f"/images/hot/_/w_{next(self._widths)}.jpg"
            async with self.session.get(path) as answer:
                await answer.read()
            self.statuses[answer.status] += 1
            if answer.status != 200:
                after = answer.headers.get("Retry-After")
                self.silent += after is None
                await asyncio.sleep(float(after or 1))


async def beside(
    base: str, session: aiohttp.ClientSession, work: Path, seconds: int, rounds: int
) -> None:
    """Measure hits alone, and while one client asks for more than it may."""
    steady = work / "steady.lua"
    steady.write_text(STEADY)
    loads = {
        "16 at full speed": FULL,
        "40 at a steady pace": ("-c40", "-s", f"{steady}"),
    }
    rows: dict[tuple[str, str], list[tuple[float, float]]] = {}
    crowd = Crowd(session)
    for _ in range(rounds):
        for name, load in loads.items():
            for state in ("alone", "beside"):
                async with crowd.asking() if state == "beside" else nullcontext():
                    count, late = await wrk(base + HOT, {}, seconds, *load)
                rows.setdefault((name, state), []).append((count / seconds, late))
                await asyncio.sleep(1)
    print("\n| hits of | cold requests | /s | p99 ms |\n|---|---|---|---|")
    for (name, state), row in rows.items():
        rate, late = map(statistics.median, zip(*row, strict=True))
        print(f"| {name} | {state} | {rate:.0f} | {late:.1f} |")
    said = ", ".join(f"{n} of {status}" for status, n in sorted(crowd.statuses.items()))
    print(f"\nthe cold: {said}; {crowd.silent} refused without Retry-After")


async def run(seconds: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        async with (
            site(work) as (base, nginx, server),
            aiohttp.ClientSession(base) as session,
        ):
            await ready(session)
            async with session.put("/images/hot", data=photograph(12)) as answer:
                answer.raise_for_status()
            async with session.get(HOT) as answer:
                body, etag = await answer.read(), answer.headers["ETag"]
            (work / "static").mkdir()
            (work / "static" / "hot.jpg").write_bytes(body)
            loads: dict[str, tuple[str, dict[str, str]]] = {
                "static file": ("/static/hot.jpg", {}),
                "canonical": (HOT, {}),
                "query": ("/images/hot?w=400", {}),
                "query, three words": ("/images/hot?kind=webp&h=300&w=400", {}),
                "auto": ("/images/hot/_/w_400.auto", {"Accept": BROWSER}),
                "304": (HOT, {"If-None-Match": etag}),
                "range": (HOT, {"Range": "bytes=0-1023"}),
            }
            await measure(base, loads, (nginx, server), seconds, rounds)
            print(f"\n{len(body)} bytes, 16 connections, medians of {rounds} rounds")
            await beside(base, session, work, seconds, rounds)


async def measure(
    base: str,
    loads: Mapping[str, tuple[str, dict[str, str]]],
    processes: tuple[int, int],
    seconds: int,
    rounds: int,
) -> None:
    costs: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(rounds):
        for name, (path, headers) in loads.items():
            before = [cpu_seconds(tree(root)) for root in processes]
            count, late = await wrk(base + path, headers, seconds)
            after = [cpu_seconds(tree(root)) for root in processes]
            micro = [1e6 * (b - a) / count for a, b in zip(before, after, strict=True)]
            costs.setdefault(name, []).append((*micro, count / seconds, late))
    print("\n| request | nginx µs | of static | server µs | /s | p99 ms |")
    print("|---|---|---|---|---|---|")
    static = statistics.median(row[0] for row in costs["static file"])
    for name, rows in costs.items():
        cpu, python, rate, late = map(statistics.median, zip(*rows, strict=True))
        print(
            f"| {name} | {cpu:.1f} | {cpu / static:.2f}"
            f" | {python:.1f} | {rate:.0f} | {late:.1f} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3, help="of each load")
    parser.add_argument("--rounds", type=int, default=5, help="of all loads")
    given = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("this benchmark needs wrk: apt-get install wrk")
    asyncio.run(run(given.seconds, given.rounds))
