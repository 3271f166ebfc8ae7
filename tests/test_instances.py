"""Several servers of one machine, as processes: one cache, one nginx before them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from nginx.harness import Answer, Front, ask, free_port, nginx
from pictures import colour, decode, encode, jpeg
from PIL import Image

from image_repo import config
from image_repo.nginx import settings

OLD, NEW = (200, 30, 30), (30, 30, 200)
PATH = "/images/x/_/w_40.png"


@dataclass
class Instance:
    port: int
    process: asyncio.subprocess.Process

    async def ask(self, target: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Ask this one alone; a derived image as nginx's cached hop does."""
        if "/_/w_" in target:
            target = f"/_c{target}"
        return await ask(self.port, target, method, body=body)

    async def derivations(self) -> int:
        found = json.loads((await self.ask("/healthz")).body)["workers"]["derivations"]
        assert isinstance(found, int)
        return found

    async def serves(self) -> bool:
        try:
            return (await self.ask("/readyz")).status == 200
        except (OSError, EOFError):
            return False


@dataclass
class Fleet:
    front: Front
    instances: list[Instance]
    directory: Path

    async def derivations(self) -> int:
        counts = [await one.derivations() for one in self.instances]
        return sum(counts)

    def log(self, number: int) -> str:
        return (self.directory / f"{number}.log").read_text()

    async def seen(self, target: str = PATH) -> list[tuple[int, int, int] | int]:
        """Return the colour that each gives at once, nginx first; or its status."""
        answers = await asyncio.gather(
            self.front.ask(target), *(one.ask(target) for one in self.instances)
        )
        return [
            colour(decode(a.body), (9, 9)) if a.status == 200 else a.status
            for a in answers
        ]

    async def on_disk(self, name: str, words: str) -> None:
        """Return once a derived image has been written, which its answer precedes."""
        target = f"/images/{name}/_/explain.json?{words}"
        async with asyncio.timeout(10):
            while True:
                said = json.loads((await self.instances[0].ask(target)).body)
                if said["found"]["disk"]:
                    return
                await asyncio.sleep(0.02)

    async def put(
        self, at: int, shade: tuple[int, int, int], target: str = "/images/x"
    ) -> None:
        body = encode(Image.new("RGB", (60, 60), shade), "PNG")
        answer = await self.instances[at].ask(target, "PUT", body)
        assert answer.status in {200, 201}, answer


@asynccontextmanager
async def fleet(count: int, **environment: str) -> AsyncIterator[Fleet]:
    """Run *count* servers with a worker each, and nginx, over one new directory."""
    directory = Path(tempfile.mkdtemp(prefix="image-repo-test."))
    directory.chmod(0o755)
    ports = [free_port() for _ in range(count)]
    environ = {
        "IMAGE_REPO_STORE": "directory",
        "IMAGE_REPO_DATA": str(directory / "data"),
        "IMAGE_REPO_BEHIND_NGINX": "true",
        "IMAGE_REPO_WORKERS_COUNT": "1",
        "IMAGE_REPO_NGINX_LISTEN": f"127.0.0.1:{free_port()}",
        "IMAGE_REPO_NGINX_SERVERS": " ".join(f"127.0.0.1:{port}" for port in ports),
        "IMAGE_REPO_NGINX_CACHE_PATH": str(directory / "nginx-cache"),
        **environment,
    }
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        instances = [
            await stack.enter_async_context(
                _instance(directory / f"{n}.log", environ, p)
            )
            for n, p in enumerate(ports)
        ]
        async with asyncio.timeout(50):
            while not all([await one.serves() for one in instances]):
                for n, one in enumerate(instances):
                    log = (directory / f"{n}.log").read_text()
                    assert one.process.returncode is None, log
                await asyncio.sleep(0.1)
        chosen = settings(config.load(None, environ), directory)
        front = await stack.enter_async_context(nginx(chosen))
        yield Fleet(front, instances, directory)


@asynccontextmanager
async def _instance(
    log: Path, environ: dict[str, str], port: int
) -> AsyncIterator[Instance]:
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "image_repo.cli", "serve"),
            env=os.environ | environ | {"IMAGE_REPO_LISTEN": f"127.0.0.1:{port}"},
            stderr=file,
        )
    try:
        yield Instance(port, process)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            async with asyncio.timeout(10):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


@pytest_asyncio.fixture(scope="module")
async def three() -> AsyncIterator[Fleet]:
    async with fleet(3) as made:
        yield made


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_cold_image_is_derived_once_by_eight_servers_together() -> None:
    async with fleet(8) as eight:
        for target in ("/images/x/_/w_700.webp", "/images/y?w=300&kind=png"):
            name = target[8]
            await eight.instances[0].ask(f"/images/{name}", "PUT", jpeg(1600, 1200))
            before = await eight.derivations()

            answers = await eight.front.several(100, target)

            assert {a.status for a in answers} == {200}
            assert len({a.body for a in answers}) == 1
            assert await eight.derivations() == before + 1


async def test_an_image_goes_to_one_of_the_servers_by_every_url(three: Fleet) -> None:
    await three.put(0, OLD, "/images/one")
    before = [await one.derivations() for one in three.instances]

    for width in range(20, 26):
        for target in (
            f"/images/one/_/w_{width}.png",
            f"/images/one.webp?w={width}",
            f"/images/%6Fne?w={width}&kind=gif",
        ):
            assert (await three.front.ask(target)).status == 200

    after = [await one.derivations() for one in three.instances]
    assert sorted(n - m for n, m in zip(after, before, strict=True)) == [0, 0, 18]


async def test_what_one_server_has_derived_no_other_derives_again(
    three: Fleet,
) -> None:
    await three.put(0, OLD, "/images/shared")
    before = await three.derivations()

    answers = [await three.instances[0].ask("/images/shared/_/w_33.png")]
    await three.on_disk("shared", "w=33&kind=png")
    answers += [await one.ask("/images/shared/_/w_33.png") for one in three.instances]

    assert {a.status for a in answers} == {200}
    assert len({a.body for a in answers}) == 1
    assert await three.derivations() == before + 1


async def test_what_one_server_replaces_every_other_gives_at_once(
    three: Fleet,
) -> None:
    await three.put(0, OLD)
    assert await three.seen() == [OLD] * 4

    for number in range(6):
        shade = (NEW, OLD)[number % 2]
        await three.put(number % 3, shade)
        assert await three.seen() == [shade] * 4


async def test_what_one_server_deletes_no_other_gives_any_more(three: Fleet) -> None:
    await three.put(0, OLD, "/images/gone")
    target = "/images/gone/_/w_40.png"
    assert await three.seen(target) == [OLD] * 4

    deleted = await three.instances[1].ask("/images/gone", "DELETE")

    assert deleted.status == 204
    assert await three.seen(target) == [404] * 4


async def test_an_upload_to_one_server_is_found_by_those_that_had_not_found_it(
    three: Fleet,
) -> None:
    for number in range(3):
        name = f"/images/late-{number}"
        target = f"{name}/_/w_40.png"
        assert await three.seen(target) == [404] * 4

        await three.put(number, NEW, name)

        assert await three.seen(target) == [NEW] * 4


async def test_a_purge_through_nginx_reaches_every_server(three: Fleet) -> None:
    await three.put(2, OLD, "/images/purged")
    target = "/images/purged/_/w_40.png"
    await three.seen(target)
    before = await three.derivations()

    purged = await three.front.ask("/images/purged/_/purge", "POST")

    assert purged.status == 204
    assert (await three.front.ask(target)).cache == "MISS"
    await three.on_disk("purged", "w=40&kind=png")
    assert await three.seen(target) == [OLD] * 4
    assert await three.derivations() == before + 1


async def test_the_images_of_a_killed_server_are_served_by_the_others() -> None:
    async with fleet(3) as rest:
        names = [f"plots/{n}" for n in range(12)]
        for name in names:
            await rest.put(0, OLD, f"/images/{name}")
            await rest.front.ask(f"/images/{name}/_/w_40.png")
        killed = rest.instances.pop(1)
        killed.process.send_signal(signal.SIGKILL)
        await killed.process.wait()

        for name in names:
            for rest_of in ("/_/w_40.png", "/_/w_41.png", "?w=42", "/_/info.json"):
                answer = await rest.front.ask(f"/images/{name}{rest_of}")
                assert answer.status == 200, (name, rest_of, answer)
        begun = time.monotonic()
        await rest.put(0, NEW, "/images/plots/0")

        assert time.monotonic() - begun < 1.5  # nobody waits for the dead
        assert await rest.seen("/images/plots/0/_/w_40.png") == [NEW] * 3
        assert "did not hear" not in rest.log(0)


async def test_a_server_that_stands_still_delays_a_change_by_seconds_only() -> None:
    async with fleet(2) as two:
        await two.put(0, OLD)
        assert await two.seen() == [OLD] * 3
        still = two.instances[1]
        still.process.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            await two.put(0, NEW)
            assert time.monotonic() - begun < 4
        finally:
            still.process.send_signal(signal.SIGCONT)

        assert "did not hear of x" in two.log(0)
        async with asyncio.timeout(5):
            while (await two.seen())[2] != NEW:
                await asyncio.sleep(0.05)
        assert await two.seen() == [NEW] * 3


async def test_servers_whose_shared_cache_is_emptied_lose_nothing(
    three: Fleet,
) -> None:
    await three.put(0, OLD)
    assert await three.seen() == [OLD] * 4
    shutil.rmtree(three.directory / "data/cache")
    await asyncio.sleep(1.5)  # they look for each other every second

    await three.put(1, NEW)

    assert await three.seen() == [NEW] * 4
