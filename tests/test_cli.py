"""The command, run as its user runs it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from image_repo import options
from image_repo.config import Config


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "image_repo.cli", *arguments],
        env=os.environ | environment,
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
