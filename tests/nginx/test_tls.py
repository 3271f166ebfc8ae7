"""The guide's server block for TLS, before the configuration that is generated."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import pytest_asyncio
from aiohttp import web
from nginx.guide import TEXT, block, replaced
from nginx.harness import PATH, Front, Upstream, free_port, nginx_before, settings
from nginx.test_connections import cramped
from nginx.test_end_to_end import HOT, Site, site
from nginx.test_hops import ODD
from nginx.test_limits import FREE, Busy
from pictures import decode, jpeg

from image_repo.config import Config
from image_repo.nginx import render
from image_repo.nginx import settings as settings_of
from image_repo.transform.pool import Pool

HOST = "img.example.org"
BESIDES = re.findall(
    r"(?<=`)(?:http\.public_url|nginx\.trusted_proxies): \S+(?=`)", TEXT
)
"""What the guide has set besides the block."""


@dataclass(frozen=True)
class Fetched:
    version: str
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass
class Secure:
    """An nginx that speaks TLS, too."""

    front: Front
    port: int
    certificate: Path
    calls: int = 0

    async def fetch(
        self, target: str, *words: str, version: str = "--http2"
    ) -> Fetched:
        """Ask by curl for *target*, byte for byte, as of the default port."""
        self.calls += 1
        stem = self.front.directory / f"curl-{self.calls}"
        files = [stem.with_suffix(end) for end in (".head", ".body")]
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", version, "--cacert", str(self.certificate)),
            *("--connect-to", f"{HOST}:443:127.0.0.1:{self.port}"),
            *("-D", str(files[0]), "-o", str(files[1]), "-w", "%{http_version}"),
            *("--max-time", "30", *words, "--request-target", target),
            f"https://{HOST}/",
            stdout=asyncio.subprocess.PIPE,
        )
        said = (await process.communicate())[0].decode()
        assert process.returncode == 0, (target, said)
        *_, head = files[0].read_text("latin-1").strip().split("\n\n")
        first, *lines = head.splitlines()
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        body = files[1].read_bytes() if files[1].exists() else b""
        return Fetched(said, int(first.split()[1]), headers, body)

    def log(self) -> list[dict[str, object]]:
        lines = (self.front.directory / "image_repo.access.log").read_bytes()
        return [json.loads(line.decode("latin-1")) for line in lines.splitlines()]

    def faults(self) -> str:
        return (self.front.directory / "error.log").read_text()


def certified(directory: Path) -> tuple[Path, Path]:
    """Make a certificate, and its key."""
    certificate, key = directory / "img.pem", directory / "img.key"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "rsa:2048"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", f"/CN={HOST}"),
            *("-addext", f"subjectAltName=DNS:{HOST}"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


@asynccontextmanager
async def secured(front: Front, more: str = "") -> AsyncIterator[Secure]:
    """Put the guide's block, with *more*, before a running configuration of nginx."""
    port = free_port()
    certificate, key = certified(front.directory)
    words = {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "127.0.0.1:8080": f"127.0.0.1:{front.port}",
        "/etc/ssl/img.pem": str(certificate),
        "/etc/ssl/img.key": str(key),
        "server_tokens off;": f"server_tokens off;\n{more}",
    }
    conf = front.directory / "nginx.conf"
    said = replaced(block("ssl_certificate"), words)
    # what the server for TLS leaves to others: in this file nobody has set it
    log = f"access_log {front.directory}/other.log;"
    conf.write_text(conf.read_text().replace("http {", f"http {{\n{log}\n{said}", 1))
    pid = int((front.directory / "nginx.pid").read_text())
    before = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGHUP)
    async with asyncio.timeout(20):
        while not await listening(port) or any(
            Path("/proc", p).exists() for p in before
        ):
            await asyncio.sleep(0.02)
    yield Secure(front, port, certificate)


async def listening(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def told(config: Config) -> Config:
    """Return the configuration with what the guide has set besides the block."""
    said = dict(text.split(": ") for text in BESIDES)
    return replace(
        config,
        http=replace(config.http, public_url=said["http.public_url"]),
        nginx=replace(config.nginx, trusted_proxies=said["nginx.trusted_proxies"]),
    )


@dataclass
class Both:
    site: Site
    secure: Secure


@pytest_asyncio.fixture(scope="module")
async def both(pool: Pool) -> AsyncIterator[Both]:
    async with site(told(Config()), pool) as made, secured(made.front) as secure:
        for name in "ax":
            await made.front.ask(f"/images/{name}", "PUT", body=jpeg(90, 60))
        yield Both(made, secure)


async def test_http_2_is_spoken_and_hits_come_through(both: Both) -> None:
    first, second = [await both.secure.fetch(HOT) for _ in range(2)]

    assert [f.version for f in (first, second)] == ["2", "2"]
    assert [f.headers["x-cache"] for f in (first, second)] == ["MISS", "HIT"]
    assert first.body == second.body
    assert decode(second.body).size == (40, 27)
    assert second.headers["access-control-allow-origin"] == "*"
    assert second.headers["server"] == "nginx"  # but for its version


async def test_a_range_and_a_304_come_through(both: Both) -> None:
    whole = await both.secure.fetch(HOT)

    part = await both.secure.fetch(HOT, "-H", "Range: bytes=5-9")
    beyond = await both.secure.fetch(HOT, "-H", "Range: bytes=90000-")
    etag = f"If-None-Match: {whole.headers['etag']}"
    known = await both.secure.fetch(HOT, "-H", etag)

    assert (part.status, part.body) == (206, whole.body[5:10])
    assert beyond.status == 416
    assert (known.status, known.body) == (304, b"")
    assert known.headers["etag"] == whole.headers["etag"]


async def test_an_odd_url_has_the_same_status_with_tls(both: Both) -> None:
    targets = ("/images/x%2Fy", "//images//x", "/images/a?w=" + "4" * 9000, *ODD)
    places = asyncio.Semaphore(4)

    async def compare(target: str) -> None:
        async with places:
            expected = await both.site.front.ask(target)
            found = await both.secure.fetch(target)
        assert (target, found.status) == (target, expected.status)
        if expected.status == 200 and "url=" not in target:
            assert found.body == expected.body

    await asyncio.gather(*(compare(target) for target in targets))


async def test_an_upload_of_some_megabytes_arrives_whole(
    both: Both, tmp_path: Path
) -> None:
    """A JPEG may have anything behind its end."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(jpeg(90, 60) + os.urandom(8_000_000))

    for name, words in (("raw", ("-T", str(file))), ("form", ("-F", f"file=@{file}"))):
        sent = await both.secure.fetch(f"/images/sent-{name}", *words)
        assert (sent.version, sent.status) == ("2", 201)
        assert json.loads(sent.body)["bytes"] == file.stat().st_size
    assert "buffered to a temporary file" not in both.secure.faults()


async def test_what_is_too_large_is_refused_by_the_next_nginx(
    both: Both, tmp_path: Path
) -> None:
    file = tmp_path / "large"
    with file.open("wb") as made:
        made.truncate(both.site.config.limits.upload_bytes + 2**21)

    for version in ("--http2", "--http1.1"):
        words = ("-T", str(file))
        refused = await both.secure.fetch("/images/l", *words, version=version)
        assert refused.status == 413
        assert json.loads(refused.body)["status"] == 413


async def test_limits_and_the_log_know_the_client_before_tls(both: Both) -> None:
    await both.secure.fetch("/images/a/_/w_31.png", "--interface", "127.0.0.2")
    await both.secure.fetch(
        "/images/a/_/w_32.png",
        *("--interface", "127.0.0.3", "-H", "X-Forwarded-For: 6.6.6.6"),
    )

    clients = {line["path"]: line["client"] for line in both.secure.log()}
    assert clients["/images/a/_/w_31.png"] == "127.0.0.2"
    assert clients["/images/a/_/w_32.png"] == "127.0.0.3"


async def test_the_client_behind_a_cdn_is_known_and_none_is_invented(
    tmp_path: Path,
) -> None:
    cdn = replaced(block("set_real_ip_from"), {"192.0.2.0/24": "127.0.0.2"})
    base = settings(tmp_path).options
    options = replace(base, trusted_proxies="127.0.0.1")
    async with (
        nginx_before(Upstream().app, tmp_path, options=options) as front,
        secured(front, cdn) as secure,
    ):
        for number in (2, 3):
            words = ("--interface", f"127.0.0.{number}")
            await secure.fetch(PATH, *words, "-H", "X-Forwarded-For: 198.51.100.7")

    assert [line["client"] for line in secure.log()] == ["198.51.100.7", "127.0.0.3"]


async def test_connections_between_the_two_are_kept(tmp_path: Path) -> None:
    async with (
        nginx_before(Upstream().app, tmp_path) as front,
        secured(front) as secure,
    ):
        await secure.fetch(PATH)
        before = await accepted(front)
        for _ in range(20):
            await secure.fetch(PATH)
        taken = await accepted(front) - before

    assert 20 <= taken <= 20 + 8  # each of curl's, and one of each process


async def accepted(front: Front) -> int:
    """Return how many connections nginx has accepted."""
    connector = aiohttp.UnixConnector(front.settings.cold.removeprefix("unix:"))
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://localhost/nginx_status") as answer,
    ):
        said = await answer.text()
    return int(said.splitlines()[2].split()[0])


async def test_a_page_of_the_same_address_may_write_and_no_other(
    both: Both, tmp_path: Path
) -> None:
    file = tmp_path / "photo.jpg"
    file.write_bytes(jpeg(90, 60))
    statuses = {}
    for host, origin in (
        (HOST, HOST),  # as http.public_url
        ("www.example.org:444", "www.example.org:444"),
        (HOST, "www.example.org"),
    ):
        words = ("-H", f"Host: {host}", "-H", f"Origin: https://{origin}")
        put = await both.secure.fetch("/images/w", "-T", str(file), *words)
        statuses[origin] = put.status
        if put.status < 300:
            assert put.headers["location"] == f"https://{HOST}/images/w"

    assert list(statuses.values()) == [201, 200, 403]


async def test_no_log_has_what_signs_a_link(both: Both) -> None:
    said = json.loads((await both.secure.fetch(f"{HOT}?url=True")).body)
    target = said["url"].removeprefix(f"https://{HOST}")
    assert "temp_url_sig=" in target

    followed = await both.secure.fetch(target)

    assert followed.status == 200
    for file in both.secure.front.directory.glob("*.log"):
        assert b"temp_url_sig" not in file.read_bytes(), file.name


async def test_without_being_told_nginx_takes_all_for_one_client(
    tmp_path: Path,
) -> None:
    clients = {}
    for trusted in ("", "127.0.0.1"):
        busy = Busy()
        directory = tmp_path / ("some" if trusted else "none")
        directory.mkdir()
        base = settings(directory).options
        changes = {**FREE, "cold_per_client": 1, "trusted_proxies": trusted}
        options = replace(base, **changes)  # type: ignore[arg-type] # checked by the class
        async with (
            nginx_before(Upstream(busy).app, directory, options=options) as front,
            secured(front) as secure,
        ):
            words = ("--interface", "127.0.0.2")
            target = "/images/slow/_/w_4.webp"
            begun = asyncio.create_task(secure.fetch(target, *words))
            await busy.full(1)
            others = [
                await secure.fetch(PATH, "--interface", f"127.0.0.{n}") for n in (2, 3)
            ]
            busy.free.set()
            assert (await begun).status == 200
        clients[trusted] = [other.status for other in others]

    assert clients == {"": [503, 503], "127.0.0.1": [503, 200]}


async def test_an_upload_reaches_the_server_while_it_is_being_sent(
    tmp_path: Path,
) -> None:
    begun = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        await request.content.readany()
        begun.set()
        return web.Response(text=str(len(await request.read())))

    app = web.Application()
    app.router.add_put("/images/x", receive)
    async with nginx_before(app, tmp_path) as front, secured(front) as secure:
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", "--http2", "--cacert", str(secure.certificate)),
            *("--connect-to", f"{HOST}:443:127.0.0.1:{secure.port}"),
            *("-T", "-", f"https://{HOST}/images/x"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert process.stdin is not None
        process.stdin.write(b"x" * 100_000)
        await process.stdin.drain()
        async with asyncio.timeout(10):
            await begun.wait()
        await process.communicate(b"x" * 100_000)

    assert process.returncode == 0


async def test_a_large_answer_waits_for_its_client_and_not_on_the_disk(
    tmp_path: Path,
) -> None:
    """As a zip of many images, of which nobody has to keep what is not yet taken."""

    async def large(*_: object) -> web.StreamResponse:
        return web.Response(body=bytes(30_000_000))

    app = web.Application()
    app.router.add_get("/{any:.*}", large)
    async with (
        nginx_before(app, tmp_path) as front,
        secured(front) as secure,
        aiohttp.ClientSession(read_bufsize=2**16) as session,
    ):
        url = f"https://127.0.0.1:{secure.port}/images/x/"
        async with session.get(url, ssl=False) as answer:
            await asyncio.sleep(1)
            taken = len(await answer.read())
        faults = secure.faults()

    assert taken == 30_000_000
    assert "temporary file" not in faults


async def test_a_cold_request_takes_two_connections_more_with_tls(
    tmp_path: Path,
) -> None:
    """Of 128 nginx gives 120, some of which are sockets that listen."""
    async with (
        cramped(tmp_path, 128) as (front, busy),
        secured(front) as secure,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):

        async def ask(n: int) -> None:
            url = f"https://127.0.0.1:{secure.port}/images/slow{n}/_/w_4.webp"
            with suppress(aiohttp.ClientError):
                async with session.get(url, ssl=False):
                    pass

        begun = [asyncio.create_task(ask(n)) for n in range(40)]
        await asyncio.sleep(1)
        waiting = busy.waiting
        busy.free.set()
        await asyncio.gather(*begun)

    assert 14 <= waiting <= 120 // 6


def test_the_next_nginx_gives_up_first() -> None:
    text = render(settings_of(Config(), None))
    (own,) = re.findall(r"proxy_read_timeout (\d+)s;", block("ssl_certificate"))
    waits = dict(re.findall(r"(proxy_(?:read|cache_lock)_timeout) (\d+)s;", text))

    assert len(waits) == 2
    assert int(own) > sum(map(int, waits.values()))
