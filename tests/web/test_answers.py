from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo import names
from image_repo.derivations import Answer
from image_repo.formats import by_kind
from image_repo.levels import Derived
from image_repo.names import DerivedName, MetadataName, Tag
from image_repo.web import answers
from image_repo.web.answers import AWAY_SECONDS, HttpOptions, Terms

TAG = Tag("0123456789abcdef")
X = names.image_name("x")
NAME = DerivedName(X, (), by_kind("png"))
ANSWER = Answer(Derived(b"body", "image/png"), TAG, True, "disk", {"revision": 0.0012})

# RFC 9110, section 5.6.2
TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


@pytest.mark.parametrize(
    ("terms", "control"),
    [
        (
            Terms(HttpOptions()),
            "public, max-age=300, s-maxage=600, stale-while-revalidate=30",
        ),
        (
            Terms(HttpOptions(stale_while_revalidate=0)),
            "public, max-age=300, s-maxage=600",
        ),
        (
            Terms(HttpOptions(), versioned=True),
            "public, max-age=31536000, s-maxage=600, immutable",
        ),
    ],
)
def test_how_long_an_image_may_be_kept_depends_on_its_url(
    terms: Terms, control: str
) -> None:
    assert answers.headers_of(NAME, TAG, terms)["Cache-Control"] == control
    assert answers.image(NAME, ANSWER, terms).headers["Cache-Control"] == control


@pytest.mark.parametrize("versioned", [False, True])
def test_what_is_shown_while_the_store_is_away_is_kept_for_seconds_only(
    versioned: bool,
) -> None:
    terms = Terms(HttpOptions(), versioned=versioned, assumed=True)

    shown = answers.image(NAME, ANSWER, terms)

    assert shown.headers["Cache-Control"] == "public, max-age=10, s-maxage=10"
    assert shown.headers["X-Image-Repo"] == "disk; store=away"


@given(
    st.builds(
        HttpOptions,
        max_age=st.integers(0, 100),
        s_maxage=st.integers(1, 100),
        stale_while_revalidate=st.integers(0, 100),
    ),
    st.booleans(),
    st.booleans(),
)
def test_nginx_holds_nothing_for_longer_than_is_known(
    options: HttpOptions, versioned: bool, assumed: bool
) -> None:
    control = Terms(options, versioned, assumed).cache_control

    held = re.findall(r"(?:s-maxage|stale-while-revalidate)=(\d+)", control)
    assert 1 <= sum(map(int, held)) <= options.held_seconds
    assert not assumed or sum(map(int, held)) <= AWAY_SECONDS


def test_what_may_not_last_is_kept_nowhere() -> None:
    answer = replace(ANSWER, lasting=False)

    shown = answers.image(NAME, answer, Terms(HttpOptions(), versioned=True))

    assert shown.headers["Cache-Control"] == "no-store"
    assert shown.headers["X-Accel-Expires"] == "0"


def test_metadata_are_tagged_and_kept_as_images_are() -> None:
    terms = Terms(HttpOptions())
    shared = terms.headers(TAG, MetadataName(X))

    assert shared["Cache-Tag"] == shared["Surrogate-Key"] == names.cache_tag(X)
    assert shared["Cache-Control"] == terms.cache_control


@given(st.dictionaries(st.text(min_size=1), st.floats(0, 1e6)))
def test_steps_of_any_name_are_told_in_one_header(seconds: dict[str, float]) -> None:
    told = answers.server_timing(replace(ANSWER, seconds=seconds))

    first, *steps = told.split(", ")
    assert first == 'cache;desc="disk"'
    assert len(steps) == len(seconds)
    assert all(re.fullmatch(rf"{TOKEN};dur=\d+\.\d", step) for step in steps)
