from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo.errors import BadRequestError
from image_repo.formats import (
    FORMATS,
    SNIFF_BYTES,
    Format,
    by_extension,
    by_kind,
    sniff,
)

HEADS = {
    "jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "png": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "webp": b"RIFF\x10\x00\x00\x00WEBPVP8L",
    "gif": b"GIF89a\x01\x00\x01\x00",
    "tif": b"MM\x00\x2a\x00\x00\x00\x08",
    "bmp": b"BM\x46\x00\x00\x00\x00\x00\x00\x00\x36\x00\x00\x00\x28\x00\x00\x00",
    "avif": b"\x00\x00\x00\x20ftypavif\x00\x00\x00\x00avifmif1",
    "heic": b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic",
    "psd": b"8BPS\x00\x01\x00\x00",
}


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.kind)
def test_every_format_that_is_read_is_known_by_its_first_bytes(row: Format) -> None:
    assert sniff(HEADS[row.kind]) is row
    assert sniff(HEADS[row.kind] + bytes(1000)) is row


@given(st.binary(max_size=2 * SNIFF_BYTES))
def test_any_bytes_are_of_one_format_at_most(data: bytes) -> None:
    found = sniff(data)

    assert found is None or found in FORMATS
    assert sniff(data[:SNIFF_BYTES]) is found


@pytest.mark.parametrize(
    "data", [b"", b"%PDF-1.7", b"<svg/>", b"RIFF\0\0\0\0WAVEfmt ", b"8BPS\0\2", b"BM"]
)
def test_what_is_no_image_is_of_no_format(data: bytes) -> None:
    assert sniff(data) is None


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.kind)
def test_the_rows_of_the_table_are_sound(row: Format) -> None:
    assert re.fullmatch("[a-z0-9]+", row.kind)
    assert row.media_type.startswith("image/")
    assert row.quality is None or 1 <= row.quality <= 100
    assert row.max_side >= 1


def test_no_extension_means_two_formats() -> None:
    words = [word for row in FORMATS for word in row.extensions]

    assert len(words) == len(set(words))


@pytest.mark.parametrize(
    ("extension", "kind"),
    [
        ("jpg", "jpg"),
        ("JPG", "jpg"),
        ("jpeg", "jpg"),
        ("Jpeg", "jpg"),
        ("tiff", "tif"),
        ("heic", "heic"),
        ("HEIF", "heic"),
        ("psd", "psd"),
    ],
)
def test_an_extension_is_known_in_any_case(extension: str, kind: str) -> None:
    row = by_extension(extension)

    assert row is not None
    assert row.kind == kind


@pytest.mark.parametrize(
    "extension", ["", "v2", "jpg ", ".jpg", "svg", "t\u0131f", "web\u1d18"]
)
def test_any_other_extension_is_not(extension: str) -> None:
    assert by_extension(extension) is None


@pytest.mark.parametrize("row", [row for row in FORMATS if row.served])
def test_every_kind_that_is_served_may_be_asked_for_by_all_its_words(
    row: Format,
) -> None:
    for word in row.extensions:
        assert by_kind(word) is row
        assert by_kind(word.upper()) is row


@pytest.mark.parametrize("text", ["heic", "psd", "svg", "", "auto", "j" * 10_000])
def test_a_kind_that_is_not_served_is_refused_and_those_that_are_named(
    text: str,
) -> None:
    with pytest.raises(BadRequestError, match="one of jpg, png, webp") as caught:
        by_kind(text)

    assert len(str(caught.value)) < 200


def test_the_nearest_kind_is_named() -> None:
    with pytest.raises(BadRequestError, match="did you mean 'webp'"):
        by_kind("wepb")
