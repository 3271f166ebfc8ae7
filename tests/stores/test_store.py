"""What all stores share: threads that are left, and objects that end too early."""

from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from datetime import UTC, datetime
from typing import BinaryIO

import pytest

from image_repo.errors import StoreError
from image_repo.stores.store import Object, Stored, failed, in_thread, settled

STORED = Stored("x", 10, "r", "image/png", datetime.now(UTC), {})


class Gate:
    """Work in a thread that ends when it is let go."""

    def __init__(self, error: Exception | None = None) -> None:
        self.entered = threading.Event()
        self.let_go = threading.Event()
        self.ended = False
        self.error = error
        self.file: BinaryIO | None = None

    def __call__(self) -> Object:
        self.entered.set()
        assert self.let_go.wait(10)
        self.ended = True
        if self.error is not None:
            raise self.error
        self.file = tempfile.TemporaryFile()  # noqa: SIM115 - what is closed is tested
        return Object(STORED, self.file)


async def started(gate: Gate) -> None:
    while not gate.entered.is_set():
        await asyncio.sleep(0.001)


async def closed(gate: Gate) -> bool:
    async with asyncio.timeout(5):
        while gate.file is None or not gate.file.closed:
            await asyncio.sleep(0.001)
    return True


async def test_a_caller_that_is_cancelled_leaves_a_thread_that_reads() -> None:
    gate = Gate()
    task = asyncio.create_task(in_thread(gate))
    await started(gate)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not gate.ended
    gate.let_go.set()
    assert await closed(gate)


async def test_an_error_that_comes_too_late_bothers_nobody() -> None:
    gate = Gate(StoreError("late"))
    task = asyncio.create_task(in_thread(gate))
    await started(gate)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    gate.let_go.set()
    await asyncio.sleep(0.05)
    assert gate.ended


async def test_a_caller_that_is_cancelled_waits_for_a_thread_that_writes() -> None:
    gate = Gate()
    task = asyncio.create_task(settled(gate))
    await started(gate)

    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.01)
    assert not task.done()
    gate.let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert gate.ended
    assert await closed(gate)


async def test_results_and_errors_of_threads_come_back() -> None:
    assert await in_thread(int, "7") == 7
    assert await settled(int, "7", base=8) == 7
    with pytest.raises(ValueError, match="invalid literal"):
        await in_thread(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        await settled(int, "x")


async def test_an_object_that_ends_too_early_is_an_error_of_the_store() -> None:
    with Object(STORED, tempfile.TemporaryFile()) as found:
        found.file.write(b"012345678")
        found.file.flush()

        with pytest.raises(StoreError, match=r"^'x' ends before its last byte$"):
            await found.read()


async def test_an_object_that_cannot_be_read_is_an_error_of_the_store() -> None:
    reading, writing = os.pipe()
    os.close(writing)

    with (
        Object(STORED, os.fdopen(reading, "rb")) as found,
        pytest.raises(StoreError, match=r"^cannot read 'x': Illegal seek$"),
    ):
        await found.read()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device", "/secret"), "No space left on device"),
        (OSError("/secret"), "OSError"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_what_failed_is_said_without_a_path(error: OSError, reason: str) -> None:
    assert str(failed("write", "a/b", error)) == f"cannot write 'a/b': {reason}"
