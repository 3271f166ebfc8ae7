"""A real nginx on a free port before any application, and a stand-in for one."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, unquote_to_bytes

from aiohttp import web
from multidict import CIMultiDict

from image_repo.assumptions import Assumptions
from image_repo.nginx import NginxSettings, render
from image_repo.purge import NginxOptions, cache_file

SECRET = "a-secret-of-these-tests"
RECIPE = "0123456789abcdef"
BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
PATH = "/images/a/_/w_400.webp"
ASSUMED = Assumptions("full.webp", "w_50-h_50-thumb_els.webp")
"""What the stand-in means, which knows one kind alone."""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: CIMultiDict[str]
    body: bytes

    @property
    def cache(self) -> str | None:
        return self.headers.get("X-Cache")


async def ask(
    port: int,
    target: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes = b"",
) -> Answer:
    """Send *target* byte for byte, which clients with a URL type would not."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: localhost:{port}"]
    given = {"Connection": "close", **(headers or {})}
    if body:
        given.setdefault("Content-Length", str(len(body)))
    lines += [f"{name}: {value}" for name, value in given.items()]
    sent = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    return await ask_bytes(port, sent, head=method == "HEAD")


async def ask_bytes(port: int, sent: bytes, *, head: bool = False) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        async with asyncio.timeout(40):
            return await _answer(reader, head=head)
    finally:
        writer.close()


async def _answer(reader: asyncio.StreamReader, *, head: bool) -> Answer:
    top = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = top.rstrip("\r\n").split("\r\n")
    found = CIMultiDict[str]()
    for line in lines:
        name, _, value = line.partition(":")
        found.add(name, value.strip())
    status = int(first.split()[1])
    if head or status == 304:
        rest = await reader.read(-1)
    elif "Content-Length" in found:
        rest = await reader.readexactly(int(found["Content-Length"]))
    else:
        rest = await reader.read(-1)
        if found.get("Transfer-Encoding") == "chunked":
            rest = _whole(rest)
    return Answer(status, found, rest)


def _whole(chunks: bytes) -> bytes:
    found = b""
    while chunks:
        size, _, chunks = chunks.partition(b"\r\n")
        found += chunks[: int(size, 16)]
        chunks = chunks[int(size, 16) + 2 :]
    return found


@dataclass(frozen=True)
class Front:
    """A running nginx."""

    port: int
    directory: Path
    settings: NginxSettings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cache(self) -> Path:
        return Path(self.settings.options.cache_path)

    def cache_file(self, path: str) -> Path:
        return cache_file(self.cache, self.settings.recipe, path)

    async def ask(
        self,
        target: str = PATH,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        return await ask(self.port, target, method, headers, body)

    async def several(self, count: int, target: str = PATH) -> list[Answer]:
        return await asyncio.gather(*(self.ask(target) for _ in range(count)))


def free_port() -> int:
    while True:
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port: int = found.getsockname()[1]
        if "443" not in str(port):  # which gixy takes for TLS
            return port


def settings(directory: Path, **changes: object) -> NginxSettings:
    options = NginxOptions(
        listen=f"127.0.0.1:{free_port()}",
        cache_path=str(directory / "cache"),
        cache_keys=2**20,
    )
    base = NginxSettings(
        options=options,
        upstream="127.0.0.1:9",
        recipe=RECIPE,
        upload_bytes=2**20,
        deadline=20,
        store=80,
        secret=SECRET,
        assumed=ASSUMED,
        directory=directory,
        user="root" if os.geteuid() == 0 else "",
    )
    return replace(base, **changes)  # type: ignore[arg-type] # checked by the class


def program() -> str:
    found = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert found is not None, "these tests need nginx"
    return found


@asynccontextmanager
async def serving(app: web.Application) -> AsyncIterator[int]:
    """Run *app* alone; yield its port."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()


@asynccontextmanager
async def nginx_before(
    app: web.Application, directory: Path, times: int = 1, **changes: object
) -> AsyncIterator[Front]:
    """Run nginx before *app*, with what `render` makes of *changes*.

    *times*: how many servers nginx takes it for.
    """
    async with serving(app) as port:
        where = f"127.0.0.1:{port}"
        chosen = settings(directory, **({"upstream": where} | changes))
        if times > 1:
            options = replace(chosen.options, servers=" ".join([where] * times))
            chosen = replace(chosen, options=options)
        async with nginx(chosen) as front:
            yield front


@asynccontextmanager
async def nginx(chosen: NginxSettings) -> AsyncIterator[Front]:
    directory = chosen.directory
    assert directory is not None
    conf = directory / "nginx.conf"
    conf.write_text(render(chosen))
    async with nginx_from(conf, chosen, directory) as front:
        yield front


@asynccontextmanager
async def nginx_from(
    conf: Path, chosen: NginxSettings, directory: Path, *words: str
) -> AsyncIterator[Front]:
    """Run nginx with *conf*, which holds what was *chosen*, and more *words*."""
    child = await asyncio.create_subprocess_exec(
        program(), "-c", str(conf), *words, stderr=asyncio.subprocess.PIPE
    )
    port = int(chosen.options.listen.rpartition(":")[2])
    try:
        await _listening(port, child)
        yield Front(port, directory, chosen)
    finally:
        if child.returncode is None:
            child.send_signal(signal.SIGTERM)
        await child.communicate()


async def _listening(port: int, child: asyncio.subprocess.Process) -> None:
    for _ in range(200):
        assert child.returncode is None, "nginx has not started"
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise AssertionError("nginx does not listen")


# The stand-in


@dataclass(frozen=True)
class Asked:
    method: str
    target: str
    headers: CIMultiDict[str]
    body: bytes


Answering = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


async def image(_: web.Request, path: str) -> web.StreamResponse:
    """Answer the derived image of a canonical *path*."""
    return web.Response(
        body=b"bytes of " + unquote_to_bytes(path),
        content_type="image/webp",
        headers={
            "ETag": '"one"',
            "Cache-Control": "public, max-age=60, s-maxage=600",
            "Link": f'<{path}>; rel="canonical"',
        },
    )


def problem(status: int, cached: str = "1", **more: str) -> web.Response:
    """Return an error as the server sends it."""
    headers = {"X-Accel-Expires": cached, "Cache-Control": "no-store", **more}
    return web.Response(status=status, headers=headers, text="problem")


@dataclass
class Upstream:
    """A server that keeps the contract of the two hops and records what it is asked.

    Images are `/images/{name}/_/w_{n}.webp` and its alias `/images/{name}?w={n}`.
    """

    answer: Answering = image
    behind: bool = True
    asked: list[Asked] = field(default_factory=list)

    @property
    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{any:(?s:.*)}", self._handle)
        return app

    @property
    def hops(self) -> list[str]:
        """What the cached hop has asked for."""
        return [a.target for a in self.asked if a.target.startswith("/_c/")]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        raw = request.raw_path
        body = await request.read()
        headers = CIMultiDict(request.headers)
        self.asked.append(Asked(request.method, raw, headers, body))
        if raw == "/healthz":
            return web.Response(text="ok")
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=201 if raw.startswith("/images/") else 404)
        hop = self.behind and raw.startswith("/_c/")
        path = canonical(raw.removeprefix("/_c") if hop else raw)
        if path is None:
            return problem(400)
        here = hop and unquote(raw.removeprefix("/_c")) == unquote(path)
        if here or not self.behind:
            return await self.answer(request, path)
        return web.Response(headers={"X-Accel-Redirect": "/_c" + path})


def canonical(raw: str) -> str | None:
    """Return the canonical path of a raw target, or None: it has no meaning."""
    path, _, query = raw.partition("?")
    head, *parts = path.split("/")
    segments = [unquote(part, errors="surrogateescape") for part in parts]
    odd = any(s in {"", ".", ".."} or "/" in s or min(s) < " " for s in segments)
    if head or odd or len(segments) < 2 or segments[0] != "images":
        return None
    words = dict(parse_qsl(query, keep_blank_values=True))
    if "#" in raw or BAD_ESCAPE.search(raw) or set(words) - {"w"}:
        return None
    if segments[-2] == "_":
        text = segments.pop().removeprefix("w_").removesuffix(".webp")
        segments.pop()
        words = {} if words else {"w": text}
    width = words.get("w", "")
    if not (width.isascii() and width.isdecimal()) or "_" in segments:
        return None
    try:
        name = quote("/".join(segments), safe="/@+")
    except UnicodeEncodeError:
        return None
    return f"/{name}/_/w_{int(width)}.webp"
