"""What server and nginx together say on the terminal: that they serve, or not yet."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import sys
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

READY = 60.0  # seconds to the first sign of life; starting workers takes one or two
LATE = 3.0  # seconds after which it is said that the store is not ready
PATIENCE = 60.0  # seconds for one answer, once that was said
LOOK = 0.05  # seconds between two looks for a sign of life
AGAIN = (
    2.0  # seconds between two looks at a store that is late; each is a line in a log
)

_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3}) ")


@dataclass(frozen=True, slots=True)
class Front:
    """Where a server is seen through nginx.

    Attributes:
        address: One on which nginx listens.
        port: Its port.
        socket: The server's own; nginx complains in its log while there is none.
    """

    address: str
    port: int
    socket: Path

    async def ask(self, path: str, patience: float) -> tuple[int, bytes]:
        """Return the status and the body of an answer; 0: there was none in time."""
        everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
        target = everywhere.get(self.address, self.address)
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection(target, self.port)
                with contextlib.closing(writer):
                    writer.write(
                        f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode()
                    )
                    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        except OSError:  # TimeoutError is one
            return 0, b""
        status = _STATUS.match(head)
        return (int(status[1]) if status else 0), body


async def ready(front: Front, alive: asyncio.Event) -> None:
    """Say that images are served, once `/readyz` says so; that may take for ever.

    Once it is late, say why.

    Args:
        front: Where to ask.
        alive: Is set at the first sign of life, which is the answer of `/healthz`.
    """
    while not front.socket.exists() or not await _ok(front, "/healthz"):  # noqa: ASYNC110
        await asyncio.sleep(LOOK)
    alive.set()
    clock = asyncio.get_running_loop()
    late, told = clock.time() + LATE, False
    while True:
        status, body = await front.ask("/readyz", PATIENCE if told else LATE)
        if status == HTTPStatus.OK:
            break
        if not told and clock.time() >= late:
            told = True
            tell(f"serving, but the store is not ready yet: {_detail(body)}")
        await asyncio.sleep(AGAIN if told else LOOK * 4)
    sys.stdout.write(f"ready: http://localhost:{front.port}/images\n")
    sys.stdout.flush()


async def _ok(front: Front, path: str) -> bool:
    return (await front.ask(path, LATE))[0] == HTTPStatus.OK


def _detail(body: bytes) -> str:
    """Return what the server says is wrong (RFC 9457)."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    detail = problem.get("detail") if isinstance(problem, dict) else None
    return str(detail or "it does not answer")


async def silence(alive: asyncio.Event) -> None:
    """Return when there was no sign of life in time; otherwise never."""
    try:
        async with asyncio.timeout(READY):
            await alive.wait()
    except TimeoutError:
        tell(f"the server has not answered within {READY:g} s; giving up")
        return
    await asyncio.Event().wait()


def tell(message: str) -> None:
    """Say something to whoever watches the terminal."""
    sys.stderr.write(f"image_repo: {message}\n")
