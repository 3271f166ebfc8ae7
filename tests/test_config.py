from __future__ import annotations

from pathlib import Path

import pytest

from image_repo import config, options
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


# -- what is wrong, and where ----------------------------------------------------------


def examine(tmp_path: Path, text: str, **environ: str) -> config.Loaded:
    file = tmp_path / "config.yml"
    file.write_text(text, encoding="utf-8")
    return config.examine(file, environ)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\nhttp:\n  max_age: -1", "option http.max_age is -1: it must be a whole"),
        ("\nhttp:\n  max_agee: 1", "unknown option http.max_agee"),
        ("data: d\n\ndata: e", "option data is there twice: in line 1, too"),
        ("http: &a\n  uploads: 3\n  uploads: 4", "option http.uploads is there twice"),
        (
            "persistent_store_configuration:\n  credentials:\n    authurl: 5",
            "option persistent_store_configuration.credentials.auth_url is 5",
        ),
        ("\n\nlocal_file_cache_path: 5", "option work is 5: it must be text"),
        ("\n\nrepository_base_pathname: x", "option repository_base_pathname: it"),
    ],
)
def test_a_wrong_option_is_named_with_its_line(
    tmp_path: Path, text: str, says: str
) -> None:
    (fault,) = examine(tmp_path, text).faults

    assert fault.startswith(says)
    assert fault.endswith(" (line 3)")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, "{a: 1, http: {max_age: -1}}", IMAGE_REPO_WORKERS_COUNT="x")

    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert any(line.endswith(" (IMAGE_REPO_WORKERS_COUNT)") for line in said)


def test_an_anchor_that_holds_itself_is_an_unknown_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown option http\.http"):
        load(tmp_path, "http: &a\n  http: *a")


def test_no_text_of_a_file_that_is_not_yaml_is_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not YAML in line 2") as caught:
        load(tmp_path, "url_key:\n  *Secret-1")

    assert "Secret" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["2026-13-01", "!!int x", "!!int ''", "!!bool x", "!!timestamp x", "9" * 5000],
)
def test_a_value_that_yaml_cannot_make_is_told_with_its_line(
    tmp_path: Path, value: str
) -> None:
    with pytest.raises(ConfigError, match="not YAML in line 2"):
        load(tmp_path, f"http:\n  max_age: {value}")


def test_a_file_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not YAML"):
        load(tmp_path, "[" * 3000)


def test_a_key_that_means_nothing_any_more_is_named_with_its_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, "data: x\nowner: None\nmax_size: 0\nmax_images: 0\n")

    owner, sizes = (record.getMessage() for record in caplog.records)
    assert owner == "option owner (line 2): no longer used: nothing asked for it"
    assert sizes.startswith("option max_size (line 3), max_images (line 4): no longer")


def test_a_variable_that_is_nearly_an_option_is_named_without_its_value(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(tmp_path, "", IMAGE_REPO_HTPP_MAX_AGE="Secret", IMAGE_REPO_DATA="d", OTHER="")

    (record,) = caplog.records
    assert record.getMessage() == (
        "IMAGE_REPO_HTPP_MAX_AGE in the environment is no option; did you mean"
        " IMAGE_REPO_HTTP_MAX_AGE?"
    )


def test_every_option_has_a_variable_of_its_own() -> None:
    known = [item.environment for item in options.describe(Config)]

    assert len(set(known)) == len(known)
    assert "IMAGE_REPO_SWIFT_CACHE_CONFIGURATION_CREDENTIALS_PASSWORD" in known


def test_a_key_that_can_be_guessed_is_refused_with_what_to_do(tmp_path: Path) -> None:
    loaded = load(tmp_path, "swift_cache_configuration: {url_key: '123456789'}")

    with pytest.raises(ConfigError, match="16 to 256 bytes; leave it out, and the"):
        config.described_store(loaded, CLOUD)
