"""What the guide says of options is what they are."""

from __future__ import annotations

import re

import pytest
from nginx import guide

from image_repo import options
from image_repo.config import Config

OPTIONS = {
    item.path[1]: item.default
    for item in options.describe(Config)
    if item.path[0] == "nginx"
}
UNSAID = {
    "servers": "empty: the one of `listen`",
    "refresh_url": "the first of `listen`",
    "cold_listen": "`/run/image_repo-nginx.sock`",
    "include": "empty",
    "trusted_proxies": "empty",
}
"""What the guide says of those that have no default of their own."""

BULLETS = [p for p in guide.pieces() if re.match(r"- \*\*\w+\*\*.* · ", p)]


def shown(name: str) -> str:
    default = OPTIONS[name]
    if isinstance(default, int):
        for unit, size in (("GiB", 2**30), ("MiB", 2**20)):
            if default >= size:
                return f"{default / size:g} {unit}"
        return str(default)
    return f"`{default}`" if default else UNSAID[name]


@pytest.mark.parametrize("bullet", BULLETS, ids=lambda b: b.split("**")[1])
def test_an_option_of_the_guide_has_the_default_that_is_said(bullet: str) -> None:
    names = re.findall(r"\*\*(\w+)\*\*", bullet)
    _, said, when = bullet.split(" · ")

    assert said.removesuffix(", any") == ", ".join(shown(name) for name in names)
    assert when.endswith(".")


def test_every_option_of_nginx_is_in_the_guide_once() -> None:
    names = [n for b in BULLETS for n in re.findall(r"\*\*(\w+)\*\*", b)]

    assert sorted(names) == sorted(OPTIONS)


def test_every_option_that_is_named_exists_with_the_value_that_is_said() -> None:
    defaults = {".".join(d.path): d.default for d in options.describe(Config)}
    sections = {name.split(".")[0] for name in defaults if "." in name}
    words = re.findall(r"`([a-z_]+)\.([a-z_]+)(?::[^`]*)?`", guide.TEXT)
    named = {f"{a}.{b}" for a, b in words if a in sections}
    minutes = re.findall(r"`([a-z_.]+)` \((\d+) min\)", guide.TEXT)

    assert len(named) > 10
    assert named <= defaults.keys()
    assert len(minutes) == 2
    for name, count in minutes:
        assert defaults[name] == 60 * int(count), name
    assert f"(`workers.queue`, {defaults['workers.queue']} each)" in guide.plain(
        guide.TEXT
    )
