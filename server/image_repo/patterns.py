"""Patterns: regular expressions of strangers, which can't take much time or memory.

They are searched by RE2, whose time grows with the text and no faster. Its dialect is
that of Python but for what needs backtracking.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import re2

from image_repo import words
from image_repo.errors import BadRequestError

PARAMETER: Final = "regex"

MAX_LENGTH: Final = 256
"""Characters in a pattern; longer ones are accidents or attacks."""

MAX_COUNTED: Final = 200
"""What the numbers of all `{m,n}` may add up to, so that compiling ends in about 50 ms:
RE2 writes what is counted out as often as the number says, and Python waits for it."""

CLASS_COST: Final = 10
"""What a Unicode class such as `\\pL` counts for beside those numbers."""

MAX_MEMORY: Final = 2**20
"""Bytes that a compiled pattern and what it remembers while it searches may take."""

DIALECT: Final = (
    "a regular expression without lookaround, backreferences, conditional groups and"
    " possessive quantifiers"
)

_COUNTED = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_CLASS = re.compile(r"\\[pP]")
_UNBOUNDED_BELOW = re.compile(r"\{,[0-9]")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ANCHORED = re.compile(r"(\(\?[a-zA-Z]+\))?(?:\^|\\A)")
_BOUNDARY = re.compile(r"\\[bB]")

_NOTHING = r"[^\x00-\x{10FFFF}]"
"""A pattern that nothing matches; RE2 sees that, and what needs it is gone, too."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern; made by `compile_` only.

    Attributes:
        text: As it was given, in NFC.
        prefix: What each name begins with in which it is found; may be empty.
    """

    text: str
    prefix: str
    _search: Callable[[bytes], object]

    def matches(self, name: str) -> bool:
        """Return whether the pattern is found anywhere in *name*; it may block."""
        return self._search(name.encode()) is not None


def checked(text: str) -> str:
    """Return a pattern's text in Unicode's NFC, as names are, if it may be compiled.

    Raises:
        BadRequestError: It is too long, or compiling it might take too much.
    """
    text = unicodedata.normalize("NFC", text)
    if not 0 < len(text) <= MAX_LENGTH:
        words.refuse(PARAMETER, text, f"1 to {MAX_LENGTH} characters long")
    # Python takes `{,n}` for `{0,n}`, RE2 takes it as it stands.
    if _UNBOUNDED_BELOW.search(text):
        words.refuse(PARAMETER, text, "written with {0,n}, not {,n}")
    # Wherever they stand: more may be counted than is repeated, never less.
    counted = sum(
        max(_number(least), _number(most)) for least, most in _COUNTED.findall(text)
    )
    if counted + CLASS_COST * len(_CLASS.findall(text)) > MAX_COUNTED:
        words.refuse(
            PARAMETER,
            text,
            f"less costly: the numbers in {{}} may add up to {MAX_COUNTED}, and each"
            f" \\p counts as {CLASS_COST}",
        )
    return text


def compile_(text: str) -> Pattern:
    """Return a pattern; takes up to about 50 ms in which no other thread runs.

    Raises:
        BadRequestError: It can't be compiled; says why, and what is allowed.
    """
    text = checked(text)
    # `\Z` is Python's word for RE2's `\z`.
    spelt = _ESCAPED.sub(lambda found: found[0].replace("Z", "z"), text)
    try:
        compiled = _compiled(spelt)
    except (re2.error, UnicodeEncodeError) as error:
        reason = error.args[0]
        shown = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else ""
        raise BadRequestError(
            f"parameter {PARAMETER!r} is {text[:40]!r}: it must be {DIALECT}"
            f" ({shown or 'it is not valid UTF-8'})"
        ) from error
    return Pattern(text, _prefix(spelt, compiled), compiled.search)


def _number(digits: str) -> int:
    # RE2 itself refuses what is above 1000; Python refuses to read 5000 digits.
    return int(digits[:9] or "0")


def _compiled(text: str) -> re2._Regexp:
    options = re2.Options()
    options.max_mem = MAX_MEMORY
    options.log_errors = False
    options.never_capture = True  # only whether it is found matters
    try:
        return re2.compile(text.encode(), options)
    finally:
        # The library would keep the last 128 patterns, each with its memory.
        re2.purge()


def _prefix(text: str, compiled: re2._Regexp) -> str:
    """Return what all texts begin with in which a pattern is found."""
    anchor = _ANCHORED.match(text)
    # Of `^ab?\b` RE2 says that all begins with `ab`: it overlooks an end at a boundary.
    if anchor is None or _BOUNDARY.search(text):
        return ""
    try:
        # If the pattern with nothing in its anchor's place still matches something,
        # it is found elsewhere than at the beginning, as `^a|b` is.
        rest = _compiled(f"{anchor[1] or ''}{_NOTHING}{text[anchor.end() :]}")
        if rest.programsize > _compiled(_NOTHING).programsize:
            return ""
        low, high = compiled.possiblematchrange(4 * MAX_LENGTH)
    except re2.error:
        return ""
    # What is found lies between these two, so it begins as they both do.
    same = 0
    while low[same : same + 1] == high[same : same + 1] != b"":
        same += 1
    return str(low[:same], "utf-8", "ignore")
