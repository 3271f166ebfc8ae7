"""One worker as the server sees it: a child process and the socket to it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from image_repo.transform.frames import (
    LENGTHS,
    FrameError,
    Head,
    Message,
    decode,
    encode,
    lengths,
)

START_SECONDS = 60.0
"""How long a worker may take to start: half a second, but not on a cold disk."""

_END_SECONDS = 2.0  # an idle worker ends in a tenth of that


class Worker:
    """A child process that serves jobs; made by `start`.

    Attributes:
        process: The child.
        sock: Does not block.
        hello: What the worker said of itself.
    """

    def __init__(self, process: subprocess.Popen[bytes], sock: socket.socket) -> None:
        self.process = process
        self.sock = sock
        self.hello: Mapping[str, object] = {}

    @classmethod
    async def start(
        cls, environment: Mapping[str, str], folder: Path, settings: Head
    ) -> Self:
        """Start a process and wait until it is ready for jobs.

        Raises:
            FrameError: It ended at once; its reason is on the standard error output.
            OSError: There can be no process.
            TimeoutError: It did not answer.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        # In a thread, since to start a program blocks until it has begun; shielded,
        # so that there is no process that nobody knows.
        spawning = asyncio.ensure_future(
            asyncio.to_thread(_spawn, theirs, environment, folder)
        )
        try:
            process = await asyncio.shield(spawning)
        except asyncio.CancelledError:
            await cls(await spawning, ours).end()
            raise
        except BaseException:
            ours.close()
            raise
        worker = cls(process, ours)
        try:
            async with asyncio.timeout(START_SECONDS):
                await asyncio.get_running_loop().sock_sendall(ours, encode(settings))
                worker.hello = (await worker.receive()).head
        except BaseException:
            await worker.end()
            raise
        return worker

    async def receive(self) -> Message:
        """Wait for a message.

        Raises:
            FrameError: The worker has ended, or sent what is no message.
        """
        head, body = lengths(await self._exactly(LENGTHS.size))
        return Message(decode(await self._exactly(head)), await self._exactly(body))

    async def _exactly(self, count: int) -> bytes:
        # Its value is the very bytes received into; a bytearray's would be a copy.
        data = io.BytesIO(bytes(count))
        view = data.getbuffer()
        loop = asyncio.get_running_loop()
        while view:
            try:
                got = await loop.sock_recv_into(self.sock, view)
            except OSError as e:
                raise FrameError(f"the socket of a worker failed: {e}") from e
            if not got:
                raise FrameError("a worker has ended")
            view = view[got:]
        view.release()  # or the value would be a copy
        return data.getvalue()

    async def end(self, *, kill: bool = True) -> None:
        """End the process and wait for it; without *kill* let it end by itself."""
        self.sock.close()
        if not kill:
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(self.process.wait, _END_SECONDS)
        self.process.kill()
        await asyncio.to_thread(self.process.wait)


def _spawn(
    theirs: socket.socket, environment: Mapping[str, str], folder: Path
) -> subprocess.Popen[bytes]:
    with theirs:
        descriptor = theirs.fileno()
        return subprocess.Popen(  # noqa: S603 - our own module, and no shell
            [
                sys.executable,
                "-P",
                "-m",
                "image_repo.transform.worker",
                str(descriptor),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            pass_fds=(descriptor,),
            start_new_session=True,  # a terminal's Ctrl-C is for the server
        )
