from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ImageCms
from transform.samples import ADOBE, P3, profile

from image_repo.transform.colours import SRGB, is_srgb

SRGB_PRIMARIES = (
    (0.4361, 0.2225, 0.0139),
    (0.3851, 0.7169, 0.0971),
    (0.1431, 0.0606, 0.7141),
)


def test_the_packaged_profile_is_srgb() -> None:
    assert is_srgb(SRGB)


@pytest.mark.parametrize(
    "other",
    [
        profile(P3, 2.2),
        profile(ADOBE, 2.2),
        profile(SRGB_PRIMARIES, 1.0),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
        b"",
        SRGB[:200],
        bytes(200),
    ],
)
def test_other_profiles_are_not_srgb(other: bytes) -> None:
    assert not is_srgb(other)


@given(cut=st.integers(0, len(SRGB)), more=st.binary(max_size=40))
def test_no_damaged_profile_is_an_error(cut: int, more: bytes) -> None:
    assert is_srgb(SRGB[:cut] + more + SRGB[cut + len(more) :]) in {True, False}
