"""The whole server as a process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from pictures import jpeg

SERVER = (sys.executable, "-m", "image_repo.cli")


@asynccontextmanager
async def serving(
    data: Path, *arguments: str, **environment: str
) -> AsyncIterator[tuple[asyncio.subprocess.Process, aiohttp.ClientSession]]:
    """A server on a socket file, and a client of it."""
    socket = data / "s"
    process = await asyncio.create_subprocess_exec(
        *SERVER,
        *arguments,
        env=os.environ
        | {
            "IMAGE_REPO_LISTEN": f"unix:{socket}",
            "IMAGE_REPO_DATA": str(data / "data"),
            "IMAGE_REPO_WORKERS_COUNT": "1",
        }
        | environment,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(30):
            while b"listening on" not in (line := await process.stderr.readline()):
                assert line, "the server ended"
        connector = aiohttp.UnixConnector(str(socket))
        async with aiohttp.ClientSession("http://x", connector=connector) as session:
            yield process, session
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_sigterm_finishes_what_is_under_way(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, session):
        await session.put("/images/x", data=jpeg(3000, 2000))

        async def get(width: int) -> tuple[int, int]:
            async with session.get(f"/images/x/_/w_{width}.webp") as answer:
                return answer.status, len(await answer.read())

        asked = [asyncio.create_task(get(1000 + n)) for n in range(8)]
        await asyncio.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*asked)

        assert {status for status, _ in answers} == {200}
        assert await process.wait() == 0
        assert not (tmp_path / "s").exists()


async def test_what_was_stored_and_derived_survives_a_kill(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, session):
        await session.put("/images/x", data=jpeg(300, 200))
        async with session.get("/images/x/_/w_90.png") as answer:
            first = await answer.read()
        await asyncio.sleep(0.3)  # the derived image is written after the answer
        process.kill()
        await process.wait()
    async with (
        serving(tmp_path) as (process, session),
        session.get("/images/x/_/w_90.png") as answer,
    ):
        assert await answer.read() == first
        assert 'desc="store"' in answer.headers["Server-Timing"]


async def test_the_server_itself_never_loads_imagemagick(tmp_path: Path) -> None:
    async with serving(tmp_path) as (process, session):
        await session.put("/images/x", data=jpeg(30, 20))
        async with session.get("/images/x.webp?thumbnail=1") as answer:
            assert answer.status == 200
        maps = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")

        assert "libpython" in maps or "python" in maps
        assert not re.search("[Mm]agick", maps)


async def test_the_pid_file_is_there_while_the_server_is(tmp_path: Path) -> None:
    file = tmp_path / "pid"
    async with serving(tmp_path, IMAGE_REPO_PID_FILE=str(file)) as (process, _):
        await asyncio.sleep(0.1)
        assert int(file.read_text()) == process.pid
        process.send_signal(signal.SIGINT)
        await process.wait()

        assert not file.exists()


@pytest.mark.parametrize("option", ["IMAGE_REPO_PID_FILE", "IMAGE_REPO_DATA"])
async def test_a_place_that_cannot_be_used_is_said(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    process = await asyncio.create_subprocess_exec(
        *SERVER,
        env=os.environ
        | {
            "IMAGE_REPO_LISTEN": f"unix:{tmp_path}/s",
            "IMAGE_REPO_DATA": str(tmp_path),
            "IMAGE_REPO_WORKERS_COUNT": "1",
            option: str(tmp_path / "file" / "x"),
        },
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode in {1, 2}
    assert said.splitlines()[-1].startswith(b"image_repo: ")
