"""What a transfer shows, sums up, and leaves as its exit status."""

from __future__ import annotations

import asyncio
import io
import os
import pty
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest
from transfer.fakes import Screen

from image_repo.transfer.progress import (
    GIVE_UP,
    Outcome,
    Progress,
    Result,
    Summary,
    in_words,
)

PROGRAM = """
import asyncio, io, sys
from image_repo.errors import ConfigError, StoreError
from image_repo.stores.memory import MemoryStore
from image_repo.transfer.copying import copy
from image_repo.transfer.progress import run

class Down(MemoryStore):
    async def head(self, key):
        raise StoreError("no answer")

class Stuck(MemoryStore):
    async def put(self, key, body, **given):
        if key == "b":
            while shown.summary.counts.total() < 2:
                await asyncio.sleep(0.01)
            print("stuck", flush=True)
            await asyncio.Event().wait()
        return await super().put(key, body, **given)

async def work(progress):
    global shown
    shown = progress
    source = MemoryStore()
    for key in sys.argv[2:]:
        await source.put(key, io.BytesIO(b"123"), media_type="image/png")
    target = {"stuck": Stuck, "down": Down}.get(sys.argv[1], MemoryStore)()
    if sys.argv[1] == "conflict":
        await target.put("a", io.BytesIO(b"4"), media_type="image/png")
    if sys.argv[1] == "wrong":
        raise ConfigError("it is wrong")
    await copy(source, target, progress)

sys.exit(run(work))
"""


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *arguments]


def test_a_summary_is_one_line() -> None:
    summary = Summary()
    for result in (
        Result("a", Outcome.COPIED, 34_000_000),
        Result("b", Outcome.COPIED, 460_000),
        Result("c", Outcome.THERE),
        Result("d", Outcome.CONFLICT),
        Result("e", Outcome.NOT_IMAGE),
    ):
        summary.add(result)

    assert str(summary) == (
        "copied 2 (34.5 MB), already there 1, conflicts 1, not images 1, failed 0"
    )


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.COPIED, 0),
        (Outcome.WOULD, 0),
        (Outcome.THERE, 0),
        (Outcome.NOT_IMAGE, 0),
        (Outcome.GONE, 0),
        (Outcome.CONFLICT, 1),
        (Outcome.FAILED, 1),
    ],
)
def test_the_exit_status_says_whether_all_is_there(
    outcome: Outcome, status: int
) -> None:
    summary = Summary()
    summary.add(Result("a", outcome))

    assert summary.status == status


def test_only_failures_in_a_row_stop_the_whole() -> None:
    summary = Summary()
    failure = Result("a", Outcome.FAILED, reason="no answer", systemic=True)
    for result in [*[failure] * (GIVE_UP - 1), Result("b", Outcome.THERE)] * 2:
        summary.add(result)
    assert not summary.stopped

    for _ in range(GIVE_UP):
        summary.add(failure)

    assert "no answer" in summary.stopped


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (34_460_000, "34.5 MB"),
        (5 * 10**9, "5.0 GB"),
        (12_300 * 10**9, "12.3 TB"),
    ],
)
def test_bytes_are_told_as_people_read_them(size: int, words: str) -> None:
    assert in_words(size) == words


async def test_a_log_gets_a_line_every_so_often() -> None:
    log, now = io.StringIO(), iter((100.0, 102.0, *[102.0] * 100))
    async with Progress(log, every=0.01, clock=lambda: next(now)) as progress:
        progress.add(Result("a", Outcome.COPIED, 4_000_000))
        progress.step()
        while log.getvalue().count("\n") < 1:
            await asyncio.sleep(0.001)
        progress.expect(8)
        while log.getvalue().count("\n") < 3:
            await asyncio.sleep(0.001)

    lines = log.getvalue().splitlines()
    assert lines[0].startswith("1 images, 4.0 MB, 2.0 MB/s: copied 1 (4.0 MB), ")
    assert lines[2].startswith("1 of 8 images, 4.0 MB, ")
    assert "\r" not in log.getvalue()


async def test_a_log_that_ends_early_has_no_line_of_progress() -> None:
    log = io.StringIO()
    async with Progress(log) as progress:
        progress.step()
        await asyncio.sleep(0)

    assert log.getvalue() == ""


async def test_a_terminal_has_a_bar_and_lines_above_it() -> None:
    screen = Screen()
    async with Progress(screen) as progress:
        progress.expect(4)
        progress.add(Result("a", Outcome.COPIED, 4_000_000))
        await asyncio.sleep(0.11)  # no bar is drawn more often
        progress.step()
        progress.add(Result("b", Outcome.CONFLICT, reason="other bytes"))

    shown = screen.getvalue()
    assert "25%" in shown
    assert "1/4" in shown
    assert "4.0 MB, " in shown
    assert "\rconflict: 'b': other bytes\n" in shown


async def test_a_key_cannot_command_a_terminal() -> None:
    screen = Screen()
    async with Progress(screen) as progress:
        progress.add(Result("\x1b[2Jevil", Outcome.FAILED, reason="it is"))

    assert "'\\x1b[2Jevil'" in screen.getvalue()


@pytest.mark.parametrize(("how", "status"), [("plain", 0), ("conflict", 1)])
def test_the_summary_is_on_the_standard_output(how: str, status: int) -> None:
    done = subprocess.run(
        command(how, "a", "c"), capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == status
    assert done.stdout.startswith(f"copied {2 - status} (")
    assert done.stdout.count("\n") == 1
    assert done.stderr.count("\n") == status


def test_a_store_that_is_down_is_said_at_the_end() -> None:
    done = subprocess.run(
        command("down", *map(str, range(100))),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last == f"stopped: {GIVE_UP} failures in a row, the last: no answer"


def test_a_source_without_anything_is_remarked_on() -> None:
    done = subprocess.run(
        command("plain"), capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0
    assert done.stderr == "nothing was found\n"


def test_work_that_cannot_begin_has_no_summary() -> None:
    done = subprocess.run(
        command("wrong"), capture_output=True, text=True, timeout=30, check=False
    )

    assert "ConfigError: it is wrong" in done.stderr
    assert done.stdout == ""


def test_ctrl_c_ends_it_with_a_summary() -> None:
    with subprocess.Popen(
        command("stuck", "a", "b", "c"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert out.startswith("copied 2 (6 bytes), ")
    assert err == "interrupted: the same command goes on from here\n"


def test_the_bar_is_gone_when_all_is_done(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(ours, (24, 80))
    with (tmp_path / "out").open("wb") as out:
        process = subprocess.Popen(
            command("conflict", "a", "b"), stdout=out, stderr=theirs
        )
    os.close(theirs)
    shown = b""
    with suppress(OSError):  # as Linux says that a terminal has ended
        while part := os.read(ours, 4096):
            shown += part
    os.close(ours)

    assert process.wait(30) == 1
    assert b"images" in shown
    assert b"\rconflict: 'a': " in shown
    assert shown.split(b"\r")[-2].strip() == b""
    assert (tmp_path / "out").read_text().startswith("copied 1 (3 bytes), ")
