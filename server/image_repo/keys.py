"""Keys: which of a store's keys answer to which image.

`plots/x` and `plots/x.JPG` answer to the image `plots/x`, and so does what is the same
name in Unicode's NFD, in which tools on macOS spell names.
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Final

from image_repo import names
from image_repo.errors import BadRequestError
from image_repo.formats import by_extension, rank
from image_repo.stores.store import MAX_KEY

if TYPE_CHECKING:
    from image_repo.names import ImageName

SPELLINGS: Final = 10_000
"""Names that Unicode spells in two ways that one listing keeps in mind: some MB."""


class Images:
    """Finds in the keys of a store, which come in order, each image once.

    Args:
        prefix: Begins the names.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        # Keys that begin alike come one after the other, because they come in the
        # order of their bytes. All that answers to `x` begins with `x`. So as soon as
        # a key does not begin with `x`, no later one answers to it, and it need not
        # be remembered; what is, are beginnings of one key: at most MAX_KEY of them.
        self._begun: list[str] = []
        self._spelled: set[ImageName] = set()

    def new(self, key: str) -> ImageName | None:
        """Return the image that *key* answers to; None: none, or one that has come."""
        self._begun = [b for b in self._begun if key.startswith(b)]
        begins = stem(key)
        image = None if begins in self._begun else _image(begins)
        if image is None or not image.startswith(self._prefix):
            return None
        self._begun.append(begins)
        # The two spellings of a name lie anywhere in the list.
        if not unicodedata.is_normalized("NFD", image):
            if image in self._spelled:
                return None
            if len(self._spelled) < SPELLINGS:
                self._spelled.add(image)
        return image


def spellings(image: ImageName) -> tuple[str, ...]:
    """Return how other tools may spell a name: in NFC, and in NFD if that differs."""
    apart = unicodedata.normalize("NFD", image)
    # With an extension it must still be a key.
    if apart == image or len(apart.encode()) >= MAX_KEY:
        return (image,)
    return (image, apart)


def stem(key: str) -> str:
    """Return *key* without its last segment's extension, if the table knows that."""
    before, _, extension = key.rpartition(".")
    known = by_extension(extension) is not None
    return before if known and before and not before.endswith("/") else key


def order(stem: str, key: str) -> tuple[int, bool, str]:
    """Return what sorts the keys that are *stem* with a known extension, or without."""
    extension = key[len(stem) + 1 :]
    return rank(extension) if extension else -1, not extension.islower(), key


def beginnings(prefix: str) -> list[str]:
    """Return how the keys of images begin whose names begin with *prefix*, in order.

    None of them begins another.
    """
    apart = unicodedata.normalize("NFD", prefix)
    if apart == prefix:
        return [prefix]
    # A mark that follows may come before those at the end.
    while unicodedata.combining(apart[-1]):
        apart = apart[:-1]
    return sorted((prefix, apart))


def _image(stem: str) -> ImageName | None:
    """Return the image that is found as *stem*; None: no request can name it."""
    try:
        image = names.image_name(stem)
    except BadRequestError:
        return None
    return image if stem in spellings(image) else None
