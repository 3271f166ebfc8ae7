from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiohttp import web
from nginx.harness import free_port

from image_repo import options
from image_repo.errors import ConfigError, OptionError
from image_repo.names import image_name
from image_repo.peers import PEER_HEADER, PeerOptions, Peers, addresses

SECRET = "a-secret-of-these-tests"
NAME = image_name("plots/é 7")
PURGE = "/images/plots/%C3%A9%207/_/purge"
LIVING = """
import asyncio, sys
from pathlib import Path
from image_repo.peers import Peers
async def live():
    async with Peers(Path(sys.argv[1]), (), "") as peers:
        await peers.announce(sys.argv[2])
        print("here", flush=True)
        await asyncio.sleep(60)
asyncio.run(live())
"""


@dataclass
class Server:
    """One that hears, and heeds who knows its secret."""

    peers: Peers
    status: int = 204
    seconds: float = 0.0
    heard: list[str] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)
    secrets: list[str] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.Response:
        secret = request.headers.get(PEER_HEADER, "")
        self.secrets.append(secret)
        if request.method != "POST" or not self.peers.own_secret(secret):
            return web.Response(status=403)
        assert request.transport is not None
        self.ports.add(request.transport.get_extra_info("peername")[1:2])
        self.heard.append(request.raw_path)
        await asyncio.sleep(self.seconds)
        return web.Response(status=self.status)


@asynccontextmanager
async def listening(server: Server, listen: str) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{any:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        host, _, port = listen.rpartition(":")
        if host == "unix":
            await web.UnixSite(runner, port).start()
        else:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        yield
    finally:
        await runner.cleanup()


@asynccontextmanager
async def here(
    directory: Path | None,
    listen: str = "",
    urls: tuple[str, ...] = (),
    secret: str = "",
    seconds: float = 2.0,
) -> AsyncIterator[Server]:
    """A server that listens, and says so to those who share the directory."""
    listen = listen or f"127.0.0.1:{free_port()}"
    async with Peers(directory, urls, secret, seconds) as peers:
        server = Server(peers)
        async with listening(server, listen):
            await peers.announce(listen)
            yield server


def entries(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.json"))


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.02)


# -- of one machine --------------------------------------------------------------------


async def test_all_that_share_a_directory_are_told_but_not_who_tells(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        one, *others = [
            await stack.enter_async_context(here(tmp_path / "a/b")) for _ in range(4)
        ]

        left = await one.peers.tell(NAME)

        assert left == ()
        assert [other.heard for other in others] == [[PURGE]] * 3
        assert one.heard == []


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:{}", "[::1]:{}", "[::]:{}", "localhost:{}", "unix:{}"]
)
async def test_a_server_is_reached_wherever_it_listens(
    tmp_path: Path, listen: str
) -> None:
    where = tmp_path / "a.sock" if "unix" in listen else free_port()
    async with (
        here(tmp_path / "peers", listen.format(where)) as other,
        here(tmp_path / "peers") as one,
    ):
        assert await one.peers.tell(NAME) == ()
        assert other.heard == [PURGE]


async def test_a_socket_is_reached_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with here(tmp_path, "unix:a.sock") as other, here(tmp_path) as one:
        monkeypatch.chdir("/")

        assert await one.peers.tell(NAME) == ()
        assert other.heard == [PURGE]


async def test_each_knows_its_own_secret_and_no_other(tmp_path: Path) -> None:
    async with here(tmp_path) as one, here(tmp_path) as other:
        await one.peers.tell(NAME)
        await other.peers.tell(NAME)
        (ones,), (others,) = one.secrets, other.secrets

        assert ones != others
        assert one.peers.own_secret(ones)
        assert not one.peers.own_secret(others)
        assert not one.peers.from_afar(ones)


@pytest.mark.parametrize("text", ["", "x", "é", "\udcff", SECRET + "x"])
async def test_nothing_else_is_a_secret(tmp_path: Path, text: str) -> None:
    async with (
        Peers(tmp_path, (), "") as one,
        Peers(None, ("http://x",), SECRET) as two,
    ):
        for peers in (one, two):
            assert not peers.own_secret(text)
            assert not peers.from_afar(text)
        assert not one.own_secret(SECRET)
        assert two.own_secret(SECRET)
        assert two.from_afar(SECRET)


async def test_nobody_else_may_read_who_is_here(tmp_path: Path) -> None:
    async with here(tmp_path / "peers"):
        (file,) = entries(tmp_path / "peers")

        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


async def test_who_has_left_is_told_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    async with here(tmp_path) as one:
        async with here(tmp_path) as other:
            pass

        assert await one.peers.tell(NAME) == ()
        assert other.heard == []
        assert len(entries(tmp_path)) == 1
    assert entries(tmp_path) == []


async def test_what_a_killed_server_left_is_removed_by_the_next_who_looks(
    tmp_path: Path,
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-c", LIVING, str(tmp_path), address],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        async with here(tmp_path) as one:
            assert await one.peers.tell(NAME) == (f"http://{address}",)

            process.kill()
            process.wait()

            assert len(entries(tmp_path)) == 2
            assert await one.peers.tell(NAME) == ()
            assert len(entries(tmp_path)) == 1


async def test_a_server_that_stands_still_does_not_stop_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(
        [sys.executable, "-c", LIVING, str(tmp_path), address],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        async with here(tmp_path) as other, here(tmp_path, seconds=0.5) as one:
            begun = time.monotonic()

            left = await one.peers.tell(NAME)

            assert left == (f"http://{address}",)
            assert time.monotonic() - begun < 1.5
            assert other.heard == [PURGE]
        process.kill()
    assert address in caplog.text


async def test_a_server_that_ends_while_it_is_told_counts_as_told(
    tmp_path: Path,
) -> None:
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(here(tmp_path))
        other.seconds = 60
        [entry] = entries(tmp_path)
        async with here(tmp_path, seconds=5) as one:
            telling = asyncio.create_task(one.peers.tell(NAME))
            await eventually(lambda: bool(other.heard))
            entry.unlink()  # now, or it could be asked again between its last steps
            await stack.aclose()

            assert await telling == ()


async def test_connections_are_kept_and_one_that_has_ended_is_no_fault(
    tmp_path: Path,
) -> None:
    listen = f"127.0.0.1:{free_port()}"
    async with here(tmp_path) as one:
        async with here(tmp_path, listen) as other:
            for _ in range(3):
                assert await one.peers.tell(NAME) == ()
            assert len(other.ports) == 1
        async with here(tmp_path, listen) as again:
            assert await one.peers.tell(NAME) == ()
            assert again.heard == [PURGE]


async def test_servers_find_each_other_again_after_the_directory_was_emptied(
    tmp_path: Path,
) -> None:
    directory = tmp_path / "peers"
    async with here(directory) as one, here(directory) as other:
        shutil.rmtree(directory)

        assert await one.peers.tell(NAME) == ()  # nobody can be found now
        await eventually(lambda: len(entries(directory)) == 2)
        assert await one.peers.tell(NAME) == ()

        assert other.heard == [PURGE]
    assert entries(directory) == []


async def test_a_directory_that_cannot_be_used_is_said_once_and_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    async with (
        here(tmp_path / "file/peers") as one,
        here(None, secret=SECRET) as far,
    ):
        assert "can't tell this one of changes" in caplog.text
        caplog.clear()
        await asyncio.sleep(2.3)
        assert [r for r in caplog.records if r.levelno >= logging.ERROR] == []

        assert await one.peers.tell(NAME) == (str(tmp_path / "file/peers"),)
        assert far.heard == []


async def test_a_file_that_says_nothing_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with here(tmp_path) as one, here(tmp_path) as other, here(tmp_path) as third:
        for file, text in zip(entries(tmp_path), ("{", "[]", "{}"), strict=True):
            known = file.read_text()
            file.write_text(text)
            for server in (one, other, third):
                await server.peers.tell(NAME)
            file.write_text(known)

        heard = [len(server.heard) for server in (one, other, third)]

    # of three times that two others are told, once each of them can't be found
    assert sorted(heard) == [4, 4, 4]
    assert "cannot read who is at" in caplog.text


# -- of the configuration --------------------------------------------------------------


async def test_those_of_the_configuration_are_told_with_the_common_secret(
    tmp_path: Path,
) -> None:
    port = free_port()
    async with (
        here(None, f"127.0.0.1:{port}", secret=SECRET) as far,
        here(tmp_path) as near,
        here(tmp_path, "", (f"http://127.0.0.1:{port}",), SECRET) as one,
    ):
        assert await one.peers.tell(NAME) == ()
        assert (far.heard, near.heard) == ([PURGE], [PURGE])
        assert far.secrets == [SECRET]
        assert SECRET not in near.secrets

        assert await one.peers.tell(NAME, afar=False) == ()
        assert (len(far.heard), len(near.heard)) == (1, 2)


@pytest.mark.parametrize(
    ("status", "confirms"),
    [(204, True), (404, True), (200, False), (302, False), (403, False), (503, False)],
)
async def test_only_a_confirmation_counts(status: int, confirms: bool) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with (
        here(None, f"127.0.0.1:{port}", secret=SECRET) as far,
        here(None, "", (url,), SECRET) as one,
    ):
        far.status = status

        assert await one.peers.tell(NAME) == (() if confirms else (url,))


async def test_those_who_do_not_confirm_are_logged_without_the_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    slow = f"http://127.0.0.1:{port}"
    urls = (slow, "http://127.0.0.1:9", "http://no.where.invalid", "http://a:99999")
    async with (
        here(None, f"127.0.0.1:{port}", secret=SECRET) as far,
        here(None, "", urls, SECRET, seconds=1) as one,
    ):
        far.seconds = 60
        caplog.set_level(logging.DEBUG)

        assert set(await one.peers.tell(NAME)) == set(urls)

        for url in urls:
            assert f"{url} did not hear of {NAME}" in caplog.text
        assert SECRET not in caplog.text


def test_others_without_a_secret_are_refused() -> None:
    known = PeerOptions("http://a:1 http://b:2")

    assert addresses(known, SECRET) == ("http://a:1", "http://b:2")
    assert addresses(PeerOptions(), "") == ()
    with pytest.raises(ConfigError, match=r"peers\.urls.*http\.refresh_secret"):
        addresses(known, "")


@pytest.mark.parametrize(
    "text",
    ["", "http://10.0.0.2:8080", "https://a.example http://[::1]:80", "http://a_b:1"],
)
def test_addresses_have_scheme_host_and_port_alone(text: str) -> None:
    good = "_" not in text
    if good:
        assert options.load(PeerOptions, {"urls": text}).urls == text
    for wrong in (
        f"{text}/",
        f"{text} ",
        f"u:p@{text}",
        "a:1",
        text if not good else "x",
    ):
        with pytest.raises(OptionError, match="urls"):
            options.load(PeerOptions, {"urls": wrong})
