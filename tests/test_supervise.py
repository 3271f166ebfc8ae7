from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import pytest

import image_repo
from image_repo import options, supervise
from image_repo.config import Config
from image_repo.errors import ConfigError

STAND_IN = """
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer
sock = os.environ["IMAGE_REPO_LISTEN"].removeprefix("unix:")
if "nginx-conf" in sys.argv:
    if "wrong" in sys.argv:
        sys.exit("image_repo: option colour: no such option")
    at = sys.argv[-1]
    listen = "".join(
        f"listen {a};" for a in os.environ["IMAGE_REPO_NGINX_LISTEN"].split()
    )
    print(
        f"daemon off; pid {at}/pid; error_log stderr; user root;"
        "events {} http { access_log off;"
        + "".join(f"{kind}_temp_path {at}/{kind};" for kind in (
            "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        + f"server {{ {listen} location / {{ proxy_pass http://unix:{sock}; }} }} }}"
    )
    sys.exit()
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status, text = 200, str(os.getpid()).encode()
        if self.path == "/fall": os._exit(7)
        if self.path == "/slow": time.sleep(1)
        if self.path == "/environment": text = json.dumps(dict(os.environ)).encode()
        if self.path == "/readyz" and Path("late").exists():
            status, text = 502, b'{"detail": "Keystone gives no token"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *_):
        pass
def hung_up(*_):
    Path("hung_up").touch()
signal.signal(signal.SIGHUP, hung_up)
Path(sock).unlink(missing_ok=True)
if "mute" in sys.argv: time.sleep(60)
UnixStreamServer(sock, Handler).serve_forever()
"""

DRIVER = """
import asyncio, os, sys
from pathlib import Path
from image_repo import announce
from image_repo.errors import ConfigError
from image_repo.supervise import Places, supervise
_, program, data, port, reload, *words = sys.argv
work = Path(data).absolute()
os.chdir(work.parent)
if "mute" in words: announce.READY = 1.0
try:
    places = Places("images somewhere", None if "swift" in words else work, work)
    serving = supervise(
        words, int(port), places, reload=reload == "reload",
        program=(sys.executable, program),
    )
    sys.exit(asyncio.run(serving))
except ConfigError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    port: int

    def get(self, path: str = "/images") -> str:
        connection = HTTPConnection("localhost", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return body if answer.status == 200 else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


def start(data: Path, *words: str, port: int = 0, reload: bool = False) -> Running:
    program = data.parent / "stand_in.py"
    program.write_text(STAND_IN)
    how = "reload" if reload else "once"
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER, program, data, str(port), how, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Running(process, port)


@contextmanager
def serving(data: Path, *words: str, reload: bool = False) -> Iterator[Running]:
    starting = start(data, *words, reload=reload)
    with starting.process as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            ready = re.fullmatch(r"ready: http://localhost:(\d+)/images\n", line)
            assert ready, line
            yield Running(process, int(ready[1]))
        finally:
            with suppress(ProcessLookupError):
                process.terminate()


def alive(pid: str) -> bool:
    with suppress(ProcessLookupError):
        os.kill(int(pid), 0)
        return True
    return False


def eventually(what: object) -> bool:
    """Try *what*, a callable, for up to ten seconds."""
    assert callable(what)
    for _ in range(200):
        if what():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_succeeds_once_ready_is_said_and_a_signal_stops_both(
    tmp_path: Path, number: int
) -> None:
    with serving(tmp_path / "data") as running:
        server = running.get()
        nginx = (tmp_path / "data/nginx/pid").read_text()

        assert running.stop(number) == 0

    assert not alive(server)
    assert not alive(nginx)


def test_a_request_in_flight_is_answered_before_the_end(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        connection = HTTPConnection("localhost", running.port, timeout=10)
        connection.request("GET", "/slow")
        time.sleep(0.3)

        running.process.terminate()

        assert connection.getresponse().status == 200
        connection.close()
        assert running.process.wait(10) == 0


def test_sighup_goes_to_the_server_and_ends_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        before = running.get()
        running.process.send_signal(signal.SIGHUP)

        assert eventually((tmp_path / "hung_up").exists)
        assert running.get() == before


def test_both_loopback_addresses_are_served(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, running.port), 5).close()


def test_a_server_that_ends_ends_the_whole_with_its_code(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        running.get("/fall")

        assert running.process.wait(10) == 7


def test_nginx_that_ends_ends_the_whole(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        server = running.get()
        os.kill(int((tmp_path / "data/nginx/pid").read_text()), signal.SIGKILL)

        _, said = running.process.communicate(timeout=10)

    assert "nginx has ended" in said
    assert running.process.returncode == 1
    assert not alive(server)


def test_children_do_not_outlive_a_killed_supervisor(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        server = running.get()

        running.process.kill()

        assert eventually(lambda: not alive(server))


def test_changed_code_restarts_the_server_alone(tmp_path: Path) -> None:
    with serving(tmp_path / "data", reload=True) as running:
        before = running.get()
        nginx = (tmp_path / "data/nginx/pid").read_text()

        os.utime(image_repo.__file__)

        assert eventually(lambda: running.get() not in {"", before})
        assert (tmp_path / "data/nginx/pid").read_text() == nginx


def test_a_server_that_falls_comes_back_with_the_next_change(tmp_path: Path) -> None:
    with serving(tmp_path / "data", reload=True) as running:
        running.get("/fall")
        said = running.process.stderr
        assert said is not None
        assert any("has ended" in line for line in said)
        assert running.get() == ""

        os.utime(image_repo.__file__)

        assert eventually(running.get)


def test_a_port_in_use_is_said_and_exits_with_2(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        _, said = start(tmp_path / "data", port=port).process.communicate(timeout=10)

    assert f"port {port} of 127.0.0.1 is in use" in said


def test_a_wrong_option_is_said_in_the_words_of_the_program(tmp_path: Path) -> None:
    process = start(tmp_path / "data", "wrong").process

    _, said = process.communicate(timeout=10)

    assert said == "option colour: no such option\n"
    assert process.returncode == 2


def test_a_data_directory_has_one_server(tmp_path: Path) -> None:
    with (
        supervise.owned(tmp_path),
        pytest.raises(ConfigError, match="another server uses it"),
        supervise.owned(tmp_path),
    ):
        pass


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(ConfigError, match="file/data"),
        supervise.owned(tmp_path / "file" / "data"),
    ):
        pass


def test_the_socket_that_a_killed_nginx_has_left_is_taken_away(tmp_path: Path) -> None:
    with supervise.short(tmp_path) as run:
        (run / supervise.COLD).touch()

    with supervise.short(tmp_path) as again:
        assert not (again / supervise.COLD).exists()


def test_the_socket_of_a_deep_data_directory_is_elsewhere(tmp_path: Path) -> None:
    with supervise.short(tmp_path / ("x" * 100)) as run:
        assert len(str(run / "server.sock")) < 100

    assert not run.exists()


def test_addresses_that_the_machine_lacks_are_left_out() -> None:
    _, found = supervise.free_addresses(0, ("127.0.0.1", "192.0.2.1"))

    assert found == ("127.0.0.1",)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1"):
        supervise.free_addresses(0, ("192.0.2.1",))


@pytest.mark.parametrize(
    ("port", "address", "says"),
    [(65536, "127.0.0.1", "0 to 65535"), (-1, "::1", "0 to"), (80, "no.where.", "no.")],
)
def test_a_port_or_address_that_cannot_be_is_said(
    port: int, address: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        supervise.free_addresses(port, (address,))


def test_every_option_it_sets_exists(tmp_path: Path) -> None:
    known = {option.environment for option in options.describe(Config)}
    for data in (tmp_path, None):
        places = supervise.Places("", data, tmp_path)
        plan = supervise.Plan(("true",), ("::1",), 80, places, tmp_path)

        assert known >= plan.environment.keys() - os.environ.keys()


@pytest.mark.parametrize(
    ("words", "store", "data"),
    [(("swift",), "swift", None), ((), "directory", "data")],
)
def test_the_server_is_told_what_was_decided(
    tmp_path: Path, words: tuple[str, ...], store: str, data: str | None
) -> None:
    with serving(tmp_path / "data", *words) as running:
        told = json.loads(running.get("/environment"))

    assert told["IMAGE_REPO_STORE"] == store
    assert told["IMAGE_REPO_WORK"] == str(tmp_path / "data")
    assert told.get("IMAGE_REPO_DATA") == (data and str(tmp_path / data))


def test_nginx_gets_no_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "bin/nginx"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\ncat /proc/$$/environ >{tmp_path}/environ\n"
        f'exec {supervise.nginx_program()} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("OS_PASSWORD", "Secret")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")

    with serving(tmp_path / "data") as running:
        server = json.loads(running.get("/environment"))

    pairs = (tmp_path / "environ").read_text().rstrip("\0").split("\0")
    names = {pair.partition("=")[0] for pair in pairs}
    assert {"PATH", "LC_ALL"} <= names <= {"PATH", "LC_ALL", "LANG", "TZ", "HOME"}
    assert server["OS_PASSWORD"] == "Secret"


# -- a store that is late --------------------------------------------------------------


def test_where_the_images_are_is_said_before_ready(tmp_path: Path) -> None:
    with serving(tmp_path / "data") as running:
        assert running.process.stderr is not None
        assert running.process.stderr.readline() == "image_repo: images somewhere\n"


def test_a_store_that_is_not_ready_is_said_once_and_waited_for(tmp_path: Path) -> None:
    (tmp_path / "late").touch()
    starting = start(tmp_path / "data")
    with starting.process as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stderr.readline()

        said = process.stderr.readline()
        assert said == (
            "image_repo: serving, but the store is not ready yet:"
            " Keystone gives no token\n"
        )
        (tmp_path / "late").unlink()

        assert process.stdout.readline().startswith("ready: ")
        process.terminate()
        assert process.wait(10) == 0
        assert "not ready" not in process.stderr.read()


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    process = start(tmp_path / "data", "mute").process

    _, said = process.communicate(timeout=20)

    assert "the server has not answered within 1 s; giving up" in said
    assert process.returncode == 1


# -- directories -----------------------------------------------------------------------


def test_both_directories_are_kept_to_one_server(tmp_path: Path) -> None:
    def places(data: str | None, work: str) -> supervise.Places:
        return supervise.Places(
            "", None if data is None else tmp_path / data, tmp_path / work
        )

    with supervise.kept(places("data", "work")):
        for other in (places("data", "b"), places("a", "work"), places(None, "work")):
            with (
                pytest.raises(ConfigError, match="another server uses it"),
                supervise.kept(other),
            ):
                pass
    with supervise.kept(places(None, "work")), supervise.kept(places("data", "b")):
        pass


def test_one_directory_may_be_both_by_any_path(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    places = supervise.Places("", tmp_path / "link", tmp_path / "data")

    with supervise.kept(places) as held:
        assert held == places
