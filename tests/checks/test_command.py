"""`image_repo --check`, run as its user runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from cloud.calls import ask, log_in
from cloud.cluster import Cloud

PROGRAM = (sys.executable, "-m", "image_repo.cli")


def environment(given: dict[str, str]) -> dict[str, str]:
    free = {"IMAGE_REPO_LISTEN": "unix:listen"}
    # Confined workers can't write down what was covered, and their parent says so.
    clean = {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}
    return {**clean, **free, **given}


def check(*words: str, **given: str) -> tuple[int, dict[str, str], str]:
    """Return the exit status, what is said of each option, and all that is said."""
    done = subprocess.run(
        [*PROGRAM, *words, "--check"],
        env=environment(given),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.stderr == ""
    said = {}
    for line in done.stdout.splitlines():
        verdict, text = line[:8].strip(), line[8:]
        assert verdict in {"ok", "wrong", "warning"}
        said[text.partition(": ")[0]] = f"{verdict} {text.partition(': ')[2]}"
    return done.returncode, said, done.stdout


def written(text: str) -> str:
    Path("config.yml").write_text(text, encoding="utf-8")
    return "config.yml"


# -- this machine ----------------------------------------------------------------------


def test_the_defaults_are_right_on_a_machine_that_has_everything() -> None:
    status, said, _ = check()

    assert status == 0, said
    assert said["the environment"].startswith("ok images in the directory ")
    assert said["data"].startswith("ok 'data' can be written, and will be made; ")
    assert said["listen"].startswith("ok ")
    assert said["workers"].startswith("ok ImageMagick ")
    assert " jpg " in said["workers"]
    assert said["nginx"].endswith(" takes its configuration")
    assert not Path("data").exists()


def test_a_wrong_file_exits_2_and_the_world_is_not_looked_at() -> None:
    file = written("data: x\nhttp: {max_age: -1}\nownr: me\nowner: me\n")

    status, said, text = check("-y", file)

    assert status == 2
    assert said["option http.max_age is -1"].endswith("0 to 31536000 (line 2)")
    assert "unknown option ownr" in said
    assert said["option owner (line 4)"].startswith("warning no longer used")
    assert "workers: " not in text


@pytest.mark.parametrize("text", ["a: [", "- a", "data: x\ndata: y"])
def test_a_file_that_is_no_configuration_exits_2(text: str) -> None:
    assert check("-y", written(text))[0] == 2


def test_a_file_that_is_not_there_exits_2_and_is_named() -> None:
    status, _, text = check("-y", "nothing.yml")

    assert status == 2
    assert "nothing.yml" in text


def test_a_warning_alone_is_not_wrong() -> None:
    status, said, _ = check("-y", written("owner: None"), IMAGE_REPO_DATTA="x")

    assert status == 0
    assert "IMAGE_REPO_DATTA in the environment is no option; did you mean" in str(said)


def test_directories_that_cannot_be_written_are_wrong() -> None:
    Path("file").touch()

    status, said, _ = check("--data", "file/data", IMAGE_REPO_WORK="file")

    assert status == 1
    assert said["data"].startswith("wrong cannot write to ")
    assert said["work"].startswith("wrong cannot write to ")


def test_a_disk_without_room_for_an_upload_is_wrong() -> None:
    status, said, _ = check(IMAGE_REPO_LIMITS_UPLOAD_BYTES="1000 TiB")

    assert status == 1
    assert "less than one upload may have: limits.upload_bytes" in said["data"]


@pytest.mark.parametrize("file", ["missing/pid", "folder"])
def test_a_pid_file_that_cannot_be_written_is_wrong(file: str) -> None:
    Path("folder").mkdir()

    status, said, _ = check(IMAGE_REPO_PID_FILE=file)

    assert status == 1
    assert said["pid_file"].startswith("wrong ")
    assert check(IMAGE_REPO_PID_FILE="folder/pid")[0] == 0


@pytest.mark.parametrize("local", [False, True])
def test_an_address_that_another_program_has_is_wrong(local: bool) -> None:
    with socket.socket(socket.AF_UNIX if local else socket.AF_INET) as taken:
        taken.bind("taken" if local else ("127.0.0.1", 0))
        taken.listen()
        where = "unix:taken" if local else f"127.0.0.1:{taken.getsockname()[1]}"

        status, said, _ = check(IMAGE_REPO_LISTEN=where)

    assert status == 1
    assert said["listen"] == f"wrong another program has {where!r}"


def test_an_address_that_this_machine_lacks_is_wrong() -> None:
    status, said, _ = check(IMAGE_REPO_LISTEN="192.0.2.1:5000")

    assert status == 1
    assert said["listen"].startswith("wrong cannot use '192.0.2.1:5000': ")


def test_a_socket_file_that_nobody_listens_on_is_free() -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind("left")

    status, said, _ = check(IMAGE_REPO_LISTEN="unix:left")

    assert status == 0
    assert "can be written" in said["listen"]


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as one:
        return one.connect_ex(path) == 0


@pytest.fixture
def running() -> Iterator[str]:
    """A server; where it listens."""
    given = {"IMAGE_REPO_LISTEN": "unix:socket", "IMAGE_REPO_WORKERS_COUNT": "1"}
    process = subprocess.Popen(
        PROGRAM, env=environment(given), stderr=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 40
        while not _answers("socket") and time.monotonic() < until:
            time.sleep(0.1)
        yield "unix:socket"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def test_an_address_that_a_server_of_ours_has_is_right(running: str) -> None:
    status, said, _ = check(IMAGE_REPO_LISTEN=running)

    assert status == 0
    assert said["listen"] == f"ok a running Image Repository has {running!r}"


def test_an_imagemagick_that_does_not_write_what_is_asked_for_is_wrong() -> None:
    status, said, _ = check(IMAGE_REPO_LIMITS_SIDE="1")

    assert status == 1
    assert "can't write jpg, as image_default_format says" in said["workers"]


def test_a_public_name_that_has_no_address_is_wrong() -> None:
    status, said, _ = check(IMAGE_REPO_HTTP_PUBLIC_URL="https://nowhere.invalid")

    assert status == 1
    assert said["http.public_url"] == "wrong no address is known of 'nowhere.invalid'"
    assert check(IMAGE_REPO_HTTP_PUBLIC_URL="http://127.0.0.1:80")[0] == 0


# -- nginx -----------------------------------------------------------------------------


def test_an_nginx_that_refuses_its_configuration_is_wrong() -> None:
    status, said, text = check(
        IMAGE_REPO_NGINX_LISTEN="300.300.300.300:8080",
        IMAGE_REPO_HTTP_REFRESH_SECRET="Secret-0123456789",
    )

    assert status == 1
    assert "300.300.300.300:8080" in said["nginx"]
    assert "Secret" not in text


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        ({}, 0, "ok unlink"),
        ({"IMAGE_REPO_NGINX_PURGE": "refresh"}, 1, "there is no secret"),
        ({"IMAGE_REPO_NGINX_CACHE_PATH": "/missing/x"}, 1, "no directory '/missing'"),
    ],
)
def test_behind_nginx_a_way_to_purge_it_is_needed(
    tmp_path: Path, given: dict[str, str], status: int, says: str
) -> None:
    cache = {"IMAGE_REPO_NGINX_CACHE_PATH": str(tmp_path / "cache")}

    found, said, _ = check(**{"IMAGE_REPO_BEHIND_NGINX": "yes"} | cache | given)

    assert found == status
    assert says in said["nginx.purge"]


# -- Swift -----------------------------------------------------------------------------


Named = dict[str, str]


@pytest.fixture
def named(cloud: Cloud) -> Named:
    """The environment of two containers that are there."""
    names = {"SWIFT_P": f"images-{token_hex(8)}", "SWIFT_C": f"derived-{token_hex(8)}"}
    tool = log_in(cloud.environment)
    for name in names.values():
        assert tool.ask(f"/{name}", "PUT").status == 201
    return cloud.environment | names


@pytest.fixture(params=["persistent_store", "swift_cache"])
def section(request: pytest.FixtureRequest) -> str:
    """The two sections in turn."""
    return f"{request.param}_configuration"


def test_containers_are_tried_and_left_as_they_were(cloud: Cloud, named: Named) -> None:
    tool = log_in(cloud.environment)

    status, said, text = check(**named)

    assert status == 0, said
    for name, word in (("SWIFT_P", "persistent_store"), ("SWIFT_C", "swift_cache")):
        assert said[f"{word}_configuration.container"] == (
            f"ok {named[name]!r} can be listed, written, read and deleted from"
        )
        assert tool.ask(f"/{named[name]}").body == b""
        assert not any(
            "temp-url" in header.lower()
            for header in tool.ask(f"/{named[name]}", "HEAD").headers
        )
    assert said["persistent_store_configuration.credentials"] == (
        f"ok Keystone at {cloud.auth_url} takes them; Swift is at {cloud.storage_url}"
    )
    assert said["swift_cache_configuration.url_key"].startswith("ok sha256 with a key")
    assert cloud.environment["OS_PASSWORD"] not in text


def test_a_container_that_is_not_there_is_wrong_and_not_made(
    cloud: Cloud, named: Named, section: str
) -> None:
    variable = "SWIFT_P" if section.startswith("p") else "SWIFT_C"

    status, said, _ = check(**named | {variable: "not-there"})

    assert status == 1
    assert said[f"{section}.container"].startswith("wrong there is no container 'not-")
    assert log_in(cloud.environment).ask("/not-there", "HEAD").status == 404


def test_a_user_who_may_not_write_is_wrong(cloud: Cloud, named: Named) -> None:
    status, said, _ = check(**named | cloud.limited)

    assert status == 1
    assert said["persistent_store_configuration.container"].startswith("wrong cannot")


def test_credentials_that_keystone_refuses_are_wrong(named: Named) -> None:
    status, said, text = check(**named | {"OS_PASSWORD": "Secret-1"})

    assert status == 1
    # Of logins that fail at once, a Keystone on SQLite may answer some with a 500.
    assert said["persistent_store_configuration.credentials"].startswith("wrong")
    assert any("refuses the credentials" in verdict for verdict in said.values())
    assert "Secret-1" not in text


def test_two_users_are_both_tried(named: Named) -> None:
    password = "IMAGE_REPO_SWIFT_CACHE_CONFIGURATION_CREDENTIALS_PASSWORD"

    status, said, _ = check(**named | {password: "Secret-1"})

    assert status == 1
    assert said["persistent_store_configuration.credentials"].startswith("ok ")
    assert said["swift_cache_configuration.credentials"].startswith("wrong ")


def test_credentials_that_are_missing_exit_2(named: Named) -> None:
    status, _, text = check(**named | {"OS_PASSWORD": ""})

    assert status == 2
    assert "no OS_PASSWORD" in text


def test_a_keystone_that_is_silent_is_wrong_in_time(named: Named) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v3"
        begun = time.monotonic()

        status, said, _ = check(**named | {"OS_AUTH_URL": url})

    assert status == 1
    assert said["persistent_store_configuration.credentials"].startswith("wrong ")
    assert said["workers"].startswith("ok ")
    assert time.monotonic() - begun < 25


@pytest.mark.parametrize(
    ("key", "status", "says"),
    [
        ("0123456789-abcdef", 0, "ok sha256 with the container's key"),
        ("123456789", 1, "is too short: `image_repo url-key --rotate` gives it a new"),
    ],
)
def test_the_key_that_a_container_has_must_not_be_guessed(
    cloud: Cloud, named: Named, key: str, status: int, says: str
) -> None:
    tool = log_in(cloud.environment)
    url, token = f"{tool.storage_url}/{named['SWIFT_C']}", {"X-Auth-Token": tool.token}
    ask(url, "POST", token | {"X-Container-Meta-Temp-URL-Key": key})

    found, said, text = check(**named)

    assert found == status
    assert says in said["swift_cache_configuration.url_key"]
    assert key not in text


def test_a_configured_key_is_no_secret_of_the_output(named: Named) -> None:
    key = "IMAGE_REPO_SWIFT_CACHE_CONFIGURATION_URL_KEY"

    status, said, text = check(**named | {key: "Secret-0123456789"})

    assert status == 0
    assert said["swift_cache_configuration.url_key"].endswith(
        "with the configured key, which the container gets"
    )
    assert "Secret" not in text
