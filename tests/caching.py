"""What tests of the caches share: servers as processes, and pictures to tell apart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex

from nginx.harness import Answer, ask, free_port
from pictures import encode
from PIL import Image

Shade = tuple[int, int, int]


@dataclass
class Server:
    """A server with two workers, as a process."""

    port: int
    process: asyncio.subprocess.Process
    log: Path

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> Answer:
        return await ask(self.port, target, method, body=body)

    async def bodies(self, targets: Iterable[str], clients: int = 4) -> list[bytes]:
        """Return what each gives, asked for by several at once; all are there."""
        places = asyncio.Semaphore(clients)

        async def get(target: str) -> bytes:
            async with places:
                answer = await self.ask(target)
            assert answer.status == 200, (target, answer)
            return answer.body

        return await asyncio.gather(*map(get, targets))

    async def derivations(self) -> int:
        said = json.loads((await self.ask("/healthz")).body)
        found = said["workers"]["derivations"]
        assert isinstance(found, int)
        return found

    async def found(self) -> dict[str, int]:
        """Return how often each level had what was asked for."""
        found = json.loads((await self.ask("/healthz")).body)["found_in"]
        assert isinstance(found, dict)
        return found

    async def stop(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        await self.process.wait()

    def faults(self) -> list[str]:
        """Return what the log says that somebody should know of."""
        lines = self.log.read_text().splitlines()
        return [line for line in lines if " WARNING " in line or " ERROR " in line]


@asynccontextmanager
async def server(directory: Path, **environment: str) -> AsyncIterator[Server]:
    """Run a server over a directory, in which another may have run before."""
    port = int(environment.get("IMAGE_REPO_LISTEN", f":{free_port()}").split(":")[1])
    environ = {
        "IMAGE_REPO_STORE": "directory",
        "IMAGE_REPO_DATA": str(directory / "data"),
        "IMAGE_REPO_LISTEN": f"127.0.0.1:{port}",
        "IMAGE_REPO_WORKERS_COUNT": "2",
        "IMAGE_REPO_LOCAL_CACHE_CONFIGURATION_MIN_FREE": "0",
        **environment,
    }
    log = directory / f"{token_hex(4)}.log"
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image_repo.cli", "serve"),
            env=os.environ | environ,
            stderr=file,
        )
    try:
        async with asyncio.timeout(40):
            while b"listening on" not in log.read_bytes():
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield Server(port, process, log)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def shade_of(number: int) -> Shade:
    return (8 * number, 255 - 8 * number, 99)


def picture(shade: Shade, side: int = 60) -> bytes:
    return encode(Image.new("RGB", (side, side), shade), "PNG")


async def upload(to: Server, count: int, side: int = 60) -> None:
    for number in range(count):
        body = picture(shade_of(number), side)
        answer = await to.ask(f"/images/{number}", "PUT", body)
        assert answer.status == 201, answer


def sizes(images: int, widths: range) -> list[str]:
    return [f"/images/{n}/_/w_{w}.png" for n in range(images) for w in widths]
