"""The whole server as a process."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
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
        assert answer.headers["X-Image-Repo"] == "disk"


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


async def log_of(process: asyncio.subprocess.Process, end: str) -> str:
    """Return what is logged up to the line that has *end*."""
    assert process.stderr is not None
    lines: list[str] = []
    async with asyncio.timeout(30):
        while not lines or end not in lines[-1]:
            lines.append((await process.stderr.readline()).decode())
            assert lines[-1], "the server ended"
    return "".join(lines)


async def test_sighup_applies_what_can_change_and_names_what_cannot(
    tmp_path: Path,
) -> None:
    file = tmp_path / "config.yml"
    file.write_text("http: {max_age: 7}")
    async with serving(tmp_path, "-y", str(file)) as (process, session):
        await session.put("/images/x", data=jpeg(300, 200))
        file.write_text(
            "{http: {max_age: 8, uploads: 9}, image_default_format: png,"
            " thumbnail_default_size: [30, 30], owner: me}"
        )
        process.send_signal(signal.SIGHUP)
        log = await log_of(process, "has been read again")
        async with session.get("/images/x?thumbnail=1&kind=png") as answer:
            thumbnail = answer
        async with session.get("/images/x") as answer:
            whole = answer

    assert whole.headers["Content-Type"] == "image/png"
    assert whole.headers["Cache-Control"].startswith("public, max-age=8,")
    assert thumbnail.headers["Content-Location"].startswith("/images/x/_/w_30-h_30-")
    assert "WARNING image_repo.assemble: option http.uploads has another value" in log
    assert "option owner (line 1): no longer used" in log
    assert log.count("has a new value") == 3


async def test_sighup_changes_how_long_links_are_valid(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    name, text = (
        "swift_cache_configuration",
        "{{url_lifetime: {}, url_lifetime_slack: 0}}",
    )
    file.write_text(f"{name}: {text.format(1000)}")

    async def lasts(session: aiohttp.ClientSession) -> float:
        async with session.get("/images/x?url=True") as answer:
            said = await answer.json()
        end = datetime.fromisoformat(said["expires"])
        return (end - datetime.now(UTC)).total_seconds()

    async with serving(tmp_path, "-y", str(file)) as (process, session):
        await session.put("/images/x", data=jpeg(300, 200))
        before = await lasts(session)
        file.write_text(f"{name}: {text.format(5000)}")
        process.send_signal(signal.SIGHUP)
        await log_of(process, "has been read again")
        after = await lasts(session)

    assert 900 < before <= 1001
    assert 4900 < after <= 5001


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_default_format: jpq", "option image_default_format is 'jpq'"),
        ("a: [", "is not YAML in line 1"),
        ("image_default_format: 2026-13-01", "is not YAML in line 1"),
        (
            "{http: {s_maxage: 31536000}, swift_cache_configuration: {lifetime: 0}}",
            "swift_cache_configuration.lifetime is 2592000",
        ),
    ],
)
async def test_a_wrong_file_leaves_a_running_server_as_it_was(
    tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "config.yml"
    file.write_text("image_default_format: webp")
    async with serving(tmp_path, "-y", str(file)) as (process, session):
        await session.put("/images/x", data=jpeg(300, 200))
        file.write_text(text)
        process.send_signal(signal.SIGHUP)
        log = await log_of(process, "the configuration stays as it was: ")
        async with session.get("/images/x") as answer:
            assert answer.headers["Content-Type"] == "image/webp"

    assert says in log


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
