from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from image_repo import options
from image_repo.errors import ConfigError
from image_repo.sources import Source
from image_repo.stores import containers
from image_repo.stores.containers import PersistentStoreOptions, SwiftCacheOptions
from image_repo.stores.keystone import Credentials

ENVIRON = {
    "OS_AUTH_URL": "https://keystone.example.org:5000/v3",
    "OS_USERNAME": "me",
    "OS_PASSWORD": "Secret-1",
    "OS_PROJECT_NAME": "ours",
}


def test_the_containers_have_the_names_of_the_first_release() -> None:
    assert PersistentStoreOptions().container == "test_image_repo"
    assert SwiftCacheOptions().container == "test_image_repo_cache"


def test_the_variables_of_the_first_release_name_the_containers() -> None:
    environ = {"SWIFT_P": "ours", "SWIFT_C": "ours-cache"}

    assert options.load(PersistentStoreOptions, {}, environ).container == "ours"
    assert options.load(SwiftCacheOptions, {}, environ).container == "ours-cache"


@pytest.mark.parametrize("name", ["a", "é" * 128, "a b", "...", ".a", "日本"])
def test_a_container_may_have_any_name_that_swift_takes(name: str) -> None:
    assert options.load(PersistentStoreOptions, {"container": name}).container == name


@pytest.mark.parametrize("name", ["", "a/b", "/", ".", "..", "a" * 257, "é" * 129])
def test_a_container_without_a_usable_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="option container is"):
        options.load(SwiftCacheOptions, {"container": name})


def test_derived_images_are_kept_by_the_user_who_keeps_originals() -> None:
    originals = PersistentStoreOptions(
        credentials=replace(Credentials(), username=Source("explicit", "you"))
    )

    first, second = containers.identities(originals, SwiftCacheOptions(), ENVIRON)

    assert first is second
    assert first.username == "you"


def test_derived_images_may_be_kept_by_another_user() -> None:
    derived = SwiftCacheOptions(
        credentials=replace(Credentials(), username=Source("explicit", "you"))
    )

    first, second = containers.identities(PersistentStoreOptions(), derived, ENVIRON)

    assert (first.username, second.username) == ("me", "you")


@pytest.mark.parametrize(
    ("username", "section"),
    [
        (Source("env", "OS_USERNAME"), "persistent_store_configuration"),
        (Source("env", "NOBODY"), "swift_cache_configuration"),
    ],
)
def test_a_missing_credential_is_said_with_its_section(
    username: Source, section: str
) -> None:
    derived = SwiftCacheOptions(credentials=replace(Credentials(), username=username))
    environ = dict(ENVIRON)
    if username.text in environ:
        del environ[username.text]

    with pytest.raises(ConfigError, match=rf"option {section}\.credentials\.username"):
        containers.identities(PersistentStoreOptions(), derived, environ)


def test_there_is_no_key_unless_one_is_given() -> None:
    assert containers.url_key(SwiftCacheOptions(), {}) == ""


def test_a_key_is_found_where_the_option_says(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    section = {"url_key": ["file", str(tmp_path / "key")]}

    loaded = options.load(SwiftCacheOptions, section)

    assert containers.url_key(loaded, {}) == "0123456789abcdef"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Source("explicit", "Secret"), "url_key: it must have 16 to 256 bytes"),
        (Source("env", "LONG"), "url_key: it must have 16 to 256 bytes"),
        (Source("env", "KEY"), "url_key: the environment has no KEY"),
        (Source("file", "/nowhere"), "url_key: cannot read '/nowhere'"),
    ],
)
def test_a_key_that_is_missing_or_weak_is_refused_and_not_shown(
    source: Source, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        containers.url_key(SwiftCacheOptions(url_key=source), {"LONG": "Secret" * 50})

    assert says in str(caught.value)
    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize("lifetime", [0, 4200, 30 * 86400])
def test_a_derived_object_may_live_longer_than_what_leads_to_it(lifetime: int) -> None:
    containers.check_lifetimes(SwiftCacheOptions(lifetime=lifetime), 600)


@pytest.mark.parametrize(
    ("lifetime", "held", "says"),
    [
        (4199, 600, "url_lifetime_slack together, which is 4200"),
        (86400, 86401, "stale_while_revalidate together, which is 86401"),
    ],
)
def test_a_derived_object_may_not_vanish_before_what_leads_to_it(
    lifetime: int, held: int, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        containers.check_lifetimes(SwiftCacheOptions(lifetime=lifetime), held)

    assert f"swift_cache_configuration.lifetime is {lifetime}" in str(caught.value)
    assert says in str(caught.value)
