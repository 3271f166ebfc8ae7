"""Who sets all up by the sysadmin's guide has a server and an nginx that work."""

from __future__ import annotations

import asyncio
import configparser
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import aiohttp
import pytest
from nginx.guide import block, replaced
from nginx.harness import Upstream, free_port, nginx_before
from nginx.test_running import COMMAND, run

from image_repo.config import Config
from image_repo.nginx import LOG, LOGS, render

UNIT = configparser.RawConfigParser()
UNIT.optionxform = str  # type: ignore[assignment,method-assign] # names as they are
UNIT.read_string(block("[Service]"))
SERVICE = UNIT["Service"]
LOGROTATE = Path("/etc/logrotate.d/nginx")


@dataclass(frozen=True)
class Machine:
    """A directory in which all is that the guide has elsewhere.

    Attributes:
        top: The directory.
        words: What the guide says, and what is meant here.
        environ: Without any option.
    """

    top: Path
    words: dict[str, str]
    environ: dict[str, str]

    @property
    def socket(self) -> str:
        return f"{self.top}/run/server.sock"

    def said(self, text: str) -> str:
        """Return words of the guide as they are meant here."""
        for word, here in self.words.items():
            text = text.replace(word, here)
        return text


@pytest.fixture
def machine() -> Iterator[Machine]:
    top = Path(tempfile.mkdtemp(prefix="image-repo-test."))  # short, for the socket
    for name in ("run", "state", "etc"):
        (top / name).mkdir()
    secret = run("openssl rand -hex 32", top).stdout.strip()
    words = {
        "/opt/image_repo/bin/image_repo": COMMAND,
        "/etc/image_repo": f"{top}/etc",
        f"/run/{SERVICE['RuntimeDirectory']}": f"{top}/run",
        'refresh_secret: ""': f"refresh_secret: {secret}",
        "*:8080": f"127.0.0.1:{free_port()}",
    }
    plain = {k: v for k, v in os.environ.items() if not k.startswith("IMAGE_REPO_")}
    made = Machine(top, words, plain)
    (top / "etc/config.yaml").write_text(made.said(block("behind_nginx: true")))
    yield made
    shutil.rmtree(top)


@asynccontextmanager
async def started(machine: Machine) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the server as the unit says."""
    process = await asyncio.create_subprocess_exec(
        *shlex.split(machine.said(SERVICE["ExecStart"])),
        cwd=machine.top / "state",
        env=machine.environ,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def ready(machine: Machine) -> bool:
    """Return whether the server said so within a time."""
    connector = aiohttp.UnixConnector(machine.socket)
    async with aiohttp.ClientSession(connector=connector) as session:
        for _ in range(200):
            try:
                async with session.get("http://localhost/readyz") as answer:
                    if answer.status == 200:
                        return True
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.1)
    return False


async def test_the_unit_runs_a_server_with_the_configuration_of_the_guide(
    machine: Machine,
) -> None:
    async with started(machine) as process:
        assert await ready(machine)
        reload = SERVICE["ExecReload"].replace("$MAINPID", str(process.pid))
        # a shell has `kill` itself; as a program it comes with systemd
        done = await asyncio.to_thread(run, reload.removeprefix("/bin/"), machine.top)
        assert done.returncode == 0, done
        await asyncio.sleep(0.5)
        assert await ready(machine)
        kept = {path.name for path in (machine.top / "state").iterdir()}
        process.send_signal(signal.SIGTERM)  # as systemd does
        status = await process.wait()

    assert status == 0
    assert "data" in kept


def test_the_check_finds_nothing_wrong_with_it(machine: Machine) -> None:
    done = run(
        f"env -i PATH=$PATH {COMMAND} -y {machine.top}/etc/config.yaml --check",
        machine.top / "state",
    )

    assert done.returncode == 0, done.stdout
    assert "nginx.purge" in done.stdout


def test_the_unit_leaves_the_socket_to_nginx_alone_and_the_server_its_time() -> None:
    config = block("behind_nginx: true")

    assert f"unix:/run/{SERVICE['RuntimeDirectory']}/" in config
    assert SERVICE["RuntimeDirectoryMode"] == "0750"
    assert SERVICE["Group"] == "www-data"
    assert int(SERVICE["TimeoutStopSec"]) > Config().http.drain_seconds + 10
    assert SERVICE["WorkingDirectory"] == f"/var/lib/{SERVICE['StateDirectory']}"


async def test_another_cache_path_takes_a_restart(tmp_path: Path) -> None:
    other = free_port()
    async with nginx_before(Upstream().app, tmp_path) as front:
        first = await front.ask()
        text = render(front.settings)
        old = front.settings.options
        words = {
            old.cache_path: f"{tmp_path}/another",
            f"listen {old.listen};": f"listen {old.listen}; listen 127.0.0.1:{other};",
        }
        (tmp_path / "nginx.conf").write_text(replaced(text, words))
        os.kill(int((tmp_path / "nginx.pid").read_text()), signal.SIGHUP)
        async with asyncio.timeout(10):
            while "[emerg]" not in (tmp_path / "error.log").read_text():
                await asyncio.sleep(0.05)
        second = await front.ask()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", other)

    assert [first.cache, second.cache] == ["MISS", "HIT"]


@pytest.mark.skipif(not LOGROTATE.exists(), reason="needs Debian's nginx")
def test_debians_logrotate_takes_care_of_the_log() -> None:
    patterns = LOGROTATE.read_text().partition("{")[0].split()

    assert any(fnmatch(str(LOGS / LOG), pattern) for pattern in patterns)
