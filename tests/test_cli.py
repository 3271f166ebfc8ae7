"""The command, run as its user runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cloud.cluster import Cloud

from image_repo import options
from image_repo.config import Config


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return python("-m", "image_repo.cli", *arguments, **environment)


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("OS_", "SWIFT_"))}
    return subprocess.run(
        [sys.executable, *arguments],
        env=ours | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("flag", ["-Y", "-Yt"])
def test_the_template_holds_every_option_and_loads_to_the_defaults(flag: str) -> None:
    done = run(flag)

    assert done.returncode == 0
    assert options.load(Config, yaml.safe_load(done.stdout), {}) == Config()
    for item in options.describe(Config):
        assert item.path[-1] in done.stdout
        assert item.about.help.split()[0] in done.stdout


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("workers: {count: many}", ("workers.count", "many")),
        ("workers: {cuont: 3}", ("cuont", "count")),
        ("http: {max_age: -1}", ("http.max_age", "-1", "0 to")),
        ("image_default_format: jpq", ("image_default_format", "jpq", "webp")),
        ("- 1", ("options",)),
        ("a: [", ("YAML",)),
    ],
)
def test_a_wrong_option_exits_2_and_says_what_is_allowed(
    tmp_path: Path, text: str, says: tuple[str, ...]
) -> None:
    file = tmp_path / "config.yml"
    file.write_text(text, encoding="utf-8")

    done = run("-y", str(file))

    assert done.returncode == 2
    assert all(word in done.stderr for word in says), done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_that_is_not_there_exits_2() -> None:
    done = run("-y", "/nowhere.yml")

    assert done.returncode == 2
    assert "/nowhere.yml" in done.stderr


def test_an_option_of_the_environment_wins(tmp_path: Path) -> None:
    file = tmp_path / "config.yml"
    file.write_text("nginx: {cache_size: 2 GiB}", encoding="utf-8")

    from_file = run("nginx-conf", "-y", str(file))
    from_both = run("nginx-conf", "-y", str(file), IMAGE_REPO_NGINX_CACHE_SIZE="3 GiB")

    assert f"max_size={2 * 2**30}" in from_file.stdout
    assert f"max_size={3 * 2**30}" in from_both.stdout


@pytest.mark.parametrize(("behind", "lines"), [("yes", 0), ("no", 1)])
def test_nginx_is_not_configured_for_a_server_that_knows_nothing_of_it(
    behind: str, lines: int
) -> None:
    done = run("nginx-conf", IMAGE_REPO_BEHIND_NGINX=behind)

    assert done.returncode == 0
    assert "proxy_cache" in done.stdout
    assert done.stderr.count("\n") == lines
    assert done.stderr.count("image_repo: option behind_nginx is false") == lines


def test_an_unknown_argument_exits_2() -> None:
    assert run("--nonsense").returncode == 2
    assert run("fly").returncode == 2


def test_an_address_in_use_exits_2_and_names_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run("--data", str(tmp_path), IMAGE_REPO_LISTEN=listen)

    assert done.returncode == 2
    assert listen in done.stderr


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout.strip().count(".") >= 1


@pytest.mark.parametrize(
    "words",
    [
        ("nginx-conf", "-y", "FILE"),
        ("-y", "FILE", "nginx-conf"),
        ("--debug", "nginx-conf", "--config", "FILE", "--data", "images"),
    ],
)
def test_what_all_commands_know_may_stand_before_or_behind_them(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "config.yml"
    file.write_text("nginx: {server_name: img.example.org}", encoding="utf-8")

    done = run(*(str(file) if word == "FILE" else word for word in words))

    assert "server_name img.example.org;" in done.stdout


@pytest.mark.parametrize(
    "words", [(), ("serve",), ("-y", "FILE"), ("-y", "FILE", "serve")]
)
def test_without_a_command_it_serves(tmp_path: Path, words: tuple[str, ...]) -> None:
    file = tmp_path / "config.yml"
    file.write_text("", encoding="utf-8")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = run(
            *(str(file) if word == "FILE" else word for word in words),
            IMAGE_REPO_LISTEN=listen,
            IMAGE_REPO_DATA=str(tmp_path),
        )

    assert f"option listen: cannot use '{listen}'" in done.stderr


def test_every_command_is_in_the_help() -> None:
    said = run("--help").stdout

    assert all(word in said for word in ("serve", "nginx-conf", "with-nginx"))
    assert "--port" in run("with-nginx", "--help").stdout


# -- the store -------------------------------------------------------------------------


def test_a_url_of_keystone_chooses_swift_whose_credentials_are_needed(
    tmp_path: Path,
) -> None:
    environment = {
        "OS_AUTH_URL": "https://keystone.example.org:5000/v3",
        "OS_USERNAME": "me",
        "IMAGE_REPO_WORK": str(tmp_path),
    }

    done = run("with-nginx", "--port", "0", **environment)

    assert done.returncode == 2
    assert done.stderr == (
        "image_repo: option persistent_store_configuration.credentials.password:"
        " the environment has no OS_PASSWORD\n"
    )


def test_a_data_directory_on_the_command_line_wins_over_everything(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    directory = str(tmp_path / "file" / "data")

    done = run(
        *("with-nginx", "--port", "0", "--data", directory),
        OS_AUTH_URL="https://keystone.example.org:5000/v3",
        IMAGE_REPO_STORE="swift",
        IMAGE_REPO_DATA=str(tmp_path),
    )

    assert done.returncode == 2
    assert f"directory {directory}: Not a directory" in done.stderr


# -- the log ---------------------------------------------------------------------------

LOG_IN = """
import os
from image_repo import commands
from image_repo.stores.keystone import Credentials, identity, make_session
commands.log(debug=True)
session = make_session(identity(Credentials(), os.environ, "test"), timeout=10)
print(session.get_token())
session.get(session.auth.auth_url)
"""


def test_no_log_holds_a_request_to_keystone(cloud: Cloud) -> None:
    done = python("-c", LOG_IN, **cloud.environment)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stderr == ""


def test_events_of_our_own_are_logged() -> None:
    said = "import logging; from image_repo import commands; commands.log(debug=False)"

    done = python("-c", f"{said}; logging.getLogger('image_repo').info('an event')")

    assert "INFO image_repo: an event" in done.stderr
