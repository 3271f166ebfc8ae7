from __future__ import annotations

import pytest

from image_repo.web.validators import not_modified, write_refused

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, False),
        ('"abc"', True),
        ('W/"abc"', True),
        ('"x", "abc"', True),
        ('"x" , W/"y"', False),
        ("*", True),
        ("", False),
        ("abc", False),
        ('"abc', False),
    ],
)
def test_not_modified_follows_the_rfc(header: str | None, expected: bool) -> None:
    assert not_modified(header, TAG) is expected


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "etag", "expected"),
    [
        (None, None, TAG, False),
        ('"abc"', None, TAG, False),
        ('"old"', None, TAG, True),
        ('"abc"', None, None, True),
        ("*", None, TAG, False),
        ("*", None, None, True),
        (None, "*", TAG, True),
        (None, "*", None, False),
        (None, '"abc"', TAG, True),
        (None, '"old"', TAG, False),
        ("*", "*", TAG, True),
        ('W/"abc"', None, TAG, True),
        ('"abc"', '"old"', TAG, False),
    ],
)
def test_a_write_is_refused_when_its_condition_fails(
    if_match: str | None, if_none_match: str | None, etag: str | None, expected: bool
) -> None:
    assert write_refused(if_match, if_none_match, etag) is expected
