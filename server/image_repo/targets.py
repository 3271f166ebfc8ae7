"""Targets: the one way in which a request's raw target is taken apart and decoded."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NoReturn
from urllib.parse import unquote_to_bytes

from image_repo.errors import BadRequestError

Pairs = tuple[tuple[str, str], ...]
"""Words of a query with their texts, in order, decoded."""

_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def read(raw_target: str) -> tuple[list[str], Pairs]:
    """Return the segments of the path, and the query.

    The first segment, before the first slash, is empty. There are at least two, so that
    a caller can take two off.

    Args:
        raw_target: As received, without scheme and host.

    Raises:
        BadRequestError: It can't be decoded, or two readers may differ on it.
    """
    path, _, query = raw_target.partition("?")
    if "#" in raw_target:  # nginx ends the URI there, other readers don't
        raise BadRequestError("the target has a fragment: write '#' as %23")
    segments = [_segment(text) for text in path.split("/")]
    if len(segments) == 1:
        segments.append("")
    return segments, tuple(_pairs(query))


def _segment(raw: str) -> str:
    text = _decoded(raw)
    if "/" in text:  # nginx would take it for a separator
        raise BadRequestError("the path has an encoded slash: %2F is not allowed")
    return text


def _pairs(query: str) -> Iterator[tuple[str, str]]:
    for part in query.split("&"):
        if part:
            word, _, text = part.replace("+", " ").partition("=")
            yield _decoded(word), _decoded(text)


def _decoded(raw: str) -> str:
    """Return *raw* percent-decoded; bytes beyond ASCII may come as surrogates."""
    if _BAD_ESCAPE.search(raw):
        _undecodable(raw, "'%' must be followed by two hexadecimal digits")
    try:
        return unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        _undecodable(raw, "it must be valid UTF-8")


def _undecodable(raw: str, rule: str) -> NoReturn:
    raise BadRequestError(f"{raw[:40]!r} in the target: {rule}")
