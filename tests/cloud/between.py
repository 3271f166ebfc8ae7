"""A proxy before the real Swift or Keystone that passes everything on, or does harm.

What it answers is what the real server answered, at that time or before, but for the
fault that a test asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date"}


@dataclass(frozen=True, slots=True)
class Said:
    """What the real server said."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    def but(self, **headers: str) -> Said:
        """Return the same with other headers; _ stands for a hyphen."""
        changed = self.headers.copy()
        for name, value in headers.items():
            changed[name.replace("_", "-")] = value
        return replace(self, headers=changed)


Ask = Callable[[], Awaitable[Said]]

Fault = Callable[[web.Request, Ask], Awaitable[Said | None]]
"""Returns what to answer; None: it has answered, or cut the connection, by itself."""


@dataclass
class Between:
    """What a test steers.

    Attributes:
        url: The proxy's scheme, host and port.
        asked: Method and path of every request, in order.
        tokens: Those that requests had.
    """

    url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    _faults: list[tuple[str, str, Fault]] = field(default_factory=list)

    def harm(
        self, fault: Fault, *, times: int = 1, method: str = "", ends: str = ""
    ) -> None:
        """Do *fault* to the next requests of a method whose path ends so."""
        self._faults += [(method, ends, fault)] * times

    def spare(self) -> None:
        """Do no more harm."""
        self._faults.clear()

    def count(self, method: str, ends: str = "") -> int:
        """Return how many such requests there were."""
        return sum(m == method and p.endswith(ends) for m, p in self.asked)

    def next_fault(self, method: str, path: str) -> Fault | None:
        """Take the first fault that is meant for this request."""
        for index, (of, ends, fault) in enumerate(self._faults):
            if of in {"", method} and path.endswith(ends):
                del self._faults[index]
                return fault
        return None


@asynccontextmanager
async def between(upstream: str) -> AsyncIterator[Between]:
    """Run a proxy before the server whose scheme, host and port *upstream* has."""
    base = "{0.scheme}://{0.netloc}".format(urlsplit(upstream))

    async def handle(request: web.Request) -> web.StreamResponse:
        made.asked.append((request.method, request.path))
        made.tokens.update(request.headers.getall("X-Auth-Token", ()))
        body = await request.read() if request.body_exists else None

        async def ask() -> Said:
            async with session.request(
                request.method,
                URL(base + request.raw_path, encoded=True),
                data=body,
                headers=request.headers,
                allow_redirects=False,
            ) as answer:
                said = await answer.read()
                return Said(answer.status, CIMultiDict(answer.headers), said)

        fault = made.next_fault(request.method, request.path)
        said = await (ask() if fault is None else fault(request, ask))
        if said is None:
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        return _response(request, said)

    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:(?s:.*)}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    async with aiohttp.ClientSession(
        auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
    ) as session:
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        made = Between(f"http://{host}:{port}")
        try:
            yield made
        finally:
            await runner.cleanup()


def _response(request: web.Request, said: Said) -> web.Response:
    headers = CIMultiDict(
        (name, value) for name, value in said.headers.items() if name.lower() not in HOP
    )
    if request.method == "HEAD":
        headers["Content-Length"] = said.headers.get("Content-Length", "0")
    return web.Response(status=said.status, headers=headers, body=said.body)


# -- faults ----------------------------------------------------------------------------


def status(number: int, *, passed_on: bool = False) -> Fault:
    """Answer so; *passed_on*: after the real server has done what was asked."""

    async def fault(_: web.Request, ask: Ask) -> Said:
        if passed_on:
            await ask()
        return Said(number, CIMultiDict({"Content-Type": "text/plain"}), b"")

    return fault


def late(seconds: float, *, passed_on: bool = True) -> Fault:
    """Answer after a while; *passed_on*: do at once what was asked."""

    async def fault(_: web.Request, ask: Ask) -> Said:
        if passed_on:
            said = await ask()
            await asyncio.sleep(seconds)
            return said
        await asyncio.sleep(seconds)
        return await ask()

    return fault


def stale(said: Said) -> Fault:
    """Answer as a replica does that has not heard of what came after."""

    async def fault(_: web.Request, _ask: Ask) -> Said:
        return said

    return fault


def headers(**changed: str) -> Fault:
    """Change headers of the answer."""

    async def fault(_: web.Request, ask: Ask) -> Said:
        return (await ask()).but(**changed)

    return fault


def garbled() -> Fault:
    """Answer a body with one byte changed."""

    async def fault(_: web.Request, ask: Ask) -> Said:
        said = await ask()
        return replace(said, body=bytes([said.body[0] ^ 1]) + said.body[1:])

    return fault


def lost(*, passed_on: bool) -> Fault:
    """Cut the connection; *passed_on*: after the real server has done its work."""

    async def fault(_: web.Request, ask: Ask) -> None:
        if passed_on:
            await ask()

    return fault


def cut(after: int, *, pause: float = 0.0) -> Fault:
    """Send so many bytes of the body, wait, and cut the connection."""

    async def fault(request: web.Request, ask: Ask) -> Said | None:
        said = await ask()
        answer = _response(request, said)
        stream = web.StreamResponse(status=said.status, headers=answer.headers)
        stream.content_length = len(said.body)
        await stream.prepare(request)
        await stream.write(said.body[:after])
        await asyncio.sleep(pause)
        return None

    return fault


def trickle(size: int, pause: float) -> Fault:
    """Send the body in small pieces, with a pause before each."""

    async def fault(request: web.Request, ask: Ask) -> Said | None:
        said = await ask()
        answer = _response(request, said)
        stream = web.StreamResponse(status=said.status, headers=answer.headers)
        stream.content_length = len(said.body)
        await stream.prepare(request)
        for at in range(0, len(said.body), size):
            await asyncio.sleep(pause)
            await stream.write(said.body[at : at + size])
        return None

    return fault
