from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import SERVED, asked, derived_names, image_names, kinds

from image_repo import listings, urls
from image_repo.errors import BadRequestError
from image_repo.formats import FORMATS
from image_repo.listings import ListRequest
from image_repo.modifiers import ImageOptions
from image_repo.names import DerivedName, Tag, image_name
from image_repo.patterns import checked
from image_repo.urls import (
    DerivedRequest,
    Directives,
    ExplainRequest,
    FolderRequest,
    ImageRequest,
    MethodError,
    ViewRequest,
)

TAG = Tag("0123456789abcdef")
METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "get", ""]


def read(target: str, method: str = "GET") -> urls.Request:
    return urls.read(target, method, ImageOptions())


def derived(target: str) -> DerivedRequest:
    found = read(target)
    assert isinstance(found, DerivedRequest)
    return found


def folder(target: str) -> FolderRequest:
    found = read(target)
    assert isinstance(found, FolderRequest)
    return found


# What the paths are


@pytest.mark.parametrize("path", ["/images", "/images/", "/images?", "/images/?"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_root_is_the_list(path: str, method: str) -> None:
    assert read(path, method) == ListRequest()


@pytest.mark.parametrize(
    ("target", "canonical"),
    [
        # Kinds and extensions
        ("x", "x/_/full.jpg"),
        ("x.jpg", "x/_/full.jpg"),
        ("x.JPEG", "x/_/full.jpg"),
        ("x.tiff", "x/_/full.tif"),
        ("a.png.jpg", "a.png/_/full.jpg"),
        ("plot.v2", "plot.v2/_/full.jpg"),
        ("plot.v2.webp", "plot.v2/_/full.webp"),
        (".png", ".png/_/full.jpg"),
        ("a.png/b", "a.png/b/_/full.jpg"),
        ("x?kind=JPEG", "x/_/full.jpg"),
        ("x?kind=webp", "x/_/full.webp"),
        ("a.png/_/full.jpg", "a.png/_/full.jpg"),
        # Sizes
        ("x?xsize=400&ysize=300&kind=webp", "x/_/w_400-h_300.webp"),
        ("x?w=400&h=300&kind=webp", "x/_/w_400-h_300.webp"),
        ("x.webp?h=300&w=0400", "x/_/w_400-h_300.webp"),
        ("x/_/h_300-w_400.WEBP", "x/_/w_400-h_300.webp"),
        ("x?%77=400", "x/_/w_400.jpg"),
        ("x?&w=400&", "x/_/w_400.jpg"),
        # Thumbnails
        ("x?thumbnail=True", "x/_/w_50-h_50-thumb_els.jpg"),
        ("x?thumbnail=yes&xsize=80", "x/_/w_80-thumb_els.jpg"),
        ("x?thumb=1&h=80&w=70", "x/_/w_70-h_80-thumb_els.jpg"),
        ("x?thumb=es", "x/_/w_50-h_50-thumb_es.jpg"),
        ("x?thumb=plain", "x/_/w_50-h_50-thumb_plain.jpg"),
        ("x?thumbnail=False&w=9", "x/_/w_9.jpg"),
        # Names
        ("a%20b", "a b/_/full.jpg"),
        ("a b", "a b/_/full.jpg"),
        ("a+b", "a+b/_/full.jpg"),
        ("x@2x.png", "x@2x/_/full.png"),
        ("e%CC%81", "é/_/full.jpg"),
        ("%C3%A9", "é/_/full.jpg"),
        ("é", "é/_/full.jpg"),
        ("\udcc3\udca9", "é/_/full.jpg"),
        ("%2541", "%41/_/full.jpg"),
        ("a%3Fb%23c", "a?b#c/_/full.jpg"),
    ],
)
def test_spellings_collapse_to_one_canonical_name(target: str, canonical: str) -> None:
    assert str(derived(f"/images/{target}").name) == canonical


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.kind)
def test_every_kind_may_be_asked_for_in_three_ways(row: object) -> None:
    kind = getattr(row, "kind", "")

    ways = (f"x.{kind}", f"x?kind={kind}", f"x/_/full.{kind}")

    assert {str(derived(f"/images/{way}").name) for way in ways} == {f"x/_/full.{kind}"}


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.kind)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_an_extension_is_not_part_of_the_name_of_an_original(
    row: object, method: str
) -> None:
    for extension in getattr(row, "extensions", ()):
        assert read(f"/images/a/x.{extension}", method) == ImageRequest(
            image_name("a/x")
        )


def test_a_view_is_one_of_a_closed_list() -> None:
    assert read("/images/a/b/_/info.json") == ViewRequest(
        image_name("a/b"), "info.json"
    )
    assert read("/images/a.png/_/purge", "POST") == ViewRequest(
        image_name("a.png"), "purge"
    )


def test_a_path_with_a_slash_behind_it_is_everything_below() -> None:
    found = folder("/images/a/b/?w=40&kind=png&regex=x%2B")

    assert found.path == "a/b"
    assert [m.tokens() for m in found.modifiers] == [(("w", "40"),)]
    assert found.format.kind == "png"
    assert found.directives == Directives(regex="x+")


def test_a_regex_chooses_below_a_path_without_its_slash_too() -> None:
    assert folder("/images/a.png?regex=x&w=4") == folder("/images/a.png/?regex=x&w=4")


def test_a_form_may_be_posted_into_a_path() -> None:
    found = read("/images/a/", "POST")

    assert isinstance(found, FolderRequest)
    assert found.path == "a"


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("photo.jpg", "a/photo"),
        ("photo.HEIC", "a/photo"),
        ("a.png.jpg", "a/a.png"),
        ("plot.v2", "a/plot.v2"),
        ("C:\\photos\\p.jpg", "a/p"),
        ("../../p.jpg", "a/p"),
        (".jpg", "a/.jpg"),
    ],
)
def test_a_form_file_brings_its_name(filename: str, name: str) -> None:
    assert urls.upload_name(image_name("a"), filename) == name


@pytest.mark.parametrize("filename", ["", "a/", "..", "_.png", "..jpg", "a\nb.jpg"])
def test_a_form_file_without_a_name_is_refused(filename: str) -> None:
    with pytest.raises(BadRequestError):
        urls.upload_name(image_name("a"), filename)


# Canonical and versioned paths


@given(derived_names)
def test_a_canonical_path_is_read_as_itself(name: DerivedName) -> None:
    assert derived(name.path) == DerivedRequest(
        name, canonical=True, tag=None, directives=Directives()
    )
    assert derived(name.path).path == name.path


@given(derived_names)
def test_a_versioned_path_is_read_as_itself(name: DerivedName) -> None:
    path = name.versioned_path(TAG)

    assert derived(path) == DerivedRequest(
        name, canonical=True, tag=TAG, directives=Directives()
    )
    assert derived(path).path == path


@given(derived_names)
def test_a_canonical_path_is_so_however_it_is_percent_encoded(
    name: DerivedName,
) -> None:
    encoded = "/".join(
        "".join(f"%{byte:02x}" for byte in segment.encode())
        for segment in f"images/{name}".split("/")
    )

    assert derived(f"/{encoded}").canonical
    assert derived(f"/{encoded}").path == name.path


@given(image_names, asked, kinds)
def test_the_query_form_means_the_path_it_collapses_to(
    image: str, words: dict[str, str], kind: str
) -> None:
    query = urlencode({**words, "kind": kind})

    # A name that ended in a known extension would have a kind of its own.
    found = derived(f"/images/{quote(image)}.v2?{query}")

    assert not found.canonical
    assert found.name == derived(found.path).name


@pytest.mark.parametrize(
    "target",
    ["x", "x.jpg", "x?w=4", "x/_/full.JPG", "x/_/h_3-w_4.jpg", "e%CC%81/_/full.jpg"],
)
def test_other_spellings_are_not_canonical(target: str) -> None:
    assert not derived(f"/images/{target}").canonical


def test_directives_may_follow_a_canonical_path() -> None:
    found = derived("/images/x/_/w_400.webp?url=True&meta=no")

    assert found.canonical
    assert found.directives == Directives(url=True)
    assert found.directives.given == ("url",)


@pytest.mark.parametrize(
    ("directives", "given"),
    [
        (Directives(), ()),
        (Directives(url=True), ("url",)),
        (Directives(meta=True, regex=""), ("meta", "regex")),
    ],
)
def test_directives_that_ask_for_something_are_given(
    directives: Directives, given: tuple[str, ...]
) -> None:
    assert directives.given == given


@pytest.mark.parametrize(
    ("query", "directives"),
    [
        ("url=True", Directives(url=True)),
        ("url=1&w=4", Directives(url=True)),
        ("meta=yes", Directives(meta=True)),
        ("meta=no&w=4&url=0", Directives()),
    ],
)
def test_directives_are_read_beside_modifiers(
    query: str, directives: Directives
) -> None:
    assert derived(f"/images/x?{query}").directives == directives


@pytest.mark.parametrize(
    "query",
    ["", "w=4", "xsize=4&kind=JPEG", "thumbnail=True", "thumb=es&h=9&kind=png&q=7"],
)
def test_what_is_explained_is_what_the_same_words_ask_for(query: str) -> None:
    name = derived(f"/images/x?{query}").name

    assert read(f"/images/x/_/explain.json?{query}") == ExplainRequest(name)


# Targets


@pytest.mark.parametrize(
    ("target", "form"),
    [
        ("/images/x?w=1", "/images/x?w=1"),
        ("http://host/images/x?w=1", "/images/x?w=1"),
        ("HTTPS://u@host:80/images", "/images"),
        ("http://host", "/"),
        ("http://host?x", "/?x"),
        ("/http://host/", "/http://host/"),
        ("*", "*"),
    ],
)
def test_scheme_and_host_are_taken_off_a_target(target: str, form: str) -> None:
    assert urls.origin_form(target) == form


def test_a_target_with_a_host_is_read() -> None:
    assert read("http://host/images/x") == read("/images/x")


# What is refused


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("", "must begin with /images"),
        ("/", "must begin with /images"),
        ("*", "must begin with /images"),
        ("images", "must begin with /images"),
        ("images/x", "must begin with /images"),
        ("//images/x", "must begin with /images"),
        ("/other/x", "must begin with /images"),
        ("/imagesx", "must begin with /images"),
        ("/images//x", "segment ''"),
        ("/images/x//", "segment ''"),
        ("/images/./x", "segment '.'"),
        ("/images/../x", "segment '..'"),
        ("/images/%2e%2e/x", "segment '..'"),
        ("/images/x/..", "segment '..'"),
        ("/images/a%2Fb", "%2F is not allowed"),
        ("/images/a%2fb/_/full.jpg", "%2F is not allowed"),
        ("/images/a%00b", "control"),
        ("/images/%ff", "valid UTF-8"),
        ("/images/%ed%a0%80", "valid UTF-8"),
        ("/images/\ud800", "valid UTF-8"),
        ("/images/%", "two hexadecimal digits"),
        ("/images/%4", "two hexadecimal digits"),
        ("/images/x?w=%zz", "two hexadecimal digits"),
        ("/images/x?%ff=1", "valid UTF-8"),
        ("/images/x#?xsize=5", "write '#' as %23"),
        ("/images/x?regex=#", "write '#' as %23"),
        ("/images/x?xsise=5", "unknown parameter 'xsise'"),
        ("/images/x?xsise=5", "did you mean 'xsize'"),
        ("/images/x?XSIZE=5", "unknown parameter 'XSIZE'"),
        ("/images/x?Kind=png", "did you mean 'kind'"),
        ("/images/x?=5", "unknown parameter ''"),
        ("/images/x?w", "parameter 'w' is ''"),
        (
            "/images/x?w=0",
            "'w' is '0': it must be a whole number of pixels, 1 to 65500",
        ),
        ("/images/x?w=+5", "parameter 'w' is ' 5'"),
        ("/images/x?w=-5", "parameter 'w' is '-5'"),
        ("/images/x?w=5.0", "parameter 'w' is '5.0'"),
        ("/images/x?w=1e3", "parameter 'w' is '1e3'"),
        ("/images/x?w=5&w=5", "'w' is given twice"),
        ("/images/x?w=5&xsize=5", "'w' is given twice"),
        ("/images/x?thumb=els&thumbnail=True", "'thumb' is given twice"),
        ("/images/x.png?kind=png", "'kind' is given twice"),
        ("/images/x?url=1&url=1", "'url' is given twice"),
        ("/images/x?kind=svg", "kind 'svg' is not served"),
        ("/images/x.heic", "kind 'heic' is not served"),
        ("/images/x?thumb=x", "'thumb' is 'x'"),
        ("/images/x?url=maybe", "parameter 'url' is 'maybe': it must be true"),
        ("/images/x?url=1&meta=1", "'url' and 'meta' can't be given together"),
        ("/images/x?meta=1&w=4", "parameter 'meta' takes no modifiers, not w"),
        ("/images/x.jpg?meta=1", "parameter 'meta' takes no modifiers, not kind"),
        ("/images/x/_/full.jpg?meta=1", "'meta' takes no modifiers, not those in"),
        ("/images/x/?meta=1&thumb=1", "'meta' takes no modifiers, not thumb"),
        ("/images?url=1", "unknown parameter 'url': it must be one of prefix, regex"),
        ("/images?w=4", "unknown parameter 'w': it must be one of prefix, regex"),
        (
            "/images?prefix=a//b",
            "'prefix' must be the beginning of a name: name 'a//bx'",
        ),
        ("/images?prefix=..%2F", "'prefix' must be the beginning of a name"),
        ("/images?prefix=a/_/b", "'prefix' must be the beginning of a name"),
        ("/images?prefix=a&prefix=a", "'prefix' is given twice"),
        ("/images?limit=0", "'limit' is '0': it must be a whole number, 1 to 10000"),
        ("/images?limit=10001", "it must be a whole number, 1 to 10000"),
        ("/images?limit=", "it must be a whole number, 1 to 10000"),
        (
            "/images?marker=a%0Ab",
            "'marker' is 'a\\nb': it must be a name, or what a Link",
        ),
        ("/images?marker=" + "n" * 1025, "of 1024 bytes at most"),
        ("/images?regex=", "'regex' is '': it must be 1 to 256 characters long"),
        ("/images?regex=" + "x" * 257, "it must be 1 to 256 characters long"),
        ("/images?regex=" + "x{9999999999999}", "may add up to 200"),
        ("/images/x?regex=a{201}", "parameter 'regex' is 'a{201}'"),
        ("/images/x/_/w_4.jpg?h=3", "parameter 'h' can't follow a path that has"),
        ("/images/x/_/w_4.jpg?xsize=4", "parameter 'xsize' can't follow a path"),
        ("/images/x/_/full.jpg?kind=png", "parameter 'kind' can't follow a path"),
        ("/images/x/_/full.jpg?regex=x", "'regex': it must be one of url, meta"),
        ("/images/x/_/info.json?w=4", "unknown parameter 'w': none is taken here"),
        ("/images/x/_/explain.json?w=0", "'w' is '0': it must be a whole number of"),
        ("/images/x/_/explain.json?w=4&xsize=4", "'w' is given twice"),
        ("/images/x/_/explain.json?url=1", "unknown parameter 'url'"),
        ("/images/x/_/explain.json?regex=x", "unknown parameter 'regex'"),
        ("/images/x/_/w_4", "has no kind"),
        ("/images/x/_/w_70000.jpg", "'w' is '70000'"),
        ("/images/x/_/explain", "has no kind"),
        ("/images/x/_/", "after /_/ comes a derived image such as w_400.jpg, or one"),
        ("/images/x/_", "after /_/ comes"),
        ("/images/x/_/a/full.jpg", "after /_/ comes"),
        ("/images/x/_/v_0123456789abcdef/", "has no kind"),
        ("/images/x/_/v_0123456789abcdef/info.json", "unknown parameter 'info'"),
        ("/images/x/_/v_0123456789ABCDEF/full.jpg", "it must be 16 digits of 0-9a-f"),
        ("/images/x/_/v_0123456789abcdef/full.jpg/", "after /_/ comes"),
        ("/images/_/full.jpg", "segment ''"),
        ("/images/x/_/_/full.jpg", "after /_/ comes"),
        ("/images/x/_/y/_/full.jpg", "after /_/ comes"),
        ("/images/" + "x" * 701, "701 bytes long"),
    ],
)
def test_a_target_without_meaning_is_refused_with_the_reason(
    target: str, message: str
) -> None:
    with pytest.raises(BadRequestError, match=re.escape(message)) as caught:
        read(target)

    assert not isinstance(caught.value, MethodError)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_path_with_a_slash_behind_it_is_no_image(method: str) -> None:
    with pytest.raises(BadRequestError, match="ends in '/'") as caught:
        read("/images/x/", method)

    assert not isinstance(caught.value, MethodError)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("query", ["kind=png", "w=4", "url=True", "x=1"])
def test_a_write_takes_no_parameters(method: str, query: str) -> None:
    with pytest.raises(BadRequestError, match="none is taken here"):
        read(f"/images/x?{query}", method)


def test_a_post_into_a_path_takes_no_parameters() -> None:
    with pytest.raises(BadRequestError, match="none is taken here"):
        read("/images/x/?w=4", "POST")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/images", ("GET", "HEAD")),
        ("/images/", ("GET", "HEAD")),
        ("/images/x", ("GET", "HEAD", "POST", "PUT", "DELETE")),
        ("/images/x/_/full.jpg", ("GET", "HEAD")),
        (f"/images/x/_/v_{TAG}/full.jpg", ("GET", "HEAD")),
        ("/images/x/_/info.json", ("GET", "HEAD")),
        ("/images/x/_/explain.json", ("GET", "HEAD")),
        ("/images/x/_/explain.json?w=4", ("GET", "HEAD")),
        ("/images/x/_/purge", ("POST",)),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_that_a_path_has_not_is_refused_with_those_it_has(
    path: str, allowed: tuple[str, ...], method: str
) -> None:
    if method in allowed:
        read(path, method)
        return

    with pytest.raises(MethodError) as caught:
        read(path, method)

    assert caught.value.allowed == allowed
    assert ", ".join(allowed) in str(caught.value)


def test_a_folder_has_methods_of_its_own() -> None:
    with pytest.raises(MethodError) as caught:
        read("/images/x/", "PATCH")

    assert caught.value.allowed == ("GET", "HEAD", "POST")


# Laws


@given(
    st.text() | st.text("ab/._%-2F?&=#wh thumb\u0301é\udcc3", max_size=30),
    st.sampled_from(METHODS),
)
def test_any_target_is_read_or_refused(rest: str, method: str) -> None:
    for target in (rest, f"/images/{rest}", f"/images/x?{rest}", f"/images/x/_/{rest}"):
        try:
            found = read(target, method)
        except BadRequestError as error:
            str(error).encode("utf-8", "backslashreplace")
            continue

        if isinstance(found, DerivedRequest):
            assert derived(found.path).name == found.name
            assert derived(found.path).canonical


@given(derived_names)
def test_a_path_is_canonical_only_if_it_decodes_to_the_canonical_one(
    name: DerivedName,
) -> None:
    for target in (name.path, f"/images/{quote(name.image)}/_/{name.text.upper()}"):
        try:
            found = derived(target)
        except BadRequestError:
            continue

        assert found.canonical == (unquote(target) == unquote(found.path))


@given(st.text(max_size=60))
def test_any_regex_is_read_or_refused(text: str) -> None:
    try:
        found = read(f"/images?{urlencode({'regex': text}, errors='surrogatepass')}")
    except BadRequestError:
        return

    assert isinstance(found, ListRequest)
    assert found.regex is not None
    assert checked(found.regex) == found.regex


@given(
    st.builds(
        ListRequest,
        regex=st.none() | st.text("a(.*)%+&=#\u00e9 ", min_size=1, max_size=9),
        prefix=st.just("") | image_names,
        limit=st.none() | st.integers(1, listings.MAX_LISTED),
        marker=st.just("") | image_names | st.just("cafe\u0301.jpg"),
    )
)
def test_the_path_of_a_list_is_read_as_the_same_list(request_: ListRequest) -> None:
    assert read(request_.path) == request_
    assert re.fullmatch(r"/images(\?[A-Za-z0-9._~%&=-]+)?", request_.path)


@pytest.mark.parametrize(
    ("given", "prefix"),
    [("", ""), ("a/", "a/"), ("a/.", "a/."), ("_", "_"), ("e%CC%81", "\u00e9"),
     ("x.jpg", "x.jpg"), ("a+b", "a b")],
)  # fmt: skip
def test_any_beginning_of_a_name_is_a_prefix(given: str, prefix: str) -> None:
    assert read(f"/images?prefix={given}") == ListRequest(prefix=prefix)


def test_a_marker_is_taken_as_it_is_for_it_is_a_key() -> None:
    assert read("/images?marker=e%CC%81.JPG") == ListRequest(marker="e\u0301.JPG")


def test_whether_a_regex_can_be_compiled_is_looked_at_later() -> None:
    assert read("/images?regex=[[a](") == ListRequest(regex="[[a](")


def test_a_regex_is_compared_in_the_form_that_names_have() -> None:
    assert read("/images?regex=e%CC%81") == ListRequest(regex="\u00e9")
