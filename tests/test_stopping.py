"""What a server that is stopped still does, as a process."""

from __future__ import annotations

import asyncio
import io
import os
import re
import signal
import socket
import time
import zipfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from caching import server
from nginx.harness import SECRET
from pictures import decode, encode, jpeg
from PIL import Image
from test_assemble import serving
from test_instances import fleet

SOON = 10.0
"""Seconds in which a server ends that waits for nothing; it gives requests 30."""


@dataclass
class Stopped:
    """A server that has had SIGTERM."""

    process: asyncio.subprocess.Process
    begun: float

    async def ended(self) -> float:
        """Return how many seconds it took."""
        async with asyncio.timeout(20):
            assert await self.process.wait() == 0
        return time.monotonic() - self.begun


async def stop(process: asyncio.subprocess.Process, port: int) -> Stopped:
    """Send SIGTERM; return once the server does not listen any more."""
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return Stopped(process, begun)
            writer.close()
            await asyncio.sleep(0.01)


@dataclass
class Connection:
    """A client's connection, byte for byte."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *parts: bytes) -> None:
        self.writer.writelines(parts)
        await self.writer.drain()

    async def get(self, target: str) -> None:
        await self.send(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    async def put(self, target: str, length: int) -> None:
        head = f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n"
        await self.send(head.encode())

    async def head(self) -> bytes:
        async with asyncio.timeout(40):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def answer(self) -> tuple[bytes, bytes]:
        """Return head and body, whose length is told."""
        head = await self.head()
        (length,) = re.findall(rb"(?i)content-length: (\d+)", head)
        return head, await self.reader.readexactly(int(length))


@asynccontextmanager
async def connected(port: int, buffer: int = 0) -> AsyncIterator[Connection]:
    """Connect; *buffer*: how many bytes the kernel takes while nobody reads them."""
    opened = socket.socket()
    if buffer:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    opened.setblocking(False)
    await asyncio.get_running_loop().sock_connect(opened, ("127.0.0.1", port))
    limit = buffer or 2**16
    reader, writer = await asyncio.open_connection(sock=opened, limit=limit)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


def noise(side: int) -> bytes:
    """A picture that can't be made smaller: about four bytes a pixel."""
    return encode(Image.frombytes("RGB", (side, side), os.urandom(3 * side**2)), "PNG")


def stored(data: Path) -> list[bytes]:
    """Return the originals in a directory, each with what is kept of it at its end."""
    files = (path for path in data.rglob("*") if path.is_file())
    return [body for body in map(Path.read_bytes, files) if body[1:4] == b"PNG"]


async def rest(to: Connection, body: bytes) -> None:
    """Send what is left of an upload, for about a second."""
    step = len(body) // 10 + 1
    for at in range(0, len(body), step):
        await to.send(body[at : at + step])
        await asyncio.sleep(0.1)


async def test_an_upload_under_way_is_taken_whole(tmp_path: Path) -> None:
    body = noise(300)
    async with server(tmp_path) as at, connected(at.port) as client:
        await client.put("/images/x", len(body))
        await client.send(body[:1000])
        await asyncio.sleep(0.2)
        stopped = await stop(at.process, at.port)
        await rest(client, body[1000:])
        head = await client.head()
        took = await stopped.ended()
        (found,) = stored(tmp_path / "data")
    async with server(tmp_path) as again:
        seen = await again.ask("/images/x/_/full.png")

    assert head.startswith(b"HTTP/1.1 201 ")
    assert b"\r\nConnection: close\r\n" in head
    assert 1 < took < SOON
    assert found.startswith(body)
    assert decode(seen.body).tobytes() == decode(body).tobytes()
    assert at.faults() == []


async def test_an_upload_under_way_through_nginx_is_taken_whole() -> None:
    body = noise(300)
    async with fleet(1) as made:
        (at,), port = made.instances, made.front.port
        async with connected(port) as client:
            await client.put("/images/x", len(body))
            await client.send(body[:1000])
            await asyncio.sleep(0.2)
            stopped = await stop(at.process, at.port)
            await rest(client, body[1000:])
            head = await client.head()
            took = await stopped.ended()
        (found,) = stored(made.directory / "data")

    assert head.startswith(b"HTTP/1.1 201 ")
    assert 1 < took < SOON
    assert found.startswith(body)


async def test_a_change_under_way_is_purged_by_way_of_the_server_that_stops() -> None:
    """Nobody but nginx, which asks for that, is served meanwhile."""
    environ = {
        "IMAGE_REPO_NGINX_PURGE": "refresh",
        "IMAGE_REPO_HTTP_REFRESH_SECRET": SECRET,
    }
    path, body = "/images/x/_/w_40.png", noise(300)
    async with fleet(1, **environ) as made:
        (at,), front = made.instances, made.front
        await front.ask("/images/x", "PUT", body=jpeg())
        before = [(await front.ask(path)).cache for _ in range(2)]
        async with connected(front.port) as client:
            await client.put("/images/x", len(body))
            await client.send(body[:1000])
            await asyncio.sleep(0.2)
            stopped = Stopped(at.process, time.monotonic())
            at.process.send_signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            meanwhile = await front.ask("/images/x/_/w_50.png")
            await rest(client, body[1000:])
            head = await client.head()
            took = await stopped.ended()
        after = await front.ask(path)
        log = made.log(0)

    assert before == ["MISS", "HIT"]
    assert head.startswith(b"HTTP/1.1 200 ")
    assert "cannot purge" not in log
    assert (meanwhile.status, after.status) == (502, 502)
    assert 1 < took < SOON


@pytest.mark.parametrize(
    "target", ["/images/a/x/_/full.png", "/images/a/?kind=png"], ids=["image", "zip"]
)
async def test_an_answer_that_is_being_sent_is_sent_to_its_end(
    tmp_path: Path, target: str
) -> None:
    async with server(tmp_path) as at:
        for name in ("x", "y", "z"):
            await at.ask(f"/images/a/{name}", "PUT", noise(1200))
        whole = (await at.ask(target)).body
        async with connected(at.port, buffer=2**14) as client:
            await client.get(target)
            await client.head()
            stopped = await stop(at.process, at.port)
            await asyncio.sleep(1)
            assert at.process.returncode is None
            got = await client.reader.read(-1)
            took = await stopped.ended()

    chunked = target.endswith("kind=png")
    assert 1 < took < SOON
    assert len(whole) > 4_000_000
    assert unchunked(got) == whole if chunked else got == whole
    if chunked:
        assert len(zipfile.ZipFile(io.BytesIO(whole)).namelist()) == 3 + 1


def unchunked(text: bytes) -> bytes:
    found = []
    while text:
        size, _, text = text.partition(b"\r\n")
        found.append(text[: int(size, 16)])
        text = text[int(size, 16) + 2 :]
    return b"".join(found)


async def test_the_last_bytes_reach_a_client_that_is_slow_to_take_them(
    tmp_path: Path,
) -> None:
    """They wait in the process when the answer is done with for all who made it."""
    side = int(((held_by_the_kernel() + 2**15) / 3) ** 0.5)
    loop = asyncio.get_running_loop()
    async with serving(tmp_path) as (process, session):
        await session.put("/images/x", data=noise(side))
        async with session.get("/images/x/_/full.png") as answer:
            whole = await answer.read()
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            await loop.sock_connect(client, str(tmp_path / "s"))
            target = b"GET /images/x/_/full.png HTTP/1.1\r\nHost: x\r\n\r\n"
            await loop.sock_sendall(client, target)
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            await asyncio.sleep(2)
            assert process.returncode is None
            got = b""
            while part := await loop.sock_recv(client, 2**16):
                got += part
        await process.wait()

    assert got.endswith(whole)


def held_by_the_kernel() -> int:
    """Return how much can be sent into a socket file's connection that nobody reads."""
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        return one.send(bytes(2**24))


@pytest.mark.parametrize("seconds", [0, 1])
async def test_an_upload_that_does_not_end_is_cut_off(
    tmp_path: Path, seconds: int
) -> None:
    drain = {"IMAGE_REPO_HTTP_DRAIN_SECONDS": str(seconds)}
    body = noise(100)
    async with server(tmp_path, **drain) as at, connected(at.port) as client:
        await client.put("/images/x", len(body))
        await client.send(body[:-1])
        await asyncio.sleep(0.2)
        stopped = await stop(at.process, at.port)
        got = await client.reader.read(-1)
        took = await stopped.ended()
        (fault,) = at.faults()
    async with server(tmp_path) as again:
        seen = await again.ask("/images/x")

    assert got == b""
    assert seconds <= took < seconds + SOON
    assert fault.endswith("requests cut off, because they took too long: 1")
    assert seen.status == 404
    assert stored(tmp_path / "data") == []


async def test_connections_without_a_request_are_closed_at_once(
    tmp_path: Path,
) -> None:
    async with (
        server(tmp_path) as at,
        connected(at.port) as used,
        connected(at.port) as silent,
        connected(at.port) as begun,
        connected(at.port) as busy,
    ):
        await used.get("/healthz")
        head, _ = await used.answer()
        await begun.send(b"GET /healthz HTTP/1.1\r\n")
        await busy.put("/images/x", 1000)
        await asyncio.sleep(0.1)
        stopped = await stop(at.process, at.port)
        async with asyncio.timeout(5):
            ends = [await c.reader.read(-1) for c in (used, silent, begun)]
        assert at.process.returncode is None
        busy.writer.close()
        took = await stopped.ended()

    assert b"Connection" not in head
    assert ends == [b""] * 3
    assert took < SOON


async def test_of_what_was_asked_before_the_signal_nothing_fails(
    tmp_path: Path,
) -> None:
    """On connections that are new, and on others that have been used already."""
    async with server(tmp_path) as at, AsyncExitStack() as stack:
        await at.ask("/images/x", "PUT", jpeg(2000, 1500))
        every = [await stack.enter_async_context(connected(at.port)) for _ in range(99)]
        for client in every:
            await client.get("/healthz")
        for client in every:
            await client.answer()
        every += [
            await stack.enter_async_context(connected(at.port)) for _ in range(101)
        ]
        for n, client in enumerate(every):
            await client.get(f"/images/x/_/w_{500 + n % 20}.webp")
        stopped = await stop(at.process, at.port)
        heads = [(await client.answer())[0] for client in every]
        await stopped.ended()

    assert {head.split()[1] for head in heads} == {b"200"}
    assert all(b"\r\nConnection: close\r\n" in head for head in heads)


async def test_another_server_may_have_the_socket_file_meanwhile(
    tmp_path: Path,
) -> None:
    sent = asyncio.Event()
    body = jpeg()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:100]
        await sent.wait()
        yield body[100:]

    async with serving(tmp_path) as (old, to_old):
        upload = asyncio.create_task(to_old.put("/images/x", data=slowly()))
        await asyncio.sleep(0.2)
        old.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while (tmp_path / "s").exists():
                await asyncio.sleep(0.01)
        async with serving(tmp_path) as (_, to_new):
            sent.set()
            put = await upload
            await old.wait()
            async with to_new.get("/images/x") as answer:
                got = answer.status

    assert (put.status, got) == (201, 200)
