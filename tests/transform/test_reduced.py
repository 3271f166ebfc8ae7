from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import asked

from image_repo import modifiers
from image_repo.formats import FORMATS, by_kind
from image_repo.geometry import SCALES, Box, Size
from image_repo.modifiers import Fit, ImageOptions, RenderOptions
from image_repo.transform.headers import Header
from image_repo.transform.reduced import (
    CHANNELS,
    WORTH,
    Reduced,
    is_worth,
    reduced_size,
    scale_for,
)

RENDER = RenderOptions()
JPEG = by_kind("jpg")
HEADER = Header(JPEG, Size(4001, 3000), 1, 6, 1)
SAMPLE = Reduced(HEADER, 8, Size(501, 375), "RGB", 10, 20)

headers = st.builds(
    Header,
    st.sampled_from(FORMATS),
    st.builds(Size, st.integers(1, 20_000), st.integers(1, 20_000)),
    st.just(1),
    st.integers(1, 8),
    st.integers(1, 100),
)


@st.composite
def pictures(draw: st.DrawFn) -> Reduced:
    header, scale = draw(headers), draw(st.sampled_from(SCALES))
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
        ("width", "503"),
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

    for known in SCALES:
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


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif", "avif"])
def test_many_sizes_of_a_large_original_need_few_pictures(kind: str) -> None:
    original = Header(by_kind(kind), Size(6000, 4000), 1, 1, 1)
    fits = [Fit(Box(width, None)) for width in (100, 200, 400, 600, 800, 1000, 1200)]

    scales = {scale_for(original, [fit], RENDER) for fit in fits}

    assert len(scales) <= 3
    assert all(is_worth(original, scale) for scale in scales)


@given(headers, st.sampled_from(SCALES))
def test_a_picture_is_worth_keeping_only_where_the_server_looks(
    header: Header, scale: int
) -> None:
    assert scale in WORTH or not is_worth(header, scale)


def test_half_a_jpeg_whole_images_and_animations_are_not_worth_keeping() -> None:
    size = Size(6000, 4000)

    assert not is_worth(Header(JPEG, size, 1, 1, 1), 2)
    assert not is_worth(Header(by_kind("png"), size, 1, 1, 1), 1)
    assert not is_worth(Header(by_kind("webp"), size, 2, 1, 1), 4)
    assert not is_worth(Header(by_kind("gif"), size, 1, 1, 1), 4)
