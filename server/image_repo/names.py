"""Names: of images, of what is derived from them, and every key made from those."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import NewType, Self
from urllib.parse import quote

from image_repo import modifiers as modifiers_
from image_repo.errors import BadRequestError
from image_repo.formats import Format
from image_repo.modifiers import PIPELINE, ImageOptions, Modifier
from image_repo.words import resolve

ImageName = NewType("ImageName", str)
"""Name of an image: made by `image_name` only."""

Revision = NewType("Revision", str)
"""Opaque text that changes when an original is replaced."""

Recipe = NewType("Recipe", str)
"""Short hash of everything outside the URL that changes pixels: `recipe`."""

Tag = NewType("Tag", str)
"""Short hash of a revision and a recipe: `tag`."""

BASE = "/images"
"""Path under which all images are."""

MARK = "_"
"""The segment between an image's name and what is said of it; never in a name."""

FULL = "full"
"""Stands where modifiers would, if there are none."""

_METADATA, _JSON = "metadata", ".json"

METADATA_VERSION = "1"
"""Raised when metadata of the same original begins to be told otherwise."""

MAX_NAME = 700  # bytes of UTF-8: with mark, tag and modifiers below Swift's 1024
MAX_MODIFIERS = 250  # bytes, below the 255 of a file name

_TAG = re.compile("[0-9a-f]{16}")
# Line and paragraph separators are no category Cc, but break lines as controls do.
# The others reorder what surrounds them (Unicode's Bidi_Control).
_HIDDEN = frozenset(
    "\u2028\u2029\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def image_name(text: str) -> ImageName:
    """Return *text* as the name of an image, in Unicode's NFC.

    Raises:
        BadRequestError: Says which rule the name breaks.
    """
    name = unicodedata.normalize("NFC", text)
    wrong = _wrong(name)
    if wrong:
        raise BadRequestError(f"name {name[:40]!r} {wrong}")
    return ImageName(name)


def _wrong(name: str) -> str:
    """Return what is wrong with a name; empty: nothing."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not valid UTF-8"
    if size > MAX_NAME:
        return f"is {size} bytes long: at most {MAX_NAME} are allowed"
    plain = name.isascii() and name.isprintable()  # as most are; found out quickly
    if not plain and any(unicodedata.category(c) == "Cc" or c in _HIDDEN for c in name):
        return "has control or bidi characters: none are allowed"
    for segment in name.split("/"):
        if segment in {"", ".", "..", MARK}:
            return f"has a segment {segment!r}: it must not be empty, '.', '..' or '_'"
    return ""


def recipe(*parts: str) -> Recipe:
    """Return the recipe of *parts*: 16 hexadecimal digits."""
    return Recipe(_digest(parts))


def tag(revision: Revision, recipe: Recipe) -> Tag:
    """Return the tag of an original's revision and a recipe: 16 hexadecimal digits."""
    return Tag(_digest((revision, recipe)))


def read_tag(text: str) -> Tag | None:
    """Return *text* as a tag; None: it can't be one."""
    return Tag(text) if _TAG.fullmatch(text) else None


def _digest(parts: Iterable[str]) -> str:
    # Each part with its length, so that no two lists of parts are one text.
    found = blake2b(digest_size=8)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8) + data)
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class DerivedName:
    """What identifies a derived image; equal values have equal text and conversely.

    Modifiers are put into the order of `PIPELINE`, and those that the format can't
    use are dropped, so that there is one value for one effect.
    """

    image: ImageName
    modifiers: tuple[Modifier, ...]
    format: Format

    def __post_init__(self) -> None:
        suited = (m for m in self.modifiers if m.suits(self.format))
        object.__setattr__(
            self,
            "modifiers",
            tuple(sorted(suited, key=lambda m: PIPELINE.index(type(m)))),
        )

    @property
    def text(self) -> str:
        """Modifiers and kind, such as w_400-h_300.webp or full.jpg."""
        return job_text(self.modifiers, self.format)

    @property
    def media_type(self) -> str:
        """As in Content-Type."""
        return self.format.media_type

    @property
    def path(self) -> str:
        """The canonical path, quoted."""
        return f"{BASE}/{quoted(str(self))}"

    def versioned_path(self, tag: Tag) -> str:
        """Return the path that serves this image of *tag* only, quoted."""
        return f"{BASE}/{quoted(self.image)}/{MARK}/v_{tag}/{self.text}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the value whose `str` is *text*.

        Raises:
            BadRequestError: There is none.
        """
        image, mark, rest = text.partition(f"/{MARK}/")
        if not mark or image_name(image) != image:
            raise BadRequestError(f"{text[:80]!r} is not a canonical name")
        return cls(ImageName(image), *read_job(rest))

    def __str__(self) -> str:
        """Return the canonical name."""
        return f"{self.image}/{MARK}/{self.text}"


@dataclass(frozen=True, slots=True)
class MetadataName:
    """What identifies the metadata told of an image; kept as a derived image is.

    No path leads to it, since no canonical name has its text.

    Attributes:
        image: Whose.
        groups: What is revealed besides the harmless, in one fixed order.
    """

    image: ImageName
    groups: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Such as metadata-1.json or metadata-1-location-serial.json."""
        return "-".join((_METADATA, METADATA_VERSION, *self.groups)) + _JSON

    @property
    def media_type(self) -> str:
        """As in Content-Type."""
        return "application/json"

    def __str__(self) -> str:
        """Return what stands for it in logs."""
        return f"{self.image}/{MARK}/{self.text}"


def is_metadata(text: str) -> bool:
    """Return whether the last part of a stored key is that of metadata."""
    return text.startswith(_METADATA) and text.endswith(_JSON)


MadeName = DerivedName | MetadataName
"""What is made from an original, and kept under its tag."""


def quoted(name: str) -> str:
    """Return *name* percent-encoded as part of a path.

    `@` and `+` stay as browsers leave them; nothing that HTML, `srcset`, a header or a
    shell would take for its own does.
    """
    return quote(name, safe="/@+")


def job_text(modifiers: tuple[Modifier, ...], into: Format) -> str:
    """Return modifiers and kind as one word; `read_job` is its inverse."""
    tokens = [f"{word}_{text}" for m in modifiers for word, text in m.tokens()]
    return f"{'-'.join(tokens) or FULL}.{into.kind}"


def read_text(text: str, defaults: ImageOptions) -> tuple[tuple[Modifier, ...], Format]:
    """Return modifiers and format of any spelling of `{modifiers}.{kind}`.

    Raises:
        BadRequestError: It has no meaning.
    """
    stem, dot, kind = text.rpartition(".")
    if not dot:
        raise BadRequestError(f"{text[:40]!r} has no kind: write it as {text[:40]}.jpg")
    if len(stem.encode("utf-8", "replace")) > MAX_MODIFIERS:
        raise BadRequestError(
            f"modifiers {stem[:40]!r}... are longer than {MAX_MODIFIERS} bytes"
        )
    tokens = [] if stem == FULL else stem.split("-")
    pairs = [(word, value) for word, _, value in (t.partition("_") for t in tokens)]
    known = tuple(word for cls in PIPELINE for word in cls.words)
    words = resolve(pairs, known)
    return modifiers_.read({**words, "kind": kind}, defaults)


def read_job(text: str) -> tuple[tuple[Modifier, ...], Format]:
    """Return modifiers and format of a canonical `{modifiers}.{kind}`.

    It depends on no configuration.

    Raises:
        BadRequestError: *text* is anything but the canonical spelling.
    """
    found, row = read_text(text, ImageOptions())
    suited = tuple(m for m in found if m.suits(row))
    if job_text(suited, row) != text:
        raise BadRequestError(f"{text[:80]!r} is not a canonical spelling")
    return suited, row


def derived_prefix(image: ImageName) -> str:
    """Return what all keys of images derived from *image* start with, and no others."""
    return f"{image}/{MARK}/"


def stored_key(name: MadeName, tag: Tag) -> str:
    """Return the key of what is made from an image in a store; at most 1024 bytes."""
    return f"{derived_prefix(name.image)}{tag}/{name.text}"


def read_stored_key(key: str) -> tuple[DerivedName, Tag]:
    """Return the name and tag whose `stored_key` is *key*.

    Raises:
        BadRequestError: There are none.
    """
    image, _, rest = key.partition(f"/{MARK}/")
    digits, _, text = rest.partition("/")
    found = read_tag(digits)
    if found is None:
        raise BadRequestError(f"{key[:80]!r} is not a derived image of a tag")
    return DerivedName.parse(f"{image}/{MARK}/{text}"), found


def etag(tag: Tag, name: MadeName) -> str:
    """Return the strong entity tag of what is made from an image, with its quotes."""
    return f'"{_digest((tag, str(name)))}"'


def cache_tag(image: ImageName) -> str:
    """Return what caches before this server call all answers about an image.

    Such headers separate tags by spaces or commas, which names may have.
    """
    return f"image-{_digest((image,))}"
