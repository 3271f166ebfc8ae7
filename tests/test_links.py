from __future__ import annotations

import string
from email.message import Message
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import derived_names
from swiftclient.utils import generate_temp_url

from image_repo import links, names
from image_repo.errors import BadRequestError, ConfigError, UnauthorisedError
from image_repo.names import DerivedName, Tag

KEY = b"a secret of some length"
BASE = "https://img.example.org/links"
NAME = DerivedName.parse("plots/site-7/_/w_400.webp")
TAG = Tag("0123456789abcdef")

texts = st.text(st.characters(exclude_categories=["Cs"]))
keys = st.text(min_size=1).filter(lambda text: text.strip("/") == text)
tags = st.text("0123456789abcdef", min_size=16, max_size=16).map(Tag)
lifetimes = st.integers(1, 10**6)
slacks = st.integers(0, 10**6)
times = st.floats(0, 4e9)


def words(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))


def made(path: str = "x", expires: int = 1000) -> dict[str, str]:
    return words(links.url(KEY, BASE, path, expires, "x.jpg"))


# When links end


@given(times, lifetimes, slacks)
def test_a_link_is_valid_for_its_lifetime_and_at_most_the_slack_longer(
    now: float, lifetime: int, slack: int
) -> None:
    end = links.end(now, lifetime, slack)

    assert lifetime <= end - now <= lifetime + max(slack, 1)


@given(times, lifetimes, st.integers(1, 10**6), st.floats(0, 1, exclude_max=True))
def test_links_end_at_most_at_two_times_within_the_slack(
    now: float, lifetime: int, slack: int, share: float
) -> None:
    ends = {links.end(now + share * slack * i / 10, lifetime, slack) for i in range(11)}

    assert len(ends) <= 2
    assert all(end % slack == 0 for end in ends)


@given(st.integers(0, 4 * 10**6), lifetimes, st.integers(1, 1000))
def test_links_given_in_one_period_end_together(
    period: int, lifetime: int, slack: int
) -> None:
    first = period * slack - lifetime % slack + 1

    ends = {links.end(now, lifetime, slack) for now in range(first, first + slack)}

    assert len(ends) == 1


# Signatures


@given(texts, st.integers(0, 2**40), st.sampled_from(links.DIGESTS))
def test_a_signature_is_that_of_swifts_own_client(
    name: str, expires: int, digest: links.Digest
) -> None:
    path = f"/v1/AUTH_x/c/o{name}"

    url = generate_temp_url(
        path, expires, KEY.decode(), "GET", absolute=True, digest=digest
    )

    signature = url.removeprefix(f"{path}?temp_url_sig=").partition("&")[0]
    assert links.sign(KEY, path, expires, digest) == signature


@given(keys, texts, st.sampled_from(links.DIGESTS))
def test_a_link_quotes_what_is_signed_unquoted(
    name: str, filename: str, digest: links.Digest
) -> None:
    url = links.url(KEY, "https://s.example/v1/AUTH_x", name, 1000, filename, digest)

    path = unquote(urlsplit(url).path)
    assert path == f"/v1/AUTH_x/{name}"
    assert words(url) == {
        "temp_url_sig": links.sign(KEY, path, 1000, digest),
        "temp_url_expires": "1000",
        "inline": "",
        "filename": filename,
    }
    assert set(url) <= set(string.ascii_letters + string.digits + "-_.~/:?&=%@+")


# Checking


@given(keys)
def test_a_link_is_valid_until_it_expires(name: str) -> None:
    path = f"/links/{name}"

    assert links.verify([KEY], "GET", path, made(name), 999.9) == 1000
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", path, made(name), 1000)


def test_any_of_several_keys_may_have_signed() -> None:
    links.verify([b"new", KEY], "GET", "/links/x", made(), 0)


def test_a_link_lets_the_size_be_asked_for() -> None:
    links.verify([KEY], "HEAD", "/links/x", made(), 0)


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
    ],
)
def test_an_altered_link_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", "/links/x", {**made(), **change}, 0)


@pytest.mark.parametrize(
    ("method", "path", "keys"),
    [
        ("GET", "/links/y", [KEY]),
        ("GET", "/x", [KEY]),
        ("PUT", "/links/x", [KEY]),
        ("DELETE", "/links/x", [KEY]),
        ("GET", "/links/x", [b"other"]),
        ("GET", "/links/x", []),
    ],
)
def test_a_link_is_for_reading_one_path_and_of_one_key(
    method: str, path: str, keys: list[bytes]
) -> None:
    with pytest.raises(UnauthorisedError):
        links.verify(keys, method, path, made(), 0)


def test_a_request_without_a_link_is_refused() -> None:
    with pytest.raises(UnauthorisedError):
        links.verify([KEY], "GET", "/links/x", {}, 0)


@pytest.mark.parametrize(
    "text", ["", "123456789", "x" * 15, " " + "x" * 16, "x" * 16 + "\n", "\t" * 16]
)
def test_a_key_that_is_short_or_no_header_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError, match="16 bytes") as caught:
        links.checked_key(text)
    assert not text or text not in str(caught.value)


def test_a_key_is_counted_in_bytes() -> None:
    assert links.checked_key("é" * 8) == ("é" * 8).encode()


# Requests by links


@given(derived_names, tags)
def test_a_link_leads_to_what_it_was_made_for(name: DerivedName, tag: Tag) -> None:
    key = names.stored_key(name, tag)
    url = links.url(KEY, links.BASE, key, 1000, links.filename(name))

    assert links.is_link(url)
    request = links.read(url)

    assert (request.name, request.tag, request.key) == (name, tag, key)
    links.verify([KEY], "GET", f"{links.BASE}/{request.key}", request.words, 0)


@pytest.mark.parametrize(
    "path",
    [
        "/links/",
        "/links/x",
        "/links/x/_/w_400.webp",
        "/links/x/_/v_0123456789abcdef/w_400.webp",
        "/links/x/_/0123456789abcde/w_400.webp",
        "/links/x/_/0123456789ABCDEF/w_400.webp",
        "/links/x/_/0123456789abcdef/",
        "/links/x/_/0123456789abcdef/w_0400.webp",
        "/links/x/_/0123456789abcdef/y/w_400.webp",
        "/links/x/_/0123456789abcdef/w_400.webp/",
        "/links//_/0123456789abcdef/w_400.webp",
        "/links/../_/0123456789abcdef/w_400.webp",
        "/links/a/./x/_/0123456789abcdef/w_400.webp",
        "/links/a%2Fx/_/0123456789abcdef/w_400.webp",
        "/links/a%00/_/0123456789abcdef/w_400.webp",
        "/links/a%0A/_/0123456789abcdef/w_400.webp",
        "/links/a%/_/0123456789abcdef/w_400.webp",
        "/links/%FF/_/0123456789abcdef/w_400.webp",
        "/links/e%CC%81/_/0123456789abcdef/w_400.webp",  # not in NFC
        "/links/x/_/0123456789abcdef/w_400.webp#y",
        "/links/x/_/0123456789abcdef/w_400.webp?temp_url_prefix=x",
        "/links/x/_/0123456789abcdef/w_400.webp?inline&inline",
        "/links/x/_/0123456789abcdef/w_400.webp?filename=%0",
    ],
)
def test_what_never_was_a_link_has_no_meaning(path: str) -> None:
    assert links.is_link(path)
    with pytest.raises(BadRequestError):
        links.read(path)


@pytest.mark.parametrize("path", ["/links", "/linksx/", "/images/links/x", "/Links/x"])
def test_other_paths_are_no_links(path: str) -> None:
    assert not links.is_link(path)


# Names of files


def test_a_file_is_called_as_the_last_segment_and_its_kind() -> None:
    assert links.filename(NAME) == "site-7.webp"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "attachment; filename=\"o.png\"; filename*=UTF-8''o.png"),
        ("inline", "inline"),
        ("inline&filename=", "inline"),
        ("filename=a%20b.jpg", 'attachment; filename="a b.jpg"'),
        ("inline&filename=%C3%BC.jpg", 'inline; filename="%C3%BC.jpg"'),
    ],
)
def test_a_disposition_is_said_as_swift_says_it(query: str, expected: str) -> None:
    given = dict(parse_qsl(query, keep_blank_values=True))

    assert links.disposition(given, "o.png").startswith(expected)


@given(texts.filter(bool))
def test_a_disposition_holds_any_name_and_nothing_else(name: str) -> None:
    said = Message()
    said["Content-Disposition"] = links.disposition(
        {"inline": "", "filename": name}, ""
    )

    assert said["Content-Disposition"].isprintable()
    assert said["Content-Disposition"].isascii()
    assert said.get_content_disposition() == "inline"
    assert said["Content-Disposition"].endswith(f"''{quote(name)}")
