"""Words: the parameters of URLs, and the reading of their raw texts."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from image_repo.errors import BadRequestError

TRUTH = "true, yes, 1, false, no or 0"
"""The allowed values of a word that says yes or no."""

TRUTHS = "[Tt]rue|[Ff]alse|yes|no|1|0"
"""Matches texts that say yes or no, in the usual cases of their letters."""

NUMBERS = "[1-9][0-9]{0,3}"
"""Matches whole numbers that are allowed wherever some thousands are."""

YES = ("true", "1", "yes")
"""Texts that say yes, in any case of their letters."""

_NO = ("false", "0", "no")
_DIGITS = re.compile("[0-9]+")
_MOST_DIGITS = 9
_SHOWN = 40  # characters of what a client sent that a message repeats


@dataclass(frozen=True, slots=True)
class Word:
    """A parameter of a URL.

    Attributes:
        name: Its spelling in canonical names.
        aliases: Other spellings, all valid for ever.
        values: What may stand behind it, in words.
        help: A sentence for the documentation.
        example: A valid value, as a canonical name has it.
        pattern: Matches, as a whole, texts that are valid wherever the word is, in the
            dialect of JSON Schema. Empty: any text may be.
    """

    name: str
    aliases: tuple[str, ...]
    values: str
    help: str
    example: str
    pattern: str = ""

    @property
    def spellings(self) -> tuple[str, ...]:
        """Name and aliases."""
        return (self.name, *self.aliases)


Words = Mapping[str, str]
"""Raw text of each word that a URL has, by the word's name."""


def resolve(pairs: Iterable[tuple[str, str]], known: Sequence[Word]) -> dict[str, str]:
    """Return the raw texts by the names of their words, aliases resolved.

    Raises:
        BadRequestError: A word is not in *known*, or comes twice in any spelling.
    """
    names = {spelling: word.name for word in known for spelling in word.spellings}
    found: dict[str, str] = {}
    for spelling, text in pairs:
        name = names.get(spelling)
        if name is None:
            unknown(spelling, names)
        if name in found:
            raise BadRequestError(f"parameter {name!r} is given twice")
        found[name] = text
    return found


def unknown(spelling: str, known: Iterable[str]) -> NoReturn:
    """Refuse a parameter that is not one of *known*, and say which is nearest."""
    words = list(known)
    allowed = f"it must be one of {', '.join(words)}" if words else "none is taken here"
    near = difflib.get_close_matches(spelling[:_SHOWN].lower(), words, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadRequestError(f"unknown parameter {spelling[:_SHOWN]!r}: {allowed}{hint}")


def refuse(name: str, text: str, allowed: str) -> NoReturn:
    """Refuse the value *text* of parameter *name*, and say what is allowed."""
    raise BadRequestError(
        f"parameter {name!r} is {text[:_SHOWN]!r}: it must be {allowed}"
    )


def integer(words: Words, name: str, low: int, high: int, values: str) -> int | None:
    """Return the whole number of a word; None: it is not there.

    Raises:
        BadRequestError: The text is no number or out of range; says *values*.
    """
    text = words.get(name)
    if text is None:
        return None
    digits = text.lstrip("0") or text[-1:]  # leading zeros don't matter
    if not _DIGITS.fullmatch(digits) or len(digits) > _MOST_DIGITS:
        refuse(name, text, values)
    if not low <= int(digits) <= high:
        refuse(name, text, values)
    return int(digits)


def truth(words: Words, name: str, more: str = "") -> bool:
    """Return whether a word says yes; a missing one says no.

    Raises:
        BadRequestError: The text is neither a yes nor a no; says *more* allowed words.
    """
    text = words.get(name, "no")
    if text.lower() in YES:
        return True
    if text.lower() in _NO:
        return False
    refuse(name, text, TRUTH + more)
