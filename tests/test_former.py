"""Configuration files of the first release."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from image_repo import former, options
from image_repo.config import Config
from image_repo.former import EVICTION, TABLE, translate
from image_repo.sources import Source

TODAY = {".".join(known.path): known for known in options.describe(Config)}

CACHE = "".join(f"    {name}: None\n" for name in EVICTION)

SWIFT = """\
    credentials:
        authurl: ('env', 'OS_AUTH_URL')
        password: ('env', 'OS_PASSWORD')
        tenant: ('env', 'OS_TENANT_NAME')
        tenant_id: ('env', 'OS_TENANT_ID')
        username: ('env', 'OS_USERNAME')
    download_path: None
    initialise_store: False
    max_elements: 0
    max_size: 0
    server_url: 'https://swift.example.org:8888'
    url_lifetime: 172800
    url_lifetime_slack: 86400
    url_method: 'GET'
    use_file_cache: True
"""

PRINTED = f"""\
alarm_threshold: 0.8
cannonical_format: 'miff'
cannonical_format_used: False
create_new: False
image_default_format: 'jpg'
local_cache_configuration:
{CACHE}
    cache_path: /var/tmp/image_server
    initialise: False
    max_elements: 1048576
    max_size: 1073741824
local_file_cache_path: '/var/tmp/image_repo'
max_images: 0
max_size: 0
memory_cache_configuration:
{CACHE}
    max_elements: 1048576
    max_size: 1073741824
owner: None
persistent_store_configuration:
{CACHE}
    container: 'images'
    url_key: '123456789'
{SWIFT}
pid_file: '/var/tmp/image_repo_pid'
repository_base_pathname: 'images'
swift_cache_configuration:
{CACHE}
    container: 'derived'
{SWIFT}
thumbnail_default_format: 'jpg'
thumbnail_default_size: [50, 50]
thumbnail_equalise: True
thumbnail_liquid_cutin_ratio: 5.0
thumbnail_liquid_resize: True
thumbnail_sharpen: True
"""
"""All that the first release printed, but for a key that it gave to everybody."""


def read(text: str) -> Config:
    """Return the options of a text that holds nothing wrong."""
    today = translate(yaml.safe_load(text))
    config, faults = options.examine(Config, today.content)
    assert not [*today.faults, *faults]
    return config


def test_what_the_first_release_printed_is_read_with_its_meaning() -> None:
    config = read(PRINTED)
    derived = config.swift_cache_configuration

    assert config.work == "/var/tmp/image_repo"
    assert config.pid_file == "/var/tmp/image_repo_pid"
    assert config.memory_cache_configuration.max_size == 2**30
    assert config.memory_cache_configuration.max_elements == 2**20
    assert config.persistent_store_configuration.container == "images"
    assert config.persistent_store_configuration.credentials == derived.credentials
    assert derived.credentials == Config().swift_cache_configuration.credentials
    assert derived.container == "derived"
    assert (derived.url_lifetime, derived.url_lifetime_slack) == (172_800, 86_400)


def test_each_of_its_keys_is_an_option_or_named_as_no_longer_used() -> None:
    today = translate(yaml.safe_load(PRINTED))
    named = {".".join(path) for note in today.notes for path in note.paths}

    unused = {row.key for row in TABLE if not row.now and not row.only}
    assert named == unused - {"local_cache_configuration"}
    assert "no longer used: Keystone says where Swift is" in {
        note.text for note in today.notes
    }


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("image_default_format: jpeg", "image_default_format", "jpg"),
        ("image_default_format: TIFF", "image_default_format", "tif"),
        ("thumbnail_default_format: PNG", "thumbnail_default_format", "png"),
        ("thumbnail_default_size: 60x40", "thumbnail_default_size", (60, 40)),
        ("thumbnail_default_size: (60, 40)", "thumbnail_default_size", (60, 40)),
        ("thumbnail_default_size: [60, 40]", "thumbnail_default_size", (60, 40)),
        ("local_file_cache_path: /tmp/x", "work", "/tmp/x"),
        ("thumbnail_sharpen: False", "thumbnail_sharpen", False),
    ],
)
def test_an_older_spelling_is_the_same_option(
    text: str, name: str, value: object
) -> None:
    assert getattr(read(text), name) == value


def test_a_ratio_that_was_real_is_a_whole_number() -> None:
    assert read("thumbnail_liquid_cutin_ratio: 3.0").render == (
        read("render: {thumbnail_liquid_cutin_ratio: 3}").render
    )


@pytest.mark.parametrize(
    ("said", "source"),
    [
        ("[env, SWIFT_USER]", Source("env", "SWIFT_USER")),
        ("[file, /run/user]", Source("file", "/run/user")),
        ("[explicit, me]", Source("explicit", "me")),
        ("\"('file', '/run/user')\"", Source("file", "/run/user")),
        ("('env','SWIFT_USER')", Source("env", "SWIFT_USER")),
        ("me", Source("explicit", "me")),
    ],
)
@pytest.mark.parametrize(
    ("word", "now"),
    [
        *(("authurl", "auth_url"), ("tenant", "tenant_name")),
        *((name, name) for name in ("tenant_id", "username", "password")),
    ],
)
@pytest.mark.parametrize("section", ["persistent_store", "swift_cache"])
def test_credentials_are_found_where_they_were(
    section: str, word: str, now: str, said: str, source: Source
) -> None:
    name = f"{section}_configuration"
    config = read(f"{name}:\n  credentials:\n    {word}: {said}")

    assert getattr(getattr(config, name).credentials, now) == source


@pytest.mark.parametrize("value", ["images", "/images", "/images/"])
def test_the_one_base_of_all_paths_may_be_said(value: str) -> None:
    assert translate({"repository_base_pathname": value}).content == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            {"repository_base_pathname": "pictures"},
            "option repository_base_pathname: it must be images: every path begins",
        ),
        (
            {"swift_cache_configuration": {"url_method": "PUT"}},
            "option swift_cache_configuration.url_method: it must be GET",
        ),
        (
            {"local_file_cache_path": "/a", "work": "/b"},
            "option local_file_cache_path is an older word for work, which is there",
        ),
    ],
)
def test_what_cannot_be_done_any_more_is_refused(
    content: dict[str, Any], says: str
) -> None:
    (fault,) = translate(content).faults

    assert says in str(fault)
    assert fault.path == tuple(str(fault).split()[1].rstrip(":").split("."))


def test_no_limit_that_has_become_nothing_is_said_of_older_files_alone() -> None:
    memory: dict[str, object] = {
        "memory_cache_configuration": {"max_size": 0, "max_elements": 5}
    }

    assert translate(memory).notes == ()
    (note,) = translate({"local_file_cache_path": "/a"} | memory).notes
    assert note.paths == (("memory_cache_configuration", "max_size"),)
    assert "0 meant no limit" in note.text


def test_a_file_of_today_stays_as_it_is() -> None:
    content = {
        "work": "/w",
        "http": {"max_age": 5},
        "memory_cache_configuration": None,
        "swift_cache_configuration": {"url_key": "x", "credentials": {"password": "y"}},
    }

    today = translate(content)

    assert today.content == content
    assert not [*today.notes, *today.faults]


@pytest.mark.parametrize("value", [None, 5, "x", [1], {}])
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.key)
def test_any_value_of_a_former_key_is_read_or_refused_by_its_option(
    row: former.Former, value: object
) -> None:
    content: dict[str, Any] = {}
    inner = content
    for name in row.path[:-1]:
        inner[name] = inner = {}
    inner[row.path[-1]] = value

    today = translate(content)
    options.examine(Config, today.content)

    assert today.faults or today.notes or row.now


def test_a_section_that_is_none_is_left_to_be_refused() -> None:
    today = translate({"render": 5, "thumbnail_liquid_cutin_ratio": 5.0})

    assert today.content == {"render": 5}
    assert translate({"persistent_store_configuration": 5}).content == {
        "persistent_store_configuration": 5
    }


def test_every_former_key_that_is_read_leads_to_an_option() -> None:
    for row in TABLE:
        assert row.now in TODAY if row.now else row.key not in TODAY
        assert bool(row.now) != bool(row.why)
