"""Lists of images: what a URL may ask of them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from urllib.parse import quote, urlencode

from image_repo import patterns, words
from image_repo.errors import BadRequestError
from image_repo.names import BASE, image_name
from image_repo.words import NUMBERS, Word, Words

REGEX = Word(
    patterns.PARAMETER,
    (),
    patterns.DIALECT,
    "Choose images by their names; it may match anywhere in them.",
    "site-[0-9]+",
)

MAX_LISTED = 10_000
"""Names in one answer that says how to go on: they are held in memory."""

MAX_MARKER = 1024  # bytes; as of any key

PREFIX = Word(
    "prefix",
    (),
    "the beginning of a name",
    "List images whose names begin so.",
    "plots/",
)
LIMIT = Word(
    "limit",
    (),
    f"a whole number, 1 to {MAX_LISTED}",
    "List so many at most; the header Link then has the URL of those that follow.",
    "1000",
    NUMBERS,
)
MARKER = Word(
    "marker",
    (),
    f"a name, or what a Link has, of {MAX_MARKER} bytes at most and no controls",
    "List what comes after it.",
    "plots/site-7",
)
LISTING = (PREFIX, REGEX, LIMIT, MARKER)


@dataclass(frozen=True, slots=True)
class ListRequest:
    """The names of images, in the order of the bytes of the keys of their originals.

    Attributes:
        prefix: What they begin with, in NFC.
        regex: Text of a pattern that is found in them.
        limit: How many at most; None: all.
        marker: The key of the image after which the list begins, or its name.
    """

    prefix: str = ""
    regex: str | None = None
    limit: int | None = None
    marker: str = ""

    @property
    def path(self) -> str:
        """A target that asks the same, quoted."""
        given = {word.name: getattr(self, word.name) for word in LISTING}
        query = urlencode({k: v for k, v in given.items() if v}, quote_via=quote)
        return f"{BASE}?{query}" if query else BASE


def read(given: Words) -> ListRequest:
    """Return the list that is asked for by the words of `LISTING`.

    Raises:
        BadRequestError: A value is not allowed.
    """
    limit = words.integer(given, LIMIT.name, 1, MAX_LISTED, LIMIT.values)
    return ListRequest(_prefix(given), regex(given), limit, _marker(given))


def regex(given: Words) -> str | None:
    """Return the text of the pattern that is asked for; None: there is none.

    Raises:
        BadRequestError: It is not allowed.
    """
    text = given.get(REGEX.name)
    return None if text is None else patterns.checked(text)


def _prefix(given: Words) -> str:
    text = unicodedata.normalize("NFC", given.get(PREFIX.name, ""))
    if text:
        try:
            image_name(f"{text}x")
        except BadRequestError as error:
            raise BadRequestError(
                f"parameter {PREFIX.name!r} must be {PREFIX.values}: {error}"
            ) from error
    return text


def _marker(given: Words) -> str:
    text = given.get(MARKER.name, "")
    hidden = any(unicodedata.category(c) == "Cc" for c in text)
    if hidden or len(text.encode()) > MAX_MARKER:
        words.refuse(MARKER.name, text, MARKER.values)
    return text
