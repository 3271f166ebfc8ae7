from __future__ import annotations

import hmac
from hashlib import sha256
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo import links
from image_repo.errors import UnauthorisedError

KEY = b"a secret"
paths = st.text().map("/{}".format)


def made(path: str, *, prefix: bool = False, method: str = "GET") -> dict[str, str]:
    return dict(parse_qsl(links.query(KEY, method, path, 1000, prefix=prefix)))


def test_a_signature_is_that_of_swifts_tempurl() -> None:
    text = b"GET\n1000\n/v1/AUTH_x/c/a b"

    expected = hmac.new(KEY, text, sha256).hexdigest()

    assert links.sign(KEY, "GET", "/v1/AUTH_x/c/a b", 1000) == expected


@given(paths)
def test_a_link_is_valid_until_it_expires(path: str) -> None:
    words = made(path)

    links.verify([KEY], "GET", path, words, 999.9)
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", path, words, 1000)


@given(paths, paths)
def test_a_prefix_link_is_valid_for_all_below(path: str, rest: str) -> None:
    links.verify([KEY], "GET", path + rest, made(path, prefix=True), 0)


def test_any_of_several_keys_may_have_signed() -> None:
    links.verify([b"new", KEY], "GET", "/x", made("/x"), 0)


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_link_lets_the_size_be_asked_for(method: str) -> None:
    links.verify([KEY], "HEAD", "/x", made("/x", method=method), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"temp_url_sig": "0" * 64},
        {"temp_url_sig": ""},
        {"temp_url_sig": "é\udc80"},
        {"temp_url_expires": "1001"},
        {"temp_url_expires": ""},
        {"temp_url_expires": "-1"},
        {"temp_url_expires": "1e9"},
        {"temp_url_expires": "9" * 5000},
        {"temp_url_prefix": "/x"},
        {"temp_url_prefix": "/y"},
    ],
)
def test_an_altered_link_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", "/x", {**made("/x"), **change}, 0)


@pytest.mark.parametrize(
    ("method", "path", "keys"),
    [
        ("GET", "/y", [KEY]),
        ("PUT", "/x", [KEY]),
        ("DELETE", "/x", [KEY]),
        ("GET", "/x", [b"other"]),
        ("GET", "/x", []),
    ],
)
def test_a_link_is_for_one_method_path_and_key(
    method: str, path: str, keys: list[bytes]
) -> None:
    with pytest.raises(UnauthorisedError):
        links.verify(keys, method, path, made("/x"), 0)


def test_a_prefix_link_is_not_valid_elsewhere() -> None:
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", "/other", made("/x", prefix=True), 0)


def test_a_request_without_a_link_is_refused() -> None:
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", "/x", {}, 0)
