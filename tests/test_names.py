from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote, unquote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import asked, defaults, derived_names, image_names, kinds

from image_repo import modifiers, names
from image_repo.errors import BadRequestError
from image_repo.formats import FORMATS, by_kind
from image_repo.geometry import Box
from image_repo.modifiers import PIPELINE, Fit, ImageOptions, Thumbnail
from image_repo.names import DerivedName, ImageName, Recipe, Revision, Tag, image_name

TAG = Tag("0123456789abcdef")


# Names of images


@pytest.mark.parametrize(
    "text",
    [
        *("a", "plots/site-7", "a b", "x@2x", "a+b", "plot.v2", "a.png", "_a", "a_"),
        *("__", "...", ".a", "%41", "a\\b", "é", "日本", "x" * 700, "é" * 350, "'<&>"),
    ],
)
def test_names_are_free(text: str) -> None:
    assert image_name(text) == text


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("", "segment ''"),
        ("/a", "segment ''"),
        ("a/", "segment ''"),
        ("a//b", "segment ''"),
        (".", "segment '.'"),
        ("a/./b", "segment '.'"),
        ("../a", "segment '..'"),
        ("_", "segment '_'"),
        ("a/_/b", "segment '_'"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7fb", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("a\u202eb", "bidi"),
        ("a\u2066b", "bidi"),
        ("a\u200fb", "bidi"),
        ("a\ud800", "UTF-8"),
        ("x" * 701, "701 bytes long: at most 700"),
        ("é" * 351, "702 bytes long"),
    ],
)
def test_a_name_that_breaks_a_rule_is_refused_with_the_rule(
    text: str, rule: str
) -> None:
    with pytest.raises(BadRequestError, match=re.escape(rule)):
        image_name(text)


@given(st.text(st.characters()))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        name = image_name(text)
    except BadRequestError:
        return

    assert unicodedata.is_normalized("NFC", name)
    assert image_name(name) == name
    assert len(name.encode()) <= 700


def test_two_spellings_of_one_text_are_one_name() -> None:
    assert image_name("e\u0301") == image_name("\u00e9")


# Laws of canonical names


@given(derived_names)
def test_reading_a_canonical_name_back_gives_the_same_value(name: DerivedName) -> None:
    assert DerivedName.parse(str(name)) == name
    assert str(DerivedName.parse(str(name))) == str(name)
    assert names.read_job(name.text) == (name.modifiers, name.format)


@given(derived_names, derived_names)
def test_equal_text_means_equal_value(one: DerivedName, other: DerivedName) -> None:
    assert (str(one) == str(other)) == (one == other)


@given(asked, kinds)
def test_order_and_leading_zeros_do_not_matter(
    words: dict[str, str], kind: str
) -> None:
    expected = names.job_text(*names.read_text(spelt(words, kind), ImageOptions()))
    turned = dict(reversed(words.items()))
    zeros = {
        w: f"00{t}" if t.isdigit() and w != "thumb" else t for w, t in turned.items()
    }

    for other in (turned, zeros):
        found = names.read_text(spelt(other, kind.upper()), ImageOptions())
        assert names.job_text(*found) == expected


def spelt(words: dict[str, str], kind: str) -> str:
    return f"{'-'.join(f'{w}_{t}' for w, t in words.items()) or 'full'}.{kind}"


@given(asked, kinds, defaults, defaults)
def test_a_name_read_back_depends_on_no_configuration(
    words: dict[str, str], kind: str, one: ImageOptions, other: ImageOptions
) -> None:
    found = modifiers.read({**words, "kind": kind}, one)
    text = DerivedName(image_name("x"), *found).text

    assert names.read_text(text, one) == names.read_text(text, other)


@given(derived_names)
def test_modifiers_need_no_quoting_and_no_shell_reads_them(name: DerivedName) -> None:
    assert quote(name.text) == name.text
    assert re.fullmatch(r"[a-z0-9._-]+\.[a-z]+", name.text)
    assert len(name.text.rpartition(".")[0]) <= names.MAX_MODIFIERS


@given(
    st.text()
    | st.text("wh_-0123456789.jpgfulthmbe")
    | st.tuples(
        derived_names.map(lambda n: n.text), st.integers(0), st.text(max_size=2)
    ).map(lambda t: t[0][: t[1] % len(t[0])] + t[2] + t[0][t[1] % len(t[0]) :])
)
def test_a_worker_reads_the_canonical_spelling_of_a_job_and_no_other(text: str) -> None:
    try:
        found, row = names.read_job(text)
    except BadRequestError:
        return

    assert names.job_text(found, row) == text


@given(st.text())
def test_any_text_is_a_canonical_name_or_refused(text: str) -> None:
    try:
        name = DerivedName.parse(f"a/_/{text}")
    except BadRequestError:
        return

    assert str(name) == f"a/_/{text}"


@pytest.mark.parametrize(
    "text",
    [
        "w_400.jpg",
        "a/w_400.jpg",
        "e\u0301/_/full.jpg",
        "a/_/full.JPG",
        "a/_/full.jpeg",
        "a/_/w_040.jpg",
        "a/_/xsize_40.jpg",
        "a/_/h_3-w_4.jpg",
        "a/_/thumb_els.jpg",
        "a/_/w_5-thumb_true.jpg",
        "a/_/thumb_no.jpg",
        "a/_/w_5-thumb_sle.jpg",
        "a/_/b/_/full.jpg",
        "a/_/full.heic",
    ],
)
def test_anything_but_the_canonical_spelling_is_refused(text: str) -> None:
    with pytest.raises(BadRequestError):
        DerivedName.parse(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("full.JPG", "full.jpg"),
        ("full.jpeg", "full.jpg"),
        ("full.tiff", "full.tif"),
        ("h_300-w_0400.webp", "w_400-h_300.webp"),
        ("xsize_400.webp", "w_400.webp"),
        ("thumb_True.png", "w_50-h_50-thumb_els.png"),
        ("thumbnail_plain-w_40.png", "w_40-thumb_plain.png"),
        ("thumb_no.png", "full.png"),
    ],
)
def test_other_spellings_have_one_canonical_text(text: str, canonical: str) -> None:
    assert names.job_text(*names.read_text(text, ImageOptions())) == canonical


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("w_400", "has no kind"),
        ("", "has no kind"),
        (".jpg", "unknown parameter ''"),
        ("full.svg", "kind 'svg' is not served"),
        ("full-w_4.jpg", "unknown parameter 'full'"),
        ("w_4-w_4.jpg", "'w' is given twice"),
        ("w_4-xsize_4.jpg", "'w' is given twice"),
        ("w_4--h_4.jpg", "unknown parameter ''"),
        ("w.jpg", "'w' is ''"),
        ("w_m4.jpg", "'w' is 'm4'"),
        ("kind_png.jpg", "unknown parameter 'kind'"),
        ("url_true.jpg", "unknown parameter 'url'"),
        ("w_" + "0" * 250 + "1.jpg", "longer than 250 bytes"),
    ],
)
def test_modifiers_without_meaning_are_refused(text: str, rule: str) -> None:
    with pytest.raises(BadRequestError, match=re.escape(rule)):
        names.read_text(text, ImageOptions())


def test_the_value_has_its_modifiers_in_order_and_only_those_the_format_can_use() -> (
    None
):
    class Never(Thumbnail):
        def suits(self, into: object) -> bool:  # noqa: ARG002
            return False

    never = Never(Box(5, 5))
    fit = Fit(Box(4, None))

    assert DerivedName(image_name("x"), (never, fit), by_kind("jpg")).modifiers == (
        fit,
    )


@given(asked, kinds)
def test_the_order_of_modifiers_given_does_not_matter(
    words: dict[str, str], kind: str
) -> None:
    found, row = modifiers.read({**words, "kind": kind}, ImageOptions())
    name = image_name("x")

    assert DerivedName(name, found[::-1], row) == DerivedName(name, found, row)
    assert [PIPELINE.index(type(m)) for m in found] == sorted(
        PIPELINE.index(type(m)) for m in found
    )


# Keys


def test_a_derived_image_has_its_paths_key_and_entity_tag() -> None:
    name = DerivedName.parse("site 7/é@2x+#/_/w_400-h_300.webp")

    assert name.path == "/images/site%207/%C3%A9@2x+%23/_/w_400-h_300.webp"
    assert name.versioned_path(TAG) == (
        "/images/site%207/%C3%A9@2x+%23/_/v_0123456789abcdef/w_400-h_300.webp"
    )
    assert names.derived_prefix(name.image) == "site 7/é@2x+#/_/"
    assert names.stored_key(name, TAG) == (
        "site 7/é@2x+#/_/0123456789abcdef/w_400-h_300.webp"
    )
    assert re.fullmatch('"[0-9a-f]{16}"', names.etag(TAG, name))


@given(derived_names)
def test_a_path_is_the_quoted_canonical_name(name: DerivedName) -> None:
    assert name.path.isascii()
    assert not re.search(r"[\s\"'<>\\^`{}|?#&;()$!*,]", name.path)
    assert unquote(name.path) == f"/images/{name}"


@given(derived_names)
def test_a_stored_key_fits_the_store_and_lies_under_its_image(
    name: DerivedName,
) -> None:
    key = names.stored_key(name, TAG)

    assert len(key.encode()) <= 1024
    assert key.startswith(names.derived_prefix(name.image))


def test_the_longest_name_and_modifiers_fit_the_store() -> None:
    assert 700 + len("/_/") + 16 + len("/") + 250 + len(".webp") <= 1024


@given(image_names, derived_names)
def test_a_prefix_is_of_one_image_only(
    image: names.ImageName, name: DerivedName
) -> None:
    assume(image != name.image)

    assert not names.stored_key(name, TAG).startswith(names.derived_prefix(image))


@given(derived_names, derived_names, st.sampled_from(["1" * 16, "2" * 16]))
def test_entity_tags_differ_where_tag_or_name_do(
    one: DerivedName, other: DerivedName, tag: str
) -> None:
    same = one == other and tag == "1" * 16

    assert (names.etag(Tag("1" * 16), one) == names.etag(Tag(tag), other)) == same


@given(image_names, image_names)
def test_a_cache_tag_is_of_one_image_and_has_nothing_that_separates_tags(
    one: ImageName, other: ImageName
) -> None:
    found = names.cache_tag(one)

    assert (found == names.cache_tag(other)) == (one == other)
    assert re.fullmatch("image-[0-9a-f]{16}", found)


@given(st.lists(st.text()), st.lists(st.text()))
def test_recipes_differ_where_parts_do(one: list[str], other: list[str]) -> None:
    assert (names.recipe(*one) == names.recipe(*other)) == (one == other)
    assert names.read_tag(names.recipe(*one)) is not None


def test_a_tag_is_of_a_revision_and_a_recipe() -> None:
    tag = names.tag(Revision("r"), Recipe("s"))

    assert re.fullmatch("[0-9a-f]{16}", tag)
    assert tag != names.tag(Revision("s"), Recipe("r"))
    assert tag == names.tag(Revision("r"), Recipe("s"))


@pytest.mark.parametrize(
    "text", ["", "0" * 15, "0" * 17, "G" * 16, "A" * 16, "0" * 15 + "\n"]
)
def test_only_sixteen_digits_are_read_as_a_tag(text: str) -> None:
    assert names.read_tag(text) is None


def test_every_served_kind_makes_a_name() -> None:
    for row in FORMATS:
        if row.served:
            assert DerivedName(image_name("x"), (), row).text == f"full.{row.kind}"


# Metadata


@given(image_names, derived_names)
def test_metadata_are_kept_beside_derived_images_and_never_taken_for_one(
    image: names.ImageName, derived: DerivedName
) -> None:
    name = names.MetadataName(image, ("location", "owner"))
    key = names.stored_key(name, TAG)

    assert key == f"{image}/_/{TAG}/metadata-1-location-owner.json"
    assert len(key.encode()) <= 1024
    assert names.is_metadata(name.text)
    assert not names.is_metadata(derived.text)
    assert name.text != names.MetadataName(image).text
    with pytest.raises(BadRequestError):
        names.read_stored_key(key)
