"""Hostile files against a real, confined worker."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import pytest
from pictures import decode, encode
from PIL import Image
from transform.conftest import Derive
from transform.samples import KINDS, SIZE, opened, png_chunk
from transform.test_headers import FORGED

from image_repo.errors import BadImageError, ImageRepoError, TooLargeError
from image_repo.modifiers import RenderOptions
from image_repo.transform import policy
from image_repo.transform.pool import Limits, Pool, WorkerOptions

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOSTILE = {
    "mvg": b"push graphic-context\nviewbox 0 0 9 9\nimage over 0,0 0,0 '/etc/passwd'\n",
    "msl": b"<?xml version='1.0'?><image><read filename='/etc/passwd'/>"
    b"<write filename='/tmp/stolen.png'/></image>",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'>"
    b"<image href='/etc/passwd' width='64' height='64'/></svg>",
    "ps": b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file\n",
    "pdf": b"%PDF-1.7\n",
    "text": b"text:/etc/passwd",
    "label": b"label:@/etc/passwd",
    "xpm": b'/* XPM */ static char *x[] = {"1 1 1 1", "a c red", "a"};',
    "mpc": b"id=MagickCache\n",
    "miff": b"id=ImageMagick\nclass=DirectClass\n",
    "ppm": b"P6 1 1 255 abc",
    "tga": bytes(18) + bytes(100),
}
MAGIC = {"jpg": b"\xff\xd8\xff\xe0", "png": b"\x89PNG\r\n\x1a\n", "gif": b"GIF89a"}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_is_no_picture_reaches_no_decoder(derive: Derive, name: str) -> None:
    with pytest.raises(BadImageError):
        await derive(HOSTILE[name])
    for magic in MAGIC.values():
        with pytest.raises(BadImageError):
            await derive(magic + HOSTILE[name])
    assert not Path("/tmp/stolen.png").exists()


@pytest.mark.parametrize("name", FORGED)
async def test_forged_sizes_are_refused_at_once(derive: Derive, name: str) -> None:
    begun = time.monotonic()

    with pytest.raises(TooLargeError):
        await derive(FORGED[name], "w_32.jpg")

    assert time.monotonic() - begun < 1


async def test_a_size_within_the_limits_that_the_pixels_do_not_have_is_an_error(
    derive: Derive,
) -> None:
    for name in ("png", "avif", "jpg"):
        data = bytearray(KINDS[name])
        if name == "png":
            data[16:24] = struct.pack(">II", 2000, 2000)
        elif name == "jpg":
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = struct.pack(">HH", 2000, 2000)
        else:
            at = data.index(b"ispe") + 8
            data[at : at + 8] = struct.pack(">II", 2000, 2000)
        with pytest.raises(BadImageError):
            await derive(bytes(data))


async def test_texts_that_unfold_to_gigabytes_are_never_unfolded(
    derive: Derive,
) -> None:
    packer = zlib.compressobj(9)
    zeros = bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(200)) + packer.flush()
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + packed)
    data = KINDS["png"]
    begun = time.monotonic()

    body = await derive(data[:33] + bomb * 20 + data[33:])

    assert decode(body).size == SIZE
    assert time.monotonic() - begun < 2


async def test_a_profile_that_unfolds_to_gigabytes_harms_nothing(
    derive: Derive,
) -> None:
    packer = zlib.compressobj(9)
    zeros = bytes(2**20)
    packed = b"".join(packer.compress(zeros) for _ in range(500)) + packer.flush()
    bomb = png_chunk(b"iCCP", b"x\0\0" + packed)
    data = KINDS["png"]
    begun = time.monotonic()
    with suppress(ImageRepoError):
        assert decode(await derive(data[:33] + bomb + data[33:])).size == SIZE
    assert time.monotonic() - begun < 3


async def test_a_worker_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IMAGE_REPO_SWIFT_KEY", "OS_PASSWORD", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "hunter2")
    async with Pool(WorkerOptions(count=1), Limits(), RenderOptions()) as pool:
        pid = pool._idle[0].process.pid
        environment = Path(f"/proc/{pid}/environ").read_bytes()

        assert b"hunter2" not in environment
        assert b"MALLOC_PERTURB_=255" in environment
        folder = Path(f"/proc/{pid}/fd")
        # 0 to 2 are this test's own.
        files = {str(n.readlink()) for n in folder.iterdir() if int(n.name) > 2}
        named = {name for name in files if name.startswith("/") and "/dev/" not in name}
        assert {Path(name).name for name in named} <= {"statm"}


PROBE = """
import os, socket, subprocess, sys, tempfile
socket.socket().close()
from image_repo.transform import policy
policy.limit(2**31)
os.getcwd(); file = os.open('/dev/null', os.O_RDONLY)
policy.confine()
def denied(act):
    try:
        act()
    except OSError as e:
        return e.errno in (1, 11)
    return False
acts = {
    'open': lambda: os.open('/etc/passwd', os.O_RDONLY),
    'create': lambda: os.open('/tmp/confined', os.O_CREAT | os.O_WRONLY),
    'unlink': lambda: os.unlink('/tmp/nothing'),
    'socket': lambda: socket.socket(),
    'fork': lambda: os.posix_spawn('/bin/true', ['true'], {}),
    'exec': lambda: os.execv('/bin/true', ['true']),
    'kill': lambda: os.kill(os.getppid(), 0),
}
print(*[name for name, act in acts.items() if not denied(act)])
"""


@pytest.mark.skipif(os.uname().machine not in {"x86_64", "aarch64"}, reason="no table")
async def test_a_confined_process_can_open_start_and_connect_nothing() -> None:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", PROBE],
        capture_output=True,
        text=True,
        env=clean,
        check=False,
    )

    assert (done.stdout.strip(), done.returncode) == ("", 0), done.stderr


async def test_a_confined_worker_makes_every_kind_of_every_kind() -> None:
    async with Pool(WorkerOptions(count=1), Limits(), RenderOptions()) as pool:
        for data in KINDS.values():
            for kind in pool.kinds:
                with opened(data) as file:
                    made = await pool.derive(
                        file, len(data), f"w_20-h_20-thumb_els.{kind}"
                    )
                assert decode(made.body).size == (20, 15)
        assert pool.crashes == 0


async def test_the_policy_is_where_imagemagick_looks() -> None:
    assert (policy.FOLDER / "policy.xml").is_file()


async def test_an_image_within_the_limits_but_not_the_memory_is_too_large() -> None:
    data = encode(Image.new("RGB", (6000, 6000)), "PNG")
    options = WorkerOptions(count=1, memory=400 * 2**20)
    async with Pool(options, Limits(), RenderOptions()) as pool:
        with opened(data) as file, pytest.raises(TooLargeError):
            await pool.derive(file, len(data), "w_32.jpg")
        with opened(KINDS["png"]) as file:
            assert (await pool.derive(file, len(KINDS["png"]), "w_32.jpg")).body


async def test_workers_stand_back_where_others_need_the_processor() -> None:
    options = WorkerOptions(count=2, nice=7)
    async with Pool(options, Limits(), RenderOptions()) as pool:
        for worker in pool._all:
            pid = worker.process.pid
            assert os.getpriority(os.PRIO_PROCESS, pid) == 7 + os.nice(0)
            session = Path(f"/proc/{pid}/autogroup")
            if session.exists() and "autogroup" in session.read_text():
                assert session.read_text().endswith(" nice 7\n")
