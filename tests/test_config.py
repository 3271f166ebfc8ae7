from __future__ import annotations

from pathlib import Path

import pytest

from image_repo import config
from image_repo.config import Config
from image_repo.errors import ConfigError

CLOUD = {
    "OS_AUTH_URL": "https://keystone.example.org:5000/v2.0/",
    "OS_USERNAME": "me",
    "OS_PASSWORD": "Secret-1",
    "OS_TENANT_NAME": "ours",
}


def load(tmp_path: Path, text: str, **environ: str) -> Config:
    file = tmp_path / "config.yml"
    file.write_text(text, encoding="utf-8")
    return config.load(file, environ)


@pytest.mark.parametrize(
    ("text", "environ", "store"),
    [
        ("", {}, "directory"),
        ("", CLOUD, "swift"),
        ("", {"OS_AUTH_URL": ""}, "directory"),
        ("store: auto", CLOUD, "swift"),
        ("data: /srv/images", CLOUD, "directory"),
        ("store: directory", CLOUD, "directory"),
        ("{store: swift, data: /srv/images}", CLOUD, "swift"),
        ("store: swift", {}, "swift"),
        ("", CLOUD | {"IMAGE_REPO_DATA": "/srv/images"}, "directory"),
        ("store: directory", {"IMAGE_REPO_STORE": "swift"}, "swift"),
        (
            "persistent_store_configuration: {credentials: {auth_url: 'https://k/v3'}}",
            {},
            "swift",
        ),
    ],
)
def test_the_store_is_what_the_configuration_and_then_the_environment_say(
    tmp_path: Path, text: str, environ: dict[str, str], store: str
) -> None:
    loaded = load(tmp_path, text, **environ)

    assert config.chosen_store(loaded, environ) == store


def test_an_unreadable_url_of_keystone_is_not_taken_for_none(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "persistent_store_configuration: {credentials: {auth_url: [file, /nowhere]}}",
    )

    with pytest.raises(ConfigError, match=r"credentials\.auth_url: cannot read"):
        config.chosen_store(loaded, {})


def test_what_is_under_way_is_below_the_data_directory_unless_said() -> None:
    assert Config().work_directory == Path("data")
    assert Config(data="/srv/images").work_directory == Path("/srv/images")
    assert Config(data="/srv/images", work="/run/x").work_directory == Path("/run/x")


def test_where_the_images_are_is_said_in_words(tmp_path: Path) -> None:
    directory = Config(data=str(tmp_path))
    other = load(
        tmp_path,
        "swift_cache_configuration:"
        " {container: c, credentials: {auth_url: 'https://b.example/v3'}}",
    )

    assert (
        config.described_store(directory, {}) == f"images in the directory {tmp_path}"
    )
    assert config.described_store(Config(), CLOUD) == (
        "images in Swift: containers test_image_repo and test_image_repo_cache"
        " at https://keystone.example.org:5000/"
    )
    assert config.described_store(other, CLOUD) == (
        "images in Swift: containers test_image_repo and c"
        " at https://keystone.example.org:5000/ and https://b.example/v3"
    )


@pytest.mark.parametrize(
    ("text", "environ", "says"),
    [
        ("store: swift", {}, "auth_url: the environment has no OS_AUTH_URL"),
        ("", {"OS_AUTH_URL": "https://a.example"}, "no OS_USERNAME"),
        ("swift_cache_configuration: {url_key: short}", CLOUD, "url_key: it must"),
        ("swift_cache_configuration: {url_key: short}", {}, "url_key: it must"),
    ],
)
def test_what_is_lacking_is_said_before_anything_starts(
    tmp_path: Path, text: str, environ: dict[str, str], says: str
) -> None:
    loaded = load(tmp_path, text)

    with pytest.raises(ConfigError, match=says):
        config.described_store(loaded, environ)


def test_lifetimes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            tmp_path,
            "{swift_cache_configuration: {lifetime: 5000}, http: {s_maxage: 5001}}",
        )

    assert "swift_cache_configuration.lifetime is 5000" in str(caught.value)
    assert "http.s_maxage" in str(caught.value)


def test_a_configuration_shows_no_explicit_text() -> None:
    environ = {
        "IMAGE_REPO_PERSISTENT_STORE_CONFIGURATION_CREDENTIALS_PASSWORD": "Secret-1",
        "IMAGE_REPO_SWIFT_CACHE_CONFIGURATION_URL_KEY": "Secret-2",
    }

    assert "Secret" not in repr(config.load(None, environ))
