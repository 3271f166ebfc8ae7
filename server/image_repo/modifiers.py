"""Modifiers: what a URL may ask to be done to an image; the one list of them.

`PIPELINE` is the order both of applying and of the canonical name. Reading, naming,
applying, documentation and tests iterate it: a new modifier is one class and one line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

from image_repo.formats import FORMATS, Format, by_kind
from image_repo.geometry import Box, Size
from image_repo.options import option
from image_repo.words import NUMBERS, TRUTH, TRUTHS, Word, Words, integer, truth

VERSION = "2"
"""Part of the recipe: raised when the same name begins to mean other pixels."""

MAX_SIDE = 65_500
"""Longest side that can be asked for: libjpeg's JPEG_MAX_DIMENSION."""

LIQUID_REACH = 3
"""How many times its final length a side may have when carving starts.

Every seam costs time; beyond this the picture is squeezed first.
"""

_SERVED = tuple(row.kind for row in FORMATS if row.served)
_LETTERS = "els"
_PLAIN = "plain"
_PERCENT = "a whole number, 1 to 100"
_HUNDRED = "[1-9][0-9]?|100"


# -- options ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """What a URL means where it says nothing; always written out in the name."""

    image_default_format: str = option(
        "jpg", "Kind of a derived image when the URL names none.", choices=_SERVED
    )
    thumbnail_default_format: str = option(
        "jpg", "Kind of a thumbnail when the URL names none.", choices=_SERVED
    )
    thumbnail_default_size: tuple[int, int] = option(
        (50, 50), "Width and height a thumbnail is fitted in.", low=1, high=MAX_SIDE
    )
    thumbnail_equalise: bool = option(True, "Spread the contrast of thumbnails.")
    thumbnail_liquid_resize: bool = option(
        True, "Carve very long or tall images down to the cut-in ratio in thumbnails."
    )
    thumbnail_sharpen: bool = option(True, "Sharpen thumbnails.")

    @property
    def letters(self) -> str:
        """The letters of a thumbnail that chooses none itself."""
        chosen = {
            "e": self.thumbnail_equalise,
            "l": self.thumbnail_liquid_resize,
            "s": self.thumbnail_sharpen,
        }
        return "".join(letter for letter in _LETTERS if chosen[letter])


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """Everything outside the URL that steers pixels; all of it is in the recipe."""

    background: str = option(
        "#ffffff",
        "Colour behind transparency in kinds that can't hold it.",
        pattern="#[0-9A-Fa-f]{6}",
        pixels=True,
    )
    keep_credit: bool = option(
        False, "Keep artist and copyright in jpg, webp, png and tif.", pixels=True
    )
    quality_jpg: int = option(
        80, "Quality of jpg when the URL names none.", low=1, high=100, pixels=True
    )
    quality_webp: int = option(
        80, "Quality of webp when the URL names none.", low=1, high=100, pixels=True
    )
    quality_avif: int = option(
        50, "Quality of avif when the URL names none.", low=1, high=100, pixels=True
    )
    thumbnail_liquid_cutin_ratio: int = option(
        5,
        "How many times its short side the long side of a thumbnail may be.",
        low=1,
        high=1000,
        pixels=True,
    )
    thumbnail_sharpen_sigma: float = option(
        0.6,
        "Reach of sharpening in pixels.",
        low=0.1,
        high=5,
        pixels=True,
    )
    thumbnail_sharpen_amount: float = option(
        0.8, "Strength of a thumbnail's sharpening.", low=0, high=5, pixels=True
    )

    def quality(self, into: Format) -> int | None:
        """Return the quality to encode with; None: the format has none to choose."""
        chosen: int | None = getattr(self, f"quality_{into.kind}", into.quality)
        return chosen


_PIXELS = f"a whole number of pixels, 1 to {MAX_SIDE}"

_ONE_OF = "one of " + ", ".join(_SERVED)
KIND = Word("kind", (), _ONE_OF, "The format to come in.", "webp", "|".join(_SERVED))


# -- modifiers -------------------------------------------------------------------------


class Picture(Protocol):
    """What modifiers use of `wand.image.Image`."""

    compression_quality: int

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    def resize(self, width: int, height: int, kernel: str, /) -> object: ...

    def liquid_rescale(self, width: int, height: int, /) -> object: ...

    def equalize(self) -> object: ...

    def unsharp_mask(
        self, radius: float, sigma: float, amount: float, threshold: float, /
    ) -> object: ...


class Modifier(ABC):
    """One thing done to an image. Subclasses are frozen dataclasses, valid if made."""

    __slots__ = ()

    words: ClassVar[tuple[Word, ...]]
    """The words that belong to this modifier alone; others' may be read too."""

    @classmethod
    @abstractmethod
    def read(cls, words: Words, defaults: ImageOptions) -> Self | None:
        """Return what *words* ask of this modifier; None: nothing.

        Raises:
            BadRequestError: A value is not allowed.
        """

    @abstractmethod
    def tokens(self) -> tuple[tuple[str, str], ...]:
        """Return word and value pairs of the canonical name; `read` inverts it."""

    def suits(self, into: Format) -> bool:  # noqa: ARG002
        """Return whether it can change an image of that format at all."""
        return True

    def kind(self, defaults: ImageOptions) -> str | None:  # noqa: ARG002
        """Return the kind that comes when none is asked for; None: no opinion."""
        return None

    def turned(self) -> Modifier | None:
        """Return what does the same to a picture that still lies on its side.

        None: there is no such thing; make the picture upright before.
        """
        return None

    def result(self, size: Size, render: RenderOptions) -> Size:  # noqa: ARG002
        """Return the size that comes out when one of *size* goes in."""
        return size

    @abstractmethod
    def apply(self, picture: Picture, size: Size, render: RenderOptions) -> None:
        """Change *picture*.

        Args:
            picture: Upright unless `turned` gave this modifier, in sRGB. It may have
                been decoded at less than its size, at no less than the result's.
            size: What the picture stands for; the result is computed from it alone.
            render: Settings outside the name.
        """


def _box(words: Words) -> Box:
    return Box(
        integer(words, "w", 1, MAX_SIDE, _PIXELS),
        integer(words, "h", 1, MAX_SIDE, _PIXELS),
    )


def _sides(box: Box) -> tuple[tuple[str, str], ...]:
    sides = (("w", box.width), ("h", box.height))
    return tuple((word, str(side)) for word, side in sides if side is not None)


def _resize(picture: Picture, size: Size) -> None:
    if (picture.width, picture.height) != size:
        picture.resize(size.width, size.height, "lanczos")


@dataclass(frozen=True, slots=True)
class Fit(Modifier):
    """Shrink into a box, keeping the shape; never enlarge."""

    words: ClassVar[tuple[Word, ...]] = (
        Word("w", ("xsize",), _PIXELS, "Fit into this width.", "400", NUMBERS),
        Word("h", ("ysize",), _PIXELS, "Fit into this height.", "300", NUMBERS),
    )

    box: Box

    @classmethod
    def read(cls, words: Words, defaults: ImageOptions) -> Self | None:
        box = _box(words)
        if box == (None, None) or Thumbnail.read(words, defaults) is not None:
            return None
        return cls(box)

    def tokens(self) -> tuple[tuple[str, str], ...]:
        return _sides(self.box)

    def turned(self) -> Fit:
        return Fit(self.box.turned())

    def result(self, size: Size, render: RenderOptions) -> Size:  # noqa: ARG002
        return size.fit(self.box)

    def apply(self, picture: Picture, size: Size, render: RenderOptions) -> None:
        _resize(picture, self.result(size, render))


@dataclass(frozen=True, slots=True)
class Thumbnail(Modifier):
    """Make a small image that stays clear: an entity of its own, not a plain fit.

    Attributes:
        box: What it is fitted in; at least one side is given.
        letters: Some of e(qualise), l(iquid resize), s(harpen), in that order.
    """

    words: ClassVar[tuple[Word, ...]] = (
        Word(
            "thumb",
            ("thumbnail",),
            f"{TRUTH}; letters of {_LETTERS} (equalise, liquid resize, sharpen); "
            f"or {_PLAIN}",
            "Make a thumbnail, in the configured box unless sizes are given.",
            "els",
            f"e?l?s|e?l|e|{_PLAIN}|{TRUTHS}",
        ),
    )

    box: Box
    letters: str = _LETTERS

    @classmethod
    def read(cls, words: Words, defaults: ImageOptions) -> Self | None:
        text = words.get("thumb", "no")
        if text == _PLAIN:
            letters = ""
        elif text and set(text) <= set(_LETTERS) and len(set(text)) == len(text):
            letters = "".join(letter for letter in _LETTERS if letter in text)
        elif truth(words, "thumb", f", letters of {_LETTERS}, or {_PLAIN}"):
            letters = defaults.letters
        else:
            return None
        box = _box(words)
        given = box != (None, None)
        return cls(box if given else Box(*defaults.thumbnail_default_size), letters)

    def tokens(self) -> tuple[tuple[str, str], ...]:
        return (*_sides(self.box), ("thumb", self.letters or _PLAIN))

    def kind(self, defaults: ImageOptions) -> str:
        return defaults.thumbnail_default_format

    def turned(self) -> Thumbnail:
        return Thumbnail(self.box.turned(), self.letters)

    def result(self, size: Size, render: RenderOptions) -> Size:
        if "l" in self.letters:
            size = size.at_most(render.thumbnail_liquid_cutin_ratio)
        return size.fit(self.box)

    def apply(self, picture: Picture, size: Size, render: RenderOptions) -> None:
        final = self.result(size, render)
        if (
            "l" in self.letters
            and size.at_most(render.thumbnail_liquid_cutin_ratio) != size
        ):
            _carve(picture, size, final)
        _resize(picture, final)
        if "e" in self.letters:
            picture.equalize()
        if "s" in self.letters:
            sigma = render.thumbnail_sharpen_sigma
            picture.unsharp_mask(0.0, sigma, render.thumbnail_sharpen_amount, 0.0)


def _carve(picture: Picture, size: Size, final: Size) -> None:
    """Bring *picture* to *final* by taking out the seams that show least.

    The short side is made final first: seams are cheap only in a small picture.
    """
    if size.width > size.height:
        length = size.fit(Box(None, final.height)).width
        _resize(picture, Size(min(length, LIQUID_REACH * final.width), final.height))
    else:
        length = size.fit(Box(final.width, None)).height
        _resize(picture, Size(final.width, min(length, LIQUID_REACH * final.height)))
    picture.liquid_rescale(final.width, final.height)


@dataclass(frozen=True, slots=True)
class Quality(Modifier):
    """Encode at this quality; in the name even when it equals the default."""

    words: ClassVar[tuple[Word, ...]] = (
        Word("q", ("quality",), _PERCENT, "Encode at this quality.", "75", _HUNDRED),
    )

    percent: int

    @classmethod
    def read(cls, words: Words, defaults: ImageOptions) -> Self | None:  # noqa: ARG003
        percent = integer(words, "q", 1, 100, _PERCENT)
        return None if percent is None else cls(percent)

    def tokens(self) -> tuple[tuple[str, str], ...]:
        return (("q", str(self.percent)),)

    def suits(self, into: Format) -> bool:
        return into.quality is not None

    def turned(self) -> Quality:
        return self

    def apply(self, picture: Picture, size: Size, render: RenderOptions) -> None:  # noqa: ARG002
        picture.compression_quality = self.percent


PIPELINE: tuple[type[Modifier], ...] = (
    Fit,
    Thumbnail,
    Quality,
)
"""Every modifier, in the order of applying and of the canonical name."""


def words_known() -> tuple[Word, ...]:
    """Return every word of every modifier, and the one for the kind."""
    return (*(word for cls in PIPELINE for word in cls.words), KIND)


def read(words: Words, defaults: ImageOptions) -> tuple[tuple[Modifier, ...], Format]:
    """Return what *words* ask for: modifiers in the order of `PIPELINE`, and format.

    Raises:
        BadRequestError: A value is not allowed, or the kind is not served.
    """
    found = (cls.read(words, defaults) for cls in PIPELINE)
    asked = tuple(modifier for modifier in found if modifier is not None)
    kind = words.get("kind")
    if kind is None:
        kinds = (modifier.kind(defaults) for modifier in asked)
        kind = next((k for k in kinds if k is not None), defaults.image_default_format)
    return asked, by_kind(kind)


def result(modifiers: Sequence[Modifier], size: Size, render: RenderOptions) -> Size:
    """Return the size that comes out of all *modifiers* when *size* goes in."""
    for modifier in modifiers:
        size = modifier.result(size, render)
    return size


def apply(
    modifiers: Sequence[Modifier], picture: Picture, size: Size, render: RenderOptions
) -> None:
    """Apply all *modifiers* in turn to a picture that stands for *size*."""
    for modifier in modifiers:
        modifier.apply(picture, size, render)
        size = modifier.result(size, render)
