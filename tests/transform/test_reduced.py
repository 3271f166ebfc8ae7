from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import asked

from image_repo import modifiers
from image_repo.formats import by_kind
from image_repo.geometry import JPEG_SCALES, Size
from image_repo.modifiers import Fit, ImageOptions, RenderOptions
from image_repo.transform.headers import Header
from image_repo.transform.reduced import (
    CHANNELS,
    WORTH,
    Reduced,
    reduced_size,
    scale_for,
)

RENDER = RenderOptions()
JPEG = by_kind("jpg")
HEADER = Header(JPEG, Size(4001, 3000), 1, 6, 1)
SAMPLE = Reduced(HEADER, 8, Size(501, 375), "RGB", 10, 20)

headers = st.builds(
    Header,
    st.just(JPEG),
    st.builds(Size, st.integers(1, 20_000), st.integers(1, 20_000)),
    st.just(1),
    st.integers(1, 8),
    st.integers(1, 100),
)


@st.composite
def pictures(draw: st.DrawFn) -> Reduced:
    header, scale = draw(headers), draw(st.sampled_from(JPEG_SCALES))
    channels = draw(st.sampled_from(sorted(CHANNELS)))
    profile, notes = draw(st.integers(0, 2**22)), draw(st.integers(0, 2**20))
    size = reduced_size(header.size, scale)
    return Reduced(header, scale, size, channels, profile, notes)


@given(pictures())
def test_what_is_said_of_a_picture_is_read_back(reduced: Reduced) -> None:
    said = reduced.as_text()

    assert Reduced.read(said) == reduced
    assert all(re.fullmatch("[a-z0-9-]+", word) for word in said)


@given(
    st.dictionaries(st.sampled_from([*SAMPLE.as_text(), "other"]), st.text())
    | st.dictionaries(st.text(), st.integers() | st.none())
)
def test_whatever_is_said_is_understood_or_not_but_never_an_error(
    said: dict[str, object],
) -> None:
    assert Reduced.read(said) is None
    found = Reduced.read(SAMPLE.as_text() | said)
    assert found is None or found.bytes > 0


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("version", "0"),
        ("kind", "xyz"),
        ("scale", "3"),
        ("width", "502"),
        ("full-width", "0"),
        ("channels", "CMYK"),
        ("orientation", "9"),
        ("notes", "-1"),
        ("profile", "-1"),
        ("scans", "many"),
    ],
)
def test_what_can_not_be_or_comes_from_another_version_is_not_understood(
    word: str, text: str
) -> None:
    assert Reduced.read(SAMPLE.as_text() | {word: text}) is None


@pytest.mark.parametrize("word", SAMPLE.as_text())
def test_what_says_too_little_is_not_understood(word: str) -> None:
    said = SAMPLE.as_text()
    del said[word]

    assert Reduced.read(said) is None


def test_a_file_holds_pixels_and_what_follows_them() -> None:
    assert SAMPLE.pixels == 501 * 375 * 3
    assert SAMPLE.bytes == SAMPLE.pixels + 10 + 20


@given(headers, asked)
def test_any_picture_of_an_original_tells_the_scale_as_the_original_does(
    header: Header, words: dict[str, str]
) -> None:
    wanted, _ = modifiers.read(words, ImageOptions())
    scale = scale_for(header, wanted, RENDER)

    for known in JPEG_SCALES:
        size = reduced_size(header.size, known)
        reduced = Reduced(header, known, size, "RGB", 0, 0)
        assert scale_for(reduced, wanted, RENDER) == scale


@given(headers, asked)
def test_a_picture_has_pixels_enough_for_what_is_made_from_it(
    header: Header, words: dict[str, str]
) -> None:
    wanted, _ = modifiers.read(words, ImageOptions())
    target = modifiers.result(wanted, header.upright, RENDER)

    found = reduced_size(header.upright, scale_for(header, wanted, RENDER))

    assert found.width >= target.width
    assert found.height >= target.height


def test_many_sizes_of_a_large_original_need_few_pictures() -> None:
    original = Header(JPEG, Size(6000, 4000), 1, 1, 1)
    sizes = [
        Fit(modifiers.Box(width, None)) for width in (200, 400, 600, 800, 1000, 1200)
    ]

    assert {scale_for(original, [size], RENDER) for size in sizes} <= {*WORTH}
