from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo.errors import BadRequestError
from image_repo.words import Word, integer, resolve, truth

WIDTH = Word("w", ("xsize", "width"), "a number", "Width.", "4")
HEIGHT = Word("h", (), "a number", "Height.", "3")


def test_aliases_are_resolved() -> None:
    assert resolve([("xsize", "4"), ("h", "3")], (WIDTH, HEIGHT)) == {
        "w": "4",
        "h": "3",
    }


def test_an_unknown_word_is_refused_with_what_is_allowed_and_the_nearest() -> None:
    with pytest.raises(BadRequestError) as caught:
        resolve([("xsiz", "4")], (WIDTH, HEIGHT))

    assert str(caught.value) == (
        "unknown parameter 'xsiz': it must be one of w, xsize, width, h;"
        " did you mean 'xsize'?"
    )


def test_a_word_where_none_is_taken_is_refused() -> None:
    with pytest.raises(BadRequestError, match="'q': none is taken here"):
        resolve([("q", "4")], ())


def test_names_of_words_are_exact() -> None:
    with pytest.raises(BadRequestError, match="did you mean 'xsize'"):
        resolve([("XSIZE", "4")], (WIDTH,))


@pytest.mark.parametrize("second", ["w", "xsize", "width"])
def test_a_word_that_comes_twice_in_any_spelling_is_refused(second: str) -> None:
    with pytest.raises(BadRequestError, match="'w' is given twice"):
        resolve([("xsize", "4"), (second, "4")], (WIDTH,))


@given(st.lists(st.tuples(st.text(), st.text())))
def test_any_pairs_are_resolved_or_refused(pairs: list[tuple[str, str]]) -> None:
    try:
        found = resolve(pairs, (WIDTH, HEIGHT))
    except BadRequestError:
        return

    assert set(found) <= {"w", "h"}


@given(st.integers(1, 500), st.integers(0, 5000))
def test_leading_zeros_do_not_matter(number: int, zeros: int) -> None:
    assert integer({"w": "0" * zeros + str(number)}, "w", 1, 500, "") == number


def test_zero_is_a_number() -> None:
    assert integer({"w": "000"}, "w", 0, 5, "") == 0


def test_a_missing_number_is_none() -> None:
    assert integer({}, "w", 1, 5, "") is None


@pytest.mark.parametrize(
    "text",
    [
        *("", "0", "6", "+1", "-1", "1.0", "1e0", " 1", "1 ", "1_0", "m1", "٣", "x"),
        "9" * 5000,
    ],
)
def test_any_other_text_is_refused_as_a_number(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"'w' is .*: it must be 1 to 5"):
        integer({"w": text}, "w", 1, 5, "1 to 5")


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *((yes, True) for yes in ("True", "true", "1", "yes", "YES")),
        *((no, False) for no in ("False", "false", "0", "no", "No")),
    ],
)
def test_yes_and_no_have_the_words_of_the_first_release(text: str, meant: bool) -> None:
    assert truth({"url": text}, "url") is meant


def test_a_missing_word_says_no() -> None:
    assert not truth({}, "url")


@pytest.mark.parametrize("text", ["", "2", "on", "y", "true ", "maybe"])
def test_any_other_text_is_refused_as_a_yes_or_no(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"must be true, yes, 1, .* or plain"):
        truth({"url": text}, "url", ", or plain")
