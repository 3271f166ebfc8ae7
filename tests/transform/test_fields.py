from __future__ import annotations

import json
import math
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo import options
from image_repo.errors import ConfigError
from image_repo.transform import values
from image_repo.transform.fields import FACTS, FIELDS, GROUPS, MetadataOptions
from image_repo.transform.values import Part

ITEMS = st.one_of(st.text(), st.integers(), st.floats())
PARTS = st.lists(st.lists(ITEMS, max_size=4).map(tuple), min_size=1, max_size=3)


def test_every_field_has_one_name_and_a_source() -> None:
    names = [name for name, _ in FACTS] + [field.name for field in FIELDS]

    assert len(set(names)) == len(names)
    for field in FIELDS:
        assert field.exif or field.iptc or field.xmp
        assert field.group in {"", *GROUPS}
        assert field.name == field.name.lower()


@given(PARTS)
def test_whatever_the_values_are_json_can_hold_what_is_made_of_them(
    parts: list[Part],
) -> None:
    for field in FIELDS:
        if parts[0]:
            made = field.convert(parts)
            json.dumps(made, allow_nan=False, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([("2024:05:06 07:08:09",)], "2024-05-06T07:08:09"),
        ([("2024:05:06 07:08:09",), (), ()], "2024-05-06T07:08:09"),
        (
            [("2024:05:06 07:08:09",), ("12 ",), ("+09:30",)],
            "2024-05-06T07:08:09.12+09:30",
        ),
        ([("2024:05:06 07:08:09",), ("x",), ("home",)], "2024-05-06T07:08:09"),
        ([("20240506",), ("070809-0330",)], "2024-05-06T07:08:09-03:30"),
        ([("20240506",), ()], "2024-05-06"),
        ([("2024",)], "2024"),
        ([("2024-05",)], "2024-05"),
        ([("2024-05-06T07:08",)], "2024-05-06T07:08:00"),
        ([("2024-05-06T07:08:09.123Z",)], "2024-05-06T07:08:09.123+00:00"),
        ([("0000:00:00 00:00:00",)], None),
        ([("    :  :     :  :  ",)], None),
        ([("2023:02:29 00:00:00",)], None),
        ([("2024:01:01 24:00:00",)], None),
        ([("yesterday",)], None),
    ],
)
def test_moments_are_iso_dates(parts: list[Part], said: str | None) -> None:
    made = values.moment(parts)

    assert made == said
    if made is not None and len(made) > 7:
        datetime.fromisoformat(made)


@pytest.mark.parametrize(
    ("item", "made"),
    [
        (400, 400),
        (2.8, 2.8),
        (50.0, 50),
        ("1/200", 0.005),
        ("1/0", None),
        (" 28/10 ", 2.8),
        ("f/2.8", None),
        (math.nan, None),
        (math.inf, None),
        (1e300, None),
        ("9" * 400, None),
    ],
)
def test_numbers_are_finite(item: values.Item, made: float | None) -> None:
    assert values.number([(item,)]) == made


def test_a_number_that_says_unknown_is_left_out() -> None:
    assert values.positive([(0,)]) is None


@pytest.mark.parametrize(
    ("parts", "made"),
    [
        ([(34, 54, 0.0), ("S",)], -34.9),
        ([(117, 30, 0.0), ("E\0",)], None),
        ([("34,54.0S",)], -34.9),
        ([("117,30,36E",)], 117.51),
        ([(34, 54, math.nan), ("S",)], None),
        ([(91, 0, 0), ("N",)], None),
        ([(34, 54, 0), ()], None),
        ([(34, 54, 0), ("X",)], None),
    ],
)
def test_places_are_degrees(parts: list[Part], made: float | None) -> None:
    assert values.degrees(parts) == made


def test_below_the_sea_is_below_zero() -> None:
    assert values.altitude([(12.5,), (1,)]) == -12.5
    assert values.altitude([(12.5,), ()]) == 12.5


@pytest.mark.parametrize(
    ("parts", "made"),
    [
        ([(300.0,), (2,)], 300),
        ([(100.0,), (3,)], 254),
        ([(300.0,), ()], 300),
        ([(300.0,), (1,)], None),
    ],
)
def test_resolutions_are_pixels_per_inch(parts: list[Part], made: float | None) -> None:
    assert values.per_inch(parts) == made


def test_texts_have_no_controls_and_an_end() -> None:
    assert values.text([(" a\0b\nc\x1b[0m ",)]) == "ab c[0m"
    assert len(values.text([("x" * 10_000,)]) or "") == values.MAX_TEXT
    assert values.text([("\ud800",)]) is None


def test_keywords_are_told_once_and_not_without_end() -> None:
    assert values.words([("a", "b", "a", " ")]) == ["a", "b"]
    many = values.words([tuple(str(n) for n in range(100_000))])
    long = values.words([("é" * 100_000,) * 3 + tuple("ü" * n for n in range(900))])
    assert many is not None
    assert len(many) == values.MAX_WORDS
    assert long is not None
    assert sum(len(word.encode()) for word in long) < 16 * 2**10


@pytest.mark.parametrize(
    ("said", "groups"),
    [
        ("", ()),
        ("location", ("location",)),
        ("owner, location", ("location", "owner")),
        ("serial owner location serial", ("location", "serial", "owner")),
    ],
)
def test_groups_are_revealed_by_their_words(said: str, groups: tuple[str, ...]) -> None:
    assert options.load(MetadataOptions, {"reveal": said}).groups == groups


@pytest.mark.parametrize("said", ["all", "locationserial", "gps", "location;owner"])
def test_no_other_word_reveals_anything(said: str) -> None:
    with pytest.raises(ConfigError, match="reveal"):
        options.load(MetadataOptions, {"reveal": said})
