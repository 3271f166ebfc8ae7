from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pictures import decode, encode
from PIL import Image
from servers import CONFINED
from transform.samples import KINDS, SIZE, opened

from image_repo.errors import (
    BadImageError,
    BadRequestError,
    BusyError,
    ConfigError,
    DeriveError,
    TooCostlyError,
    TooLargeError,
)
from image_repo.modifiers import RenderOptions
from image_repo.transform import frames, worker
from image_repo.transform.child import Worker
from image_repo.transform.pool import Limits, Pool, WorkerOptions

JPG = KINDS["jpg"]
SLOW = encode(Image.effect_noise((3000, 3000), 90).convert("RGB"), "JPEG")


@asynccontextmanager
async def pool_of(
    count: int = 1, *, limits: Limits | None = None, **options: float
) -> AsyncIterator[Pool]:
    settings = WorkerOptions(count=count, **options)  # type: ignore[arg-type]
    made = Pool(settings, limits or Limits(), RenderOptions(), confined=CONFINED)
    async with made:
        yield made


async def derive(pool: Pool, data: bytes = JPG, text: str = "w_32.jpg") -> bytes:
    with opened(data) as file:
        return (await pool.derive(file, len(data), text)).body


def pids(pool: Pool) -> list[int]:
    return [worker.process.pid for worker in pool._idle]


async def until_idle(pool: Pool, count: int) -> None:
    async with asyncio.timeout(20):
        while pool.idle < count:
            await asyncio.sleep(0.01)


async def until_busy(pool: Pool) -> None:
    async with asyncio.timeout(5):
        while pool.idle:
            await asyncio.sleep(0)


async def test_all_workers_are_ready_when_the_pool_is() -> None:
    async with pool_of(2) as pool:
        assert pool.idle == pool.count == 2
        assert "jpg" in pool.kinds
        assert pool.magick.startswith("ImageMagick")


async def test_a_probe_gives_the_header() -> None:
    async with pool_of() as pool:
        with opened(JPG) as file:
            header = await pool.probe(file, len(JPG))

        assert (header.format.kind, header.size, header.orientation) == ("jpg", SIZE, 1)
        assert pool.statistics()["derivations"] == 0


async def test_only_the_first_bytes_of_the_file_are_the_original() -> None:
    data = KINDS["png"]
    async with pool_of() as pool:
        with opened(data + b"{metadata}") as file:
            file.seek(5)
            made = await pool.derive(file, len(data), "full.png")
            assert decode(made.body).size == SIZE
            assert file.tell() == 5


async def test_errors_of_the_image_come_back_as_what_they_are() -> None:
    async with pool_of(limits=Limits(side=50)) as pool:
        with pytest.raises(BadImageError):
            await derive(pool, b"no image")
        with pytest.raises(TooLargeError):
            await derive(pool)
        with pytest.raises(BadRequestError):
            await derive(pool, text="w_0400.jpg")
        with opened(JPG) as file, pytest.raises(DeriveError, match="shorter"):
            await pool.derive(file, len(JPG) + 1, "full.jpg")
        assert pool.crashes == 0
        assert pool.idle == 1


async def test_a_job_that_crashes_costs_one_error_and_the_worker_is_replaced() -> None:
    async with pool_of(2) as pool:
        victim = pids(pool)[-1]
        job = asyncio.create_task(derive(pool, SLOW, "full.avif"))
        await asyncio.sleep(0.1)
        os.kill(victim, signal.SIGSEGV)

        with pytest.raises(DeriveError):
            await job

        assert decode(await derive(pool)).size == (32, 24)
        await until_idle(pool, 2)
        assert victim not in pids(pool)
        assert pool.crashes == 1


async def test_a_worker_that_dies_while_idle_costs_no_request_an_error() -> None:
    async with pool_of() as pool:
        os.kill(pids(pool)[0], signal.SIGKILL)
        await asyncio.sleep(0.1)

        assert decode(await derive(pool)).size == (32, 24)
        assert pool.crashes == 1


async def test_a_worker_that_writes_more_than_the_others_adds_no_kind() -> None:
    async with pool_of(2) as pool:
        pool.kinds = frozenset({"jpg"})
        os.kill(pids(pool)[-1], signal.SIGKILL)
        await asyncio.sleep(0.1)
        await derive(pool)
        await until_idle(pool, 2)

        assert pool.kinds == {"jpg"}


async def test_a_job_that_is_refused_when_its_turn_comes_costs_no_worker() -> None:
    def refuse() -> None:
        raise BadImageError("not this one")

    async with pool_of() as pool:
        with opened(JPG) as file, pytest.raises(BadImageError, match="not this one"):
            await pool.derive(file, len(JPG), "w_32.jpg", check=refuse)

        assert decode(await derive(pool)).size == (32, 24)
        assert (pool.crashes, pool.idle) == (0, 1)


def test_a_worker_itself_refuses_to_send_an_image_that_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = worker.Settings(Limits(), RenderOptions(), 2**30, nice=0, confined=False)
    job = {"size": len(JPG), "op": "derive", "text": "w_32.jpg"}
    monkeypatch.setattr(worker, "MAX_BODY", 10)
    with opened(JPG) as file:
        answer = worker._answer(job, [os.dup(file.fileno())], settings)

    head, body = frames.lengths(answer[: frames.LENGTHS.size])
    assert body == 0
    found = frames.decode(answer[frames.LENGTHS.size :][:head])
    assert found["error"] == "TooLargeError"


async def test_an_answer_is_received_without_a_copy() -> None:
    size = 32 * 2**20
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    process = await asyncio.to_thread(subprocess.Popen[bytes], ["/bin/true"])
    child = Worker(process, ours)
    data = frames.encode({}, bytes(size))
    with theirs:
        sending = asyncio.create_task(asyncio.to_thread(theirs.sendall, data))
        tracemalloc.start()
        message = await child.receive()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await sending
        await child.end()

    assert len(message.body) == size
    assert peak < 1.5 * size


async def test_a_worker_that_hangs_is_killed_and_replaced_while_others_go_on() -> None:
    async with pool_of(2, deadline=1.5) as pool:
        victim = pids(pool)[-1]
        os.kill(victim, signal.SIGSTOP)
        hung = asyncio.create_task(derive(pool))
        await asyncio.sleep(0)

        for _ in range(10):
            assert decode(await derive(pool)).size == (32, 24)

        assert not hung.done()
        with pytest.raises(TooCostlyError):
            await hung
        await until_idle(pool, 2)
        assert victim not in pids(pool)
        assert (pool.timeouts, pool.crashes) == (1, 0)


async def test_a_full_queue_refuses_and_says_when_to_try_again() -> None:
    async with pool_of(queue=2) as pool:
        jobs = [asyncio.create_task(derive(pool)) for _ in range(3)]
        await until_busy(pool)
        assert pool.waiting == 2

        with pytest.raises(BusyError) as refused:
            await derive(pool)

        assert refused.value.retry_after >= 1
        assert all(
            decode(body).size == (32, 24) for body in await asyncio.gather(*jobs)
        )


async def test_who_waits_too_long_for_a_worker_is_told_that_it_is_busy() -> None:
    async with pool_of(deadline=0.5) as pool:
        os.kill(pids(pool)[0], signal.SIGSTOP)
        hung = asyncio.create_task(derive(pool))
        await until_busy(pool)
        with pytest.raises(BusyError):
            await derive(pool)
        with pytest.raises(TooCostlyError):
            await hung


async def test_a_caller_who_leaves_changes_nothing_for_the_next() -> None:
    async with pool_of() as pool:
        for delay in (0, 0.001, 0.02, 0.05):
            job = asyncio.create_task(derive(pool, text="w_16.png"))
            await asyncio.sleep(delay)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)

            assert decode(await derive(pool)).size == (32, 24)

        assert pool.crashes == 0
        assert pool.idle == 1


async def test_a_caller_who_leaves_the_queue_gives_the_place_back() -> None:
    async with pool_of(queue=1) as pool:
        first = asyncio.create_task(derive(pool))
        await until_busy(pool)
        second = asyncio.create_task(derive(pool))
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)

        assert pool.waiting == 0
        assert await derive(pool) == await first


async def test_a_hundred_callers_all_get_their_own_image() -> None:
    async with pool_of(2, queue=100) as pool:

        async def one(width: int) -> None:
            assert decode(await derive(pool, text=f"w_{width}.png")).width == width

        await asyncio.gather(*(one(1 + n % 60) for n in range(100)))

        assert pool.derivations == 100


async def test_the_loop_goes_on_while_workers_work_and_start() -> None:
    lags = []

    async def watch() -> None:
        while True:
            begun = time.monotonic()
            await asyncio.sleep(0.005)
            lags.append(time.monotonic() - begun - 0.005)

    watching = asyncio.create_task(watch())
    async with pool_of() as pool:
        await derive(pool, SLOW, "w_2000.png")
    watching.cancel()

    assert sorted(lags)[-3] < 0.25


async def test_a_stopped_pool_leaves_no_process_and_no_file() -> None:
    async with pool_of(2) as pool:
        found, folder = pids(pool), Path(pool._folder.name)
        job = asyncio.create_task(derive(pool, SLOW, "full.avif"))
        waiting = [asyncio.create_task(derive(pool)) for _ in range(3)]
        await until_busy(pool)

    assert not folder.exists()
    for pid in found:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(BusyError):
        await job
    with pytest.raises(BusyError):
        await derive(pool)
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_worker_ends_with_the_server() -> None:
    code = (
        "import asyncio, os\n"
        "from image_repo.transform.pool import *\n"
        "from image_repo.modifiers import RenderOptions\n"
        "async def main():\n"
        "    pool = Pool(WorkerOptions(count=1), Limits(), RenderOptions())\n"
        "    await pool.__aenter__()\n"
        "    print(pool._idle[0].process.pid, pool._folder.name, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
        "asyncio.run(main())\n"
    )
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", code], capture_output=True, text=True
    )
    pid, folder = done.stdout.split()
    try:
        async with asyncio.timeout(10):
            while Path(f"/proc/{pid}").exists():
                await asyncio.sleep(0.05)
    finally:
        Path(folder).rmdir()


async def test_a_worker_that_can_not_start_is_an_error_of_the_configuration() -> None:
    # A mebibyte of address space is not enough for ImageMagick and its libraries.
    with pytest.raises(ConfigError):
        async with pool_of(memory=2**20):
            pass


def test_the_server_never_loads_imagemagick() -> None:
    code = (
        "import sys, image_repo.transform.pool\n"
        "assert not [name for name in sys.modules if 'wand' in name]"
    )

    subprocess.run([sys.executable, "-c", code], check=True)
