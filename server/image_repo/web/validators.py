"""Conditional requests (RFC 9110 section 13) as functions of plain values."""

from __future__ import annotations

import re

_TAG = re.compile(r'\s*(W/)?("[\x21\x23-\x7e\x80-\xff]*")\s*(?:,|$)')


def _entity_tags(header: str, *, weak: bool) -> set[str] | None:
    """Return the opaque tags of a list; None for `*`; empty when malformed.

    Args:
        header: The list.
        weak: Whether weak tags count.
    """
    if header.strip() == "*":
        return None
    found = set()
    position = 0
    while position < len(header):
        match = _TAG.match(header, position)
        if match is None:
            return set()
        if weak or match[1] is None:
            found.add(match[2])
        position = match.end()
    return found


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Return whether a GET or HEAD is answered 304 (section 13.1.2, weak comparison).

    Args:
        if_none_match: The header's value; None: not given.
        etag: The current strong entity tag, with its quotes.
    """
    if if_none_match is None:
        return False
    tags = _entity_tags(if_none_match, weak=True)
    return tags is None or etag in tags


def write_refused(
    if_match: str | None, if_none_match: str | None, etag: str | None
) -> bool:
    """Return whether a write is answered 412 (sections 13.1.1 and 13.1.2).

    Args:
        if_match: The header's value; None: not given.
        if_none_match: Likewise.
        etag: Entity tag of what is there; None: nothing is.
    """
    if if_match is not None:
        tags = _entity_tags(if_match, weak=False)
        if etag is None or (tags is not None and etag not in tags):
            return True
    return etag is not None and not_modified(if_none_match, etag)
