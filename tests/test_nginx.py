from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from nginx.harness import RECIPE, SECRET, program, settings

from image_repo.errors import ConfigError
from image_repo.formats import FORMATS
from image_repo.names import DerivedName, Tag, image_name
from image_repo.nginx import render
from image_repo.nginx_maps import CANONICAL
from image_repo.options import load
from image_repo.purge import NginxOptions

WRONG_TEXTS = ("a b", "a;b", "a{", "$x", "a\nb", 'a"b', "a'b", "a#b", "a\\b", "")


@pytest.mark.parametrize("row", [f for f in FORMATS if f.served], ids=lambda f: f.kind)
@pytest.mark.parametrize(
    "name", ["a", "a/b c", "é", "@2x+", "_a", "a_", ".a", "...", "%2e"]
)
def test_every_canonical_path_is_hot(name: str, row: object) -> None:
    derived = DerivedName(image_name(name), (), row)  # type: ignore[arg-type] # a Format

    assert re.fullmatch(CANONICAL, derived.path)
    assert re.fullmatch(CANONICAL, derived.versioned_path(Tag("0123456789abcdef")))


@pytest.mark.parametrize(
    "path",
    [
        "/images/a/_/w_400.webp",
        "/images/a/_/w_400-h_300-fit_cover-q_75.webp",
        "/images/a/_/crop_10_20_300_400-rotate_m1.5.png",
    ],
)
def test_modifiers_are_hot(path: str) -> None:
    assert re.fullmatch(CANONICAL, path)


@pytest.mark.parametrize(
    "path",
    [
        "/images/a/_/w_400.webp?",
        "/images/a/_/info.json",
        "/images/a/_/full.psd",
        "/images/a/../_/full.jpg",
        "/images/./_/full.jpg",
        "/images//_/full.jpg",
        "/images/_/full.jpg",
        "/images/a/_/_/full.jpg",
        "/images/a%2Fb/_/full.jpg",
        "/images/a%2Eb/_/full.jpg",
        "/images/a%0A/_/full.jpg",
        "/images/a%7F/_/full.jpg",
        "/images/a%61/_/full.jpg",
        "/images/a%c3%a9/_/full.jpg",
        "/images/a b/_/full.jpg",
        "/images/a#/_/full.jpg",
        "/images/a/_/v_0123/full.jpg",
        "/images/a/_/W_1.jpg",
        "/images/a",
    ],
)
def test_nothing_else_is(path: str) -> None:
    assert not re.fullmatch(CANONICAL, path)


def test_every_word_of_the_template_is_filled_in(tmp_path: Path) -> None:
    whole = render(settings(tmp_path))

    assert "@@" not in whole
    assert "@@" not in render(replace(settings(tmp_path), directory=None))
    assert whole.count(SECRET) == 2


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("secret", [SECRET, ""])
@pytest.mark.parametrize(
    "servers",
    [
        "127.0.0.1:5000",
        "[::1]:5000",
        "unix:/run/x/s.sock",
        "127.0.0.1:5000 [::1]:5000 unix:/run/x/s.sock",
    ],
)
def test_nginx_and_gixy_find_nothing_wrong(
    tmp_path: Path, alone: bool, secret: str, servers: str
) -> None:
    chosen = replace(settings(tmp_path), secret=secret)
    chosen = replace(chosen, options=replace(chosen.options, servers=servers))
    conf = tmp_path / "nginx.conf"
    if alone:
        conf.write_text(render(chosen))
    else:
        body = render(replace(chosen, directory=None)).replace("/var/log/nginx", "logs")
        (tmp_path / "logs").mkdir()
        frame = f"pid {tmp_path}/pid; events {{}}\nhttp {{\n{body}\n}}\n"
        conf.write_text(frame)

    checks = [
        [program(), "-t", "-p", str(tmp_path), "-c", str(conf)],
        [sys.executable, "-m", "gixy.cli", str(conf)],
    ]
    for command in checks:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not re.search(r"\[(warn|emerg|alert)\]", done.stderr), done.stderr


def test_the_lock_outlasts_the_slowest_answer(tmp_path: Path) -> None:
    chosen = replace(settings(tmp_path), deadline=20)
    text = render(chosen)
    seconds = dict(re.findall(r"(\w+_(?:timeout|age)) (\d+)s;", text))

    # a derivation waits for a worker, and then runs, for a deadline each
    assert int(seconds["proxy_read_timeout"]) > 2 * 20
    for name in ("proxy_cache_lock_timeout", "proxy_cache_lock_age"):
        assert int(seconds[name]) > int(seconds["proxy_read_timeout"])


def test_the_servers_limit_of_an_upload_is_reached_first(tmp_path: Path) -> None:
    text = render(replace(settings(tmp_path), upload_bytes=5_000_000))

    (limit,) = re.findall(r"client_max_body_size (\d+);", text)
    assert int(limit) > 5_000_000


def test_options_are_in_the_text(tmp_path: Path) -> None:
    options = NginxOptions(
        listen="127.0.0.1:81 [::1]:81",
        server_name="a.example b.example",
        cache_path="/c/d",
        cache_size=7 * 2**20,
        cache_keys=3 * 2**20,
        cache_inactive="2h",
    )

    text = render(replace(settings(tmp_path), options=options))

    for part in (
        "listen 127.0.0.1:81;",
        "listen [::1]:81;",
        "server_name a.example b.example;",
        "proxy_cache_path /c/d levels=1:2",
        f"keys_zone=image_repo:{3 * 2**20} max_size={7 * 2**20} inactive=2h;",
        f'proxy_cache_key "{RECIPE}$image_repo_key";',
    ):
        assert part in text


def test_no_file_but_its_own_can_be_had_of_nginx(tmp_path: Path) -> None:
    text = render(settings(tmp_path))

    assert not re.search(r"^ *(?:alias|root|try_files|index)\b", text, re.MULTILINE)
    # a location without one of these or of its own words would look below `root`
    bodies = re.findall(r"^( *)location (.*?)^\1\}$", text, re.DOTALL | re.MULTILINE)
    assert len(bodies) > 5
    for _, body in bodies:
        assert re.search(r"\b(?:proxy_pass|return|stub_status)\b", body), body


@pytest.mark.parametrize("servers", ["", "127.0.0.1:5001"])
def test_before_one_server_nothing_is_said_of_several(
    tmp_path: Path, servers: str
) -> None:
    chosen = settings(tmp_path, upstream="127.0.0.1:5001")
    alone = render(replace(chosen, options=replace(chosen.options, servers=servers)))

    assert "server 127.0.0.1:5001 max_fails=0;" in alone
    several = ("consistent", "image_repo_image", "proxy_next_upstream_tries")
    for word in (*several, "@reading"):
        assert word not in alone
    assert not re.search("@several|@end|@@", alone)


def test_every_server_is_named_and_shares_the_images(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    options = replace(chosen.options, servers="a.example:1 unix:/run/b.sock [::1]:3")

    text = render(replace(chosen, options=options))

    assert re.findall(r"^ +server (\S+) max_fails=0;", text, re.MULTILINE) == [
        "a.example:1",
        "unix:/run/b.sock",
        "[::1]:3",
        chosen.cold,
    ]
    assert "hash $image_repo_image consistent;" in text
    assert chosen.upstream not in text


def test_every_extension_of_an_upload_is_left_out_of_an_images_name(
    tmp_path: Path,
) -> None:
    chosen = settings(tmp_path)
    options = replace(chosen.options, servers="a:1 b:2")

    (words,) = re.findall(
        r"image_repo_stem>.*\(\?i:([a-z|]+)\)", render(replace(chosen, options=options))
    )

    assert set(words.split("|")) == {e for row in FORMATS for e in row.extensions}


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        ":5000",
        "a:1;",
        "a:1  b:2",
        " a:1",
        "a:1\n",
        "a:123456",
        "unix:run/x",
        "unix:/run/x y{",
        "unix:/run/$x",
        "http://a:1",
        "é:1",
        "a:1 max_fails=1",
    ],
)
def test_a_server_that_would_be_a_directive_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"nginx\.servers"):
        load(NginxOptions, {"servers": text}, where="nginx")


@pytest.mark.parametrize("text", WRONG_TEXTS)
@pytest.mark.parametrize("what", ["upstream", "recipe"])
def test_text_that_would_be_a_directive_is_refused(
    tmp_path: Path, what: str, text: str
) -> None:
    changes = {what: text}

    with pytest.raises(ConfigError, match=f"as its {what}"):
        settings(tmp_path, **changes)


@pytest.mark.parametrize("text", [text for text in WRONG_TEXTS if text])
def test_a_directory_whose_name_would_be_a_directive_is_refused(
    tmp_path: Path, text: str
) -> None:
    with pytest.raises(ConfigError, match="as its directory"):
        settings(tmp_path / text)


def test_a_secret_that_nginx_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    for secret in ("short", 'x" 1; "y-------------', "a" * 129):
        with pytest.raises(ConfigError, match="secret") as caught:
            settings(tmp_path, secret=secret)
        assert secret not in str(caught.value)
