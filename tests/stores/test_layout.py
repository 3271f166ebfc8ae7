"""Where objects are on a disk."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo.stores import layout

texts = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("plot", "plot.o"),
        ("site 7/plot", "site%207.d/plot.o"),
        ("Plot.JPG", "%50lot.%4a%50%47.o"),
        ("../x", "...d/x.o"),
        ("/x/", ".d/x.d/.o"),
        ("n" * 240, "n" * 240 + ".o"),
        ("n" * 241, "n" * 240 + ".c/n.o"),
        ("\u00e9" * 50 + "/x", "%c3%a9" * 40 + ".c/" + "%c3%a9" * 10 + ".d/x.o"),
    ],
)
def test_the_place_of_a_key_is_quoted_and_split(key: str, path: str) -> None:
    assert layout.place(key) == path


@given(key=texts)
def test_no_place_leads_out_or_depends_on_the_file_system(key: str) -> None:
    for part in layout.place(key).split("/"):
        assert re.fullmatch(r"[a-z0-9._@+=,%-]*\.[odc]", part)
        assert len(part) <= 242


@given(one=texts, other=texts)
def test_two_keys_never_have_one_place(one: str, other: str) -> None:
    assert (layout.place(one) == layout.place(other)) == (one == other)


@pytest.mark.parametrize(
    "key", ["\x01" * 1024, "A/" * 512, "/" * 1024, "\u00e9/" * 341]
)
def test_the_longest_places_leave_room_for_a_root(key: str) -> None:
    assert len(layout.place(key)) < 4096 - 900
