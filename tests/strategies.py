"""What hypothesis draws from; it iterates the tables, so new rows are drawn too."""

from __future__ import annotations

from hypothesis import strategies as st

from image_repo import modifiers, names
from image_repo.errors import BadRequestError
from image_repo.formats import FORMATS
from image_repo.geometry import Box, Size
from image_repo.modifiers import PIPELINE, ImageOptions
from image_repo.names import DerivedName, ImageName
from image_repo.words import Word

SERVED = [row for row in FORMATS if row.served]
WORDS = [word for cls in PIPELINE for word in cls.words]

sides = st.integers(1, 70_000)
sizes = st.builds(Size, sides, sides)
boxes = st.builds(Box, st.none() | sides, st.none() | sides)


def is_name(text: str) -> bool:
    try:
        names.image_name(text)
    except BadRequestError:
        return False
    return True


image_names = (
    (st.text(min_size=1, max_size=60) | st.text("ab/._ +@%é\u0301", min_size=1))
    .filter(is_name)
    .map(names.image_name)
)

values = (
    st.sampled_from([word.example for word in WORDS])
    | st.sampled_from(["true", "false", "plain", "els", "sel", "e"])
    | st.integers(0, 70_000).map(str)
)


def is_read(words: dict[str, str]) -> bool:
    try:
        modifiers.read(words, ImageOptions())
    except BadRequestError:
        return False
    return True


def good_values(word: Word) -> st.SearchStrategy[str]:
    return values.filter(lambda text: is_read({word.name: text}))


asked = st.fixed_dictionaries(
    {}, optional={word.name: good_values(word) for word in WORDS}
)
"""Valid words and texts of modifiers, each by its name."""

kinds = st.sampled_from([row.kind for row in SERVED])

defaults = st.builds(
    ImageOptions,
    image_default_format=kinds,
    thumbnail_default_format=kinds,
    thumbnail_default_size=st.tuples(st.integers(1, 999), st.integers(1, 999)),
    thumbnail_equalise=st.booleans(),
    thumbnail_liquid_resize=st.booleans(),
    thumbnail_sharpen=st.booleans(),
)


def _derived(image: ImageName, words: dict[str, str], kind: str) -> DerivedName:
    return DerivedName(image, *modifiers.read({**words, "kind": kind}, ImageOptions()))


derived_names = st.builds(_derived, image_names, asked, kinds)
