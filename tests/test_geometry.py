from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import boxes, sizes

from image_repo.geometry import (
    SCALES,
    SMALL_TARGET,
    Box,
    Size,
    jpeg_scale,
    plain_scale,
)


@pytest.mark.parametrize(
    ("size", "box", "fitted"),
    [
        ((300, 200), (100, None), (100, 67)),
        ((300, 200), (100, 100), (100, 67)),
        ((200, 300), (100, 100), (67, 100)),
        ((300, 200), (None, 100), (150, 100)),
        ((300, 200), (None, None), (300, 200)),
        ((300, 200), (300, 200), (300, 200)),
        ((300, 200), (999, 999), (300, 200)),
        ((300, 200), (999, 100), (150, 100)),
        ((200, 3), (100, None), (100, 2)),  # 1.5 is rounded up
        ((200, 1), (100, None), (100, 1)),  # 0.5 too
        ((1000, 1), (10, None), (10, 1)),  # 0.01 is still a pixel
        ((1, 1000), (None, 1), (1, 1)),
    ],
)
def test_a_size_is_fitted_as_the_table_of_sizes_says(
    size: tuple[int, int], box: tuple[int | None, int | None], fitted: tuple[int, int]
) -> None:
    assert Size(*size).fit(Box(*box)) == fitted


@given(sizes, boxes)
def test_a_fitted_size_is_inside_the_box_and_never_larger(size: Size, box: Box) -> None:
    fitted = size.fit(box)

    assert 1 <= fitted.width <= min(size.width, box.width or size.width)
    assert 1 <= fitted.height <= min(size.height, box.height or size.height)


@given(sizes, boxes)
def test_a_fitted_size_keeps_its_shape_to_half_a_pixel(size: Size, box: Box) -> None:
    fitted = size.fit(box)

    by_width = Fraction(size.height * fitted.width, size.width)
    by_height = Fraction(size.width * fitted.height, size.height)
    half = Fraction(1, 2)
    assert (
        abs(fitted.height - by_width) <= half
        or abs(fitted.width - by_height) <= half
        or min(fitted) == 1
    )


@given(sizes, boxes)
def test_fitting_touches_the_box_if_it_shrinks_at_all(size: Size, box: Box) -> None:
    fitted = size.fit(box)

    assert fitted == size or fitted.width == box.width or fitted.height == box.height


@given(sizes, boxes)
def test_fitting_twice_changes_nothing(size: Size, box: Box) -> None:
    assert size.fit(box).fit(box) == size.fit(box)


@given(sizes, boxes)
def test_fitting_a_picture_on_its_side_gives_the_same_turned(
    size: Size, box: Box
) -> None:
    assert size.turned().fit(box.turned()) == size.fit(box).turned()


@given(sizes, st.integers(1, 100))
def test_a_size_cut_to_a_ratio_keeps_its_short_side(size: Size, ratio: int) -> None:
    cut = size.at_most(ratio)

    assert min(cut) == min(size)
    assert max(cut) == min(max(size), ratio * min(size))


def test_a_size_knows_its_pixels() -> None:
    assert Size(300, 200).pixels == 60_000


@given(sizes, boxes)
def test_a_jpeg_is_decoded_with_pixels_enough(full: Size, box: Box) -> None:
    target = full.fit(box)
    wanted = 2 if max(target) <= SMALL_TARGET else 1

    scale = jpeg_scale(full, target)

    assert scale in SCALES
    if scale > 1:
        assert full.width >= scale * wanted * target.width
        assert full.height >= scale * wanted * target.height


@pytest.mark.parametrize(
    ("target", "scale"),
    [((4000, 3000), 1), ((2000, 1500), 2), ((400, 300), 8), ((200, 150), 8)],
)
def test_a_jpeg_is_decoded_as_small_as_its_target_allows(
    target: tuple[int, int], scale: int
) -> None:
    assert jpeg_scale(Size(4000, 3000), Size(*target)) == scale


def test_a_small_jpeg_is_decoded_at_twice_its_target() -> None:
    assert jpeg_scale(Size(800, 800), Size(200, 200)) == 2
    assert jpeg_scale(Size(804, 804), Size(201, 201)) == 4


@given(sizes, boxes)
def test_averaging_leaves_twice_the_pixels_and_no_more_than_it_must(
    full: Size, box: Box
) -> None:
    target = full.fit(box)

    scale = plain_scale(full, target)

    enough = [
        n
        for n in SCALES
        if full.width // n >= 2 * target.width and full.height // n >= 2 * target.height
    ]
    assert scale == max(enough, default=1)


@pytest.mark.parametrize(
    ("target", "scale"),
    [((1001, 751), 1), ((1000, 750), 2), ((500, 375), 4), ((250, 187), 8), ((9, 7), 8)],
)
def test_targets_of_one_original_share_few_averages(
    target: tuple[int, int], scale: int
) -> None:
    assert plain_scale(Size(4000, 3000), Size(*target)) == scale
