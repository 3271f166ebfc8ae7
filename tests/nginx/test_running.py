"""What the guide has a sysadmin do, done in its own words with a real nginx."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from nginx.guide import block, replaced
from nginx.harness import (
    PATH,
    SECRET,
    Answer,
    Front,
    Upstream,
    free_port,
    nginx,
    nginx_before,
    nginx_from,
    program,
    serving,
    settings,
)
from nginx.test_limits import FREE

from image_repo.nginx import NginxSettings, render

COMMAND = f"{sys.executable} -m image_repo.cli"


def run(text: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run words of the guide as a shell does."""
    return subprocess.run(
        ["bash", "-c", text],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def written(directory: Path, chosen: NginxSettings) -> str:
    """Write a configuration of the server, and return the file's name."""
    file = directory / "config.yaml"
    options = {
        "listen": chosen.upstream,
        "behind_nginx": True,
        "http": {"refresh_secret": SECRET},
        "nginx": {
            "listen": chosen.options.listen,
            "cache_path": chosen.options.cache_path,
        },
    }
    file.write_text(yaml.safe_dump(options))
    return str(file)


def frame(directory: Path, body: str) -> Path:
    """Write the configuration of an nginx that runs already."""
    user = "user root;" if os.geteuid() == 0 else ""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {directory}/{kind};" for kind in kinds)
    conf = directory / "stock.conf"
    conf.write_text(
        f"daemon off; {user} pid {directory}/pid; error_log {directory}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\n{body}\n}}\n"
    )
    return conf


def judged(conf: Path) -> str:
    """Return what `nginx -t` finds wrong; empty: nothing."""
    words = [program(), "-t", "-q", "-c", str(conf)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert bool(done.returncode) == bool(done.stderr), done
    return done.stderr


def fragment(directory: Path, **options: str) -> str:
    """Return what stands in conf.d, with logs in the directory of a test."""
    base = settings(directory)
    chosen = replace(base.options, cold_listen=base.cold, **options)  # type: ignore[arg-type] # checked by the class
    text = render(replace(base, options=chosen, directory=None))
    return text.replace("/var/log/nginx", str(directory))


# Set it up


async def test_a_running_nginx_takes_the_file_as_the_guide_writes_it(
    tmp_path: Path,
) -> None:
    (tmp_path / "conf.d").mkdir()
    other = free_port()
    body = f"server {{ listen 127.0.0.1:{other}; }} include {tmp_path}/conf.d/*.conf;"
    conf = frame(tmp_path, body)
    running = replace(settings(tmp_path).options, listen=f"127.0.0.1:{other}")
    async with serving(Upstream().app) as port:
        chosen = settings(tmp_path, upstream=f"127.0.0.1:{port}")
        async with nginx_from(conf, replace(chosen, options=running), tmp_path):
            words = {
                "image_repo -y": f"{COMMAND} -y",
                "/etc/image_repo/config.yaml": written(tmp_path, chosen),
                "/etc/nginx": str(tmp_path),
                "nginx -t": f"{program()} -t -c {conf}",
                "systemctl reload nginx": f"kill -HUP $(cat {tmp_path}/pid)",
            }
            file = tmp_path / "conf.d/image_repo.conf"
            # what the file holds of this machine is the test's before it is moved
            here = f"sed -i 's:/var/log/nginx:{tmp_path}:; s:/run/:{tmp_path}/:'"
            words |= {"mv ": f"{here} {tmp_path}/image_repo.new && mv "}
            commands = replaced(block("systemctl reload"), words)
            done = run(commands, tmp_path)
            assert done.returncode == 0, done
            front = Front(int(chosen.options.listen.split(":")[1]), tmp_path, chosen)
            answers = [await once_there(front) for _ in range(2)]

            whole = file.read_text()
            Path(words["/etc/image_repo/config.yaml"]).write_text("listen: [nonsense")
            failed = run(commands, tmp_path)

    assert [a.cache for a in answers] == ["MISS", "HIT"]
    assert file.stat().st_mode & 0o777 == 0o640
    assert SECRET in whole
    assert failed.returncode == 2
    assert file.read_text() == whole


async def once_there(front: Front) -> Answer:
    async with asyncio.timeout(10):
        while True:
            try:
                return await front.ask()
            except OSError:
                await asyncio.sleep(0.05)


async def test_an_nginx_of_its_own_writes_below_one_directory_alone(
    tmp_path: Path,
) -> None:
    own = tmp_path / "srv/nginx"
    async with serving(Upstream().app) as port:
        base = settings(own, upstream=f"127.0.0.1:{port}")
        words = {
            "image_repo -y": f"{COMMAND} -y",
            "config.yaml": written(tmp_path, base),
            "/srv/images/nginx": str(own),
            "/usr/sbin/nginx -c": f"exec {program()} -c",
        }
        text = replaced(block("--standalone"), words)
        child = await asyncio.create_subprocess_exec(
            *("bash", "-ec", f"{text} </dev/null >/dev/null 2>&1"), cwd=tmp_path
        )
        try:
            front = Front(int(base.options.listen.split(":")[1]), own, base)
            answers = [await once_there(front) for _ in range(2)]
            names = opened(child.pid)
        finally:
            child.send_signal(signal.SIGTERM)
            await child.wait()

    assert [a.cache for a in answers] == ["MISS", "HIT"]
    assert names
    assert all(name.is_relative_to(own) for name in names), names
    assert kept(front)


def opened(pid: int) -> list[Path]:
    """Return the files that a process and its children have open.

    But for those without a name, in which PCRE keeps what it compiles.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    every = [f for p in (pid, *children) for f in Path(f"/proc/{p}/fd").iterdir()]
    names = [str(fd.readlink()) for fd in every]
    return [
        Path(name)
        for name in names
        if name.startswith("/") and not re.search(r"^/dev/|/#\d+ \(deleted\)\Z", name)
    ]


def test_an_http_that_sets_the_size_of_the_hash_must_lose_that_line(
    tmp_path: Path,
) -> None:
    said, text = "variables_hash_max_size 4096;", fragment(tmp_path)

    assert '"variables_hash_max_size" directive is duplicate' in judged(
        frame(tmp_path, f"{said}\n{text}")
    )
    assert judged(frame(tmp_path, text)) == ""


# Options


async def test_it_listens_wherever_it_is_told_to(tmp_path: Path) -> None:
    port = free_port()
    options = replace(
        settings(tmp_path).options, listen=f"[::1]:{port} 127.0.0.1:{port}"
    )
    async with nginx_before(Upstream().app, tmp_path, options=options):
        for address in ("127.0.0.1", "::1"):
            _, writer = await asyncio.open_connection(address, port)
            writer.close()


async def test_other_sites_may_share_the_port(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    text = fragment(
        tmp_path, listen=chosen.options.listen, server_name="img.example.org"
    )
    other = (
        f"server {{ listen {chosen.options.listen}; server_name www.example.org;"
        " return 204; }"
    )
    async with (
        serving(Upstream().app) as port,
        nginx_from(
            frame(tmp_path, text.replace("127.0.0.1:9 ", f"127.0.0.1:{port} ") + other),
            chosen,
            tmp_path,
        ) as front,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        statuses = []
        for host in ("img.example.org", "www.example.org"):
            writer.write(f"HEAD {PATH} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            statuses.append((await reader.readuntil(b"\r\n\r\n")).split()[1])
        writer.close()

    assert statuses == [b"200", b"204"]


def test_nginx_makes_the_last_directory_of_its_cache_and_no_parents(
    tmp_path: Path,
) -> None:
    one, two = f"{tmp_path}/one", f"{tmp_path}/one/two/three"

    assert "No such file or directory" in judged(
        frame(tmp_path, fragment(tmp_path, cache_path=two))
    )
    assert judged(frame(tmp_path, fragment(tmp_path, cache_path=one))) == ""
    assert Path(one).is_dir()


async def tiny(_: web.Request) -> web.Response:
    headers = {"Cache-Control": "s-maxage=600", "ETag": '"1"'}
    return web.Response(body=b"x", headers=headers)


def tiny_app() -> web.Application:
    app = web.Application()
    app.router.add_get("/{any:.*}", tiny)
    return app


async def filled(front: Front, count: int, ways: int = 16) -> int:
    """Ask for so many images on connections that are kept; return how many failed."""
    cut = 0

    async def part(numbers: range) -> None:
        nonlocal cut
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        for n in numbers:
            text = f"GET /images/a{n}/_/w_4.webp HTTP/1.1\r\nHost: x\r\n\r\n"
            writer.write(text.encode())
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except (OSError, EOFError):
                cut += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
                continue
            assert b" 200 " in head
            (length,) = re.findall(rb"Content-Length: (\d+)", head)
            await reader.readexactly(int(length))
        writer.close()

    await asyncio.gather(*(part(range(n, count, ways)) for n in range(ways)))
    return cut


def kept(front: Front) -> list[Path]:
    return [p for p in front.cache.rglob("*") if p.is_file()]


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_mebibyte_lists_about_eight_thousand_entries(tmp_path: Path) -> None:
    options = replace(settings(tmp_path).options, **FREE, cache_keys=2**20)  # type: ignore[arg-type] # checked by the class
    async with nginx_before(tiny_app(), tmp_path, options=options) as front:
        cut = await filled(front, 9_500)
        count = len(kept(front))
        errors = (tmp_path / "error.log").read_text()

    assert 6_900 < count < 8_500  # nginx makes room for an eighth at once
    assert 120 < 2**20 / count < 155
    # Two processes may take the same entry away, and one then has found no room.
    assert cut <= 60
    assert cut == errors.count(
        'could not allocate node in cache keys zone "image_repo"'
    )


@pytest.mark.slow
async def test_what_was_not_used_for_longest_leaves_a_cache_that_is_full(
    tmp_path: Path,
) -> None:
    async def large(*_: object) -> web.StreamResponse:
        headers = {"Cache-Control": "s-maxage=600"}
        return web.Response(body=bytes(100_000), headers=headers)

    options = replace(settings(tmp_path).options, **FREE, cache_size=2**20)  # type: ignore[arg-type] # checked by the class
    async with nginx_before(Upstream(large).app, tmp_path, options=options) as front:
        for n in range(30):
            await front.ask(f"/images/a{n}/_/w_4.webp")
            await front.ask("/images/a0/_/w_4.webp")
        async with asyncio.timeout(30):  # it looks every ten seconds
            while len(kept(front)) > 10:
                await asyncio.sleep(0.2)
        used = front.cache_file("/images/a0/_/w_4.webp").exists()
        unused = front.cache_file("/images/a1/_/w_4.webp").exists()

    assert (used, unused) == (True, False)


@pytest.mark.slow
async def test_what_nobody_asks_for_leaves(tmp_path: Path) -> None:
    options = replace(settings(tmp_path).options, cache_inactive="1s")
    async with nginx_before(Upstream().app, tmp_path, options=options) as front:
        await front.ask()
        assert len(kept(front)) == 1
        async with asyncio.timeout(30):
            while kept(front):
                await asyncio.sleep(0.2)


async def test_an_entry_takes_its_bytes_and_little_more(tmp_path: Path) -> None:
    async with nginx_before(Upstream().app, tmp_path) as front:
        body = (await front.ask()).body
        (file,) = kept(front)
        size = file.stat().st_size

    assert len(body) < size < len(body) + 2000  # head and key


async def test_the_socket_that_a_killed_nginx_leaves_must_be_removed(
    tmp_path: Path,
) -> None:
    async with serving(Upstream().app) as port:
        chosen = settings(tmp_path, upstream=f"127.0.0.1:{port}")
        socket = Path(chosen.cold.removeprefix("unix:"))
        async with nginx(chosen):
            async with asyncio.timeout(5):
                while not (tmp_path / "nginx.pid").exists():
                    await asyncio.sleep(0.01)
            pid = int((tmp_path / "nginx.pid").read_text())
            workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for one in (pid, *map(int, workers)):
                os.kill(one, signal.SIGKILL)
        assert socket.is_socket()

        again = run(f"{program()} -c {tmp_path}/nginx.conf", tmp_path)
        assert again.returncode != 0
        assert f"{socket} failed (98: Address already in use)" in again.stderr
        socket.unlink()

        async with nginx(chosen) as front:
            assert (await front.ask()).status == 200
        assert not socket.exists()


@pytest.mark.slow
async def test_a_head_that_does_not_end_is_waited_for_fifteen_seconds(
    tmp_path: Path,
) -> None:
    async with nginx_before(Upstream().app, tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        begun = time.monotonic()
        writer.write(b"GET /images")
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()

    assert 14 < time.monotonic() - begun < 18
