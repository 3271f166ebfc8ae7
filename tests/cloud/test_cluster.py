from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cloud.calls import Answer, Login, ask, log_in
from cloud.cluster import Cloud, expire, revoke_tokens, scratch, start
from cloud.processes import HERE, CloudError

CREDENTIALS = ["environment", "classic", "application", "limited"]


@pytest.fixture
def login(cloud: Cloud) -> Login:
    login = log_in(cloud.environment)
    assert login.ask("/here", "PUT").status in {201, 202}
    return login


@pytest.fixture
def harmed(cloud: Cloud) -> Iterator[Cloud]:
    yield cloud
    cloud.heal()


@pytest.mark.parametrize("name", CREDENTIALS)
def test_every_kind_of_credentials_finds_the_project(cloud: Cloud, name: str) -> None:
    login = log_in(getattr(cloud, name))
    assert login.storage_url == cloud.storage_url
    assert login.ask("").status in {200, 204}


def test_a_wrong_password_gets_no_token(cloud: Cloud) -> None:
    with pytest.raises(PermissionError, match="401"):
        log_in({**cloud.environment, "OS_PASSWORD": "wrong"})


@pytest.mark.parametrize("name", ["environment", "application"])
def test_an_object_is_kept_listed_and_deleted(cloud: Cloud, name: str) -> None:
    login = log_in(getattr(cloud, name))
    assert login.ask(f"/{name}", "PUT").status == 201
    assert login.ask(f"/{name}/a/b", "PUT", b"one").status == 201
    assert login.ask(f"/{name}/a/b").body == b"one"
    assert login.ask(f"/{name}/a/b", "HEAD").headers["Content-Length"] == "3"
    assert login.ask(f"/{name}").body == b"a/b\n"
    assert login.ask(f"/{name}/a/b", "DELETE").status == 204
    assert login.ask(f"/{name}/a/b").status == 404
    assert login.ask(f"/{name}", "DELETE").status == 204


def test_the_limited_user_reads_and_writes_nothing(cloud: Cloud, login: Login) -> None:
    assert login.ask("/here/read", "PUT", b"one").status == 201
    limited = log_in(cloud.limited)
    assert limited.ask("/here/read").body == b"one"
    assert limited.ask("/here/read", "PUT", b"two").status == 403
    assert limited.ask("/new", "PUT").status == 403


def test_nobody_reads_without_a_token(cloud: Cloud) -> None:
    assert ask(cloud.storage_url).status == 401


def test_metadata_as_large_as_swift_allows_is_kept(login: Login) -> None:
    headers = {f"X-Object-Meta-{n}": "x" * 250 for n in range(10, 26)}
    kept = write(login, "/here/large", headers)
    if kept.status != 201:
        pytest.skip("ext4 has no room for it")
    found = login.ask("/here/large", "HEAD").headers
    assert {name: found[name] for name in headers} == headers


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_without_its_object_server_swift_answers_503(
    harmed: Cloud, login: Login, end: str
) -> None:
    login.ask("/here/kept", "PUT", b"one")
    server = harmed.processes["object"]
    getattr(server, end)()
    assert login.ask("/here/kept").status == 503
    server.start()
    server.wait_ready()
    assert login.ask("/here/kept").body == b"one"


def test_a_paused_server_hangs_until_it_is_resumed(harmed: Cloud, login: Login) -> None:
    proxy = harmed.processes["proxy"]
    url, headers = f"{login.storage_url}/here", {"X-Auth-Token": login.token}
    proxy.pause()
    with pytest.raises(TimeoutError):
        ask(url, headers=headers, timeout=0.3)
    proxy.resume()
    assert ask(url, headers=headers).status in {200, 204}


def test_a_paused_server_can_be_stopped(harmed: Cloud) -> None:
    server = harmed.processes["account"]
    server.pause()
    before = time.monotonic()
    server.stop()
    assert server.pid is None
    assert time.monotonic() - before < 4
    with pytest.raises(ConnectionRefusedError):
        ask(f"http://127.0.0.1:{harmed.ports.account}/healthcheck")


def test_what_was_written_without_a_container_server_is_listed_later(
    harmed: Cloud, login: Login
) -> None:
    assert login.ask("/here").status in {200, 204}  # Swift knows the container
    harmed.processes["container"].stop()
    assert login.ask("/here/late", "PUT", b"one").status == 201
    harmed.heal()
    assert b"late" not in login.ask("/here").body
    expire(harmed)
    assert b"late" in login.ask("/here").body


def test_an_expired_object_leaves_the_listing(cloud: Cloud, login: Login) -> None:
    assert write(login, "/here/brief", {"X-Delete-After": "1"}).status == 201
    assert b"brief" in login.ask("/here").body
    time.sleep(1.5)
    assert login.ask("/here/brief").status == 404
    expire(cloud)
    assert b"brief" not in login.ask("/here").body


def test_a_directory_has_one_cloud_at_a_time(cloud: Cloud) -> None:
    with pytest.raises(CloudError, match="already"):
        start(cloud.run)


KILLED = """
import pathlib, sys, time
from cloud.calls import log_in
from cloud.cluster import start

cloud = start(pathlib.Path(sys.argv[1]))
login = log_in(cloud.environment)
login.ask("/kept", "PUT")
login.ask("/kept/one", "PUT", b"one")
cloud.processes["object"].pause()
print(*(process.pid for process in cloud.processes.values()), flush=True)
time.sleep(60)
"""


@pytest.mark.slow
def test_a_killed_cloud_leaves_no_process_and_keeps_its_objects() -> None:
    with scratch() as directory:
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(directory)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        ) as parent:
            assert parent.stdout is not None
            pids = parent.stdout.readline().split()
            parent.kill()
        assert len(pids) == 5
        deadline = time.monotonic() + 5
        while any(map(alive, pids)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with start(directory, token_cache=-1) as cloud:
            assert log_in(cloud.application).ask("/kept/one").body == b"one"
            takes_a_revocation_at_once(cloud)


def takes_a_revocation_at_once(cloud: Cloud) -> None:
    login = log_in(cloud.environment)
    assert login.ask("/kept/one").status == 200
    revoke_tokens(cloud)
    assert login.ask("/kept/one").status == 401
    assert log_in(cloud.application).ask("/kept/one").status == 200


def alive(pid: bytes) -> bool:
    with suppress(OSError):
        return b"python" in Path("/proc", pid.decode(), "cmdline").read_bytes()
    return False


def write(login: Login, path: str, headers: dict[str, str]) -> Answer:
    headers = {"X-Auth-Token": login.token, **headers}
    return ask(login.storage_url + path, "PUT", headers, b"one")
