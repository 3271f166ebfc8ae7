"""SIGHUP in a terminal, and without one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAM = """
import asyncio, sys
from pathlib import Path
from image_repo.hangup import Hangup

async def main():
    hangup, stop, said = Hangup(), asyncio.Event(), Path(sys.argv[1])
    hangup.heed(lambda: said.write_text("read again"), stop.set)
    said.write_text("ready")
    await asyncio.wait_for(stop.wait(), 20)
    said.write_text("stopped")

asyncio.run(main())
"""


@contextmanager
def running(said: Path, *before: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The program in a terminal of its own, whose other end comes with it."""
    ours, its = os.openpty()
    with subprocess.Popen(
        ["setsid", "-c", *before, sys.executable, "-c", PROGRAM, said],
        stdin=its,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        os.close(its)
        try:
            assert eventually(said, "ready")
            yield process, ours
        finally:
            process.kill()


def eventually(said: Path, text: str) -> bool:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        if said.exists() and said.read_text() == text:
            return True
        time.sleep(0.05)
    return False


def test_a_signal_while_the_terminal_is_there_reads_again(tmp_path: Path) -> None:
    with running(tmp_path / "said") as (process, terminal):
        process.send_signal(signal.SIGHUP)

        assert eventually(tmp_path / "said", "read again")
        os.close(terminal)


def test_a_terminal_that_is_closed_stops_the_program(tmp_path: Path) -> None:
    with running(tmp_path / "said") as (process, terminal):
        os.close(terminal)

        assert eventually(tmp_path / "said", "stopped")
        assert process.wait(10) == 0


def test_what_nohup_has_started_outlives_its_terminal(tmp_path: Path) -> None:
    with running(tmp_path / "said", "nohup") as (process, terminal):
        os.close(terminal)

        assert eventually(tmp_path / "said", "read again")
        assert process.poll() is None
