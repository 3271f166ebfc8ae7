from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import WORDS, asked, defaults, sizes

from image_repo import modifiers
from image_repo.errors import BadRequestError
from image_repo.formats import FORMATS
from image_repo.geometry import Box, Size, jpeg_scale
from image_repo.modifiers import (
    PIPELINE,
    Fit,
    ImageOptions,
    Modifier,
    RenderOptions,
    Thumbnail,
)
from image_repo.words import Word, Words

RENDER = RenderOptions()


class Sketch:
    """A picture without pixels: it has a size, and knows what was done to it."""

    def __init__(self, size: Size) -> None:
        self.width, self.height = size
        self.compression_quality = 0
        self.done: list[object] = []

    def resize(self, width: int, height: int, kernel: str, /) -> None:
        assert kernel == "lanczos"
        self.width, self.height = width, height
        self.done.append(("resize", width, height))

    def liquid_rescale(self, width: int, height: int, /) -> None:
        self.width, self.height = width, height
        self.done.append(("carve", width, height))

    def equalize(self) -> None:
        self.done.append("equalize")

    def unsharp_mask(self, *given: float) -> None:
        assert len(given) == 4
        self.done.append("sharpen")


def read(**words: str) -> tuple[Modifier, ...]:
    return modifiers.read(words, ImageOptions())[0]


# Reading


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ({}, ()),
        ({"w": "400"}, (Fit(Box(400, None)),)),
        ({"h": "0300"}, (Fit(Box(None, 300)),)),
        ({"w": "400", "h": "300"}, (Fit(Box(400, 300)),)),
        ({"w": "1", "h": "65500"}, (Fit(Box(1, 65_500)),)),
        ({"thumb": "True"}, (Thumbnail(Box(50, 50), "els"),)),
        ({"thumb": "1", "w": "80"}, (Thumbnail(Box(80, None), "els"),)),
        ({"thumb": "se", "w": "80", "h": "60"}, (Thumbnail(Box(80, 60), "es"),)),
        ({"thumb": "plain"}, (Thumbnail(Box(50, 50), ""),)),
        ({"thumb": "l", "h": "9"}, (Thumbnail(Box(None, 9), "l"),)),
        ({"thumb": "False"}, ()),
        ({"thumb": "no", "w": "80"}, (Fit(Box(80, None)),)),
    ],
)
def test_words_mean_modifiers(
    words: dict[str, str], meant: tuple[Modifier, ...]
) -> None:
    assert read(**words) == meant


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.name)
@pytest.mark.parametrize("text", ["", "-1", "+1", "x", "1.5", "65501", "9" * 400])
def test_a_value_that_is_not_allowed_is_refused_by_name(word: Word, text: str) -> None:
    with pytest.raises(BadRequestError, match=f"parameter '{word.name}' is .* must be"):
        read(**{word.name: text})


@pytest.mark.parametrize("text", ["ee", "elsx", "ELS", "plains", "els plain"])
def test_letters_of_a_thumbnail_are_some_of_three_once(text: str) -> None:
    with pytest.raises(BadRequestError, match="letters of els, or plain"):
        read(thumb=text)


@given(st.dictionaries(st.sampled_from([word.name for word in WORDS]), st.text()))
def test_any_text_is_read_or_refused(words: dict[str, str]) -> None:
    try:
        found, row = modifiers.read(words, ImageOptions())
    except BadRequestError:
        return

    assert row.kind == "jpg"
    assert [type(m) for m in found] == [c for c in PIPELINE if c in map(type, found)]


@given(asked, defaults)
def test_the_tokens_of_a_modifier_read_back_whatever_the_configuration(
    words: dict[str, str], configured: ImageOptions
) -> None:
    found, _ = modifiers.read(words, configured)
    tokens = [token for modifier in found for token in modifier.tokens()]

    assert modifiers.read(dict(tokens), ImageOptions())[0] == found
    assert len(dict(tokens)) == len(tokens)


@pytest.mark.parametrize("cls", PIPELINE, ids=lambda cls: cls.__name__)
def test_the_examples_of_every_modifier_are_in_canonical_form(
    cls: type[Modifier],
) -> None:
    for word in cls.words:
        (modifier,) = read(**{word.name: word.example})

        assert type(modifier) is cls
        assert (word.name, word.example) in modifier.tokens()


def test_no_spelling_means_two_words() -> None:
    spellings = [s for word in modifiers.words_known() for s in word.spellings]

    assert len(spellings) == len(set(spellings))


@pytest.mark.parametrize("first", ["xsize", "ysize", "thumbnail", "kind"])
def test_the_words_of_the_first_release_work(first: str) -> None:
    assert first in {s for word in modifiers.words_known() for s in word.spellings}


# Kinds


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ({}, "png"),
        ({"w": "400"}, "png"),
        ({"thumb": "yes"}, "gif"),
        ({"kind": "webp"}, "webp"),
        ({"kind": "JPEG", "thumb": "yes"}, "jpg"),
    ],
)
def test_a_kind_is_asked_for_or_configured(words: dict[str, str], kind: str) -> None:
    configured = ImageOptions(
        image_default_format="png", thumbnail_default_format="gif"
    )

    assert modifiers.read(words, configured)[1].kind == kind


def test_a_kind_that_is_not_served_is_refused() -> None:
    with pytest.raises(BadRequestError, match="kind 'heic' is not served"):
        read(kind="heic")


def test_every_format_with_a_quality_has_an_option_of_that_default() -> None:
    for row in FORMATS:
        assert RENDER.quality(row) == row.quality
        assert row.quality is None or hasattr(RENDER, f"quality_{row.kind}")


@given(defaults)
def test_the_configured_letters_are_in_their_order(configured: ImageOptions) -> None:
    chosen = (
        ("e", configured.thumbnail_equalise),
        ("l", configured.thumbnail_liquid_resize),
        ("s", configured.thumbnail_sharpen),
    )

    assert configured.letters == "".join(letter for letter, yes in chosen if yes)


# Applying


def applied(found: tuple[Modifier, ...], size: Size, decoded: Size) -> Sketch:
    picture = Sketch(decoded)
    modifiers.apply(found, picture, size, RENDER)
    return picture


@given(asked, sizes)
def test_the_size_that_comes_out_is_the_one_foretold(
    words: dict[str, str], size: Size
) -> None:
    found = read(**words)

    picture = applied(found, size, size)

    assert (picture.width, picture.height) == modifiers.result(found, size, RENDER)


@given(asked, sizes)
def test_a_picture_decoded_at_less_comes_out_the_same_size(
    words: dict[str, str], size: Size
) -> None:
    found = read(**words)
    target = modifiers.result(found, size, RENDER)
    scale = jpeg_scale(size, target)
    decoded = Size(-(-size.width // scale), -(-size.height // scale))

    picture = applied(found, size, decoded)

    assert (picture.width, picture.height) == target


@given(asked, sizes)
def test_nothing_is_ever_enlarged(words: dict[str, str], size: Size) -> None:
    result = modifiers.result(read(**words), size, RENDER)

    assert result.width <= size.width
    assert result.height <= size.height


@given(asked, sizes)
def test_a_picture_on_its_side_comes_out_the_same_turned(
    words: dict[str, str], size: Size
) -> None:
    for modifier in read(**words):
        turned = modifier.turned()
        if turned is not None:
            upright = modifier.result(size, RENDER)
            assert turned.result(size.turned(), RENDER).turned() == upright


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    assert applied(read(w="300"), Size(300, 200), Size(300, 200)).done == []


@pytest.mark.parametrize(
    ("letters", "size", "done"),
    [
        ("els", (300, 200), [("resize", 50, 33), "equalize", "sharpen"]),
        ("e", (300, 200), [("resize", 50, 33), "equalize"]),
        ("s", (300, 200), [("resize", 50, 33), "sharpen"]),
        ("plain", (300, 200), [("resize", 50, 33)]),
        ("plain", (2000, 20), [("resize", 50, 1)]),
        ("l", (300, 60), [("resize", 50, 10)]),
        ("l", (600, 60), [("resize", 100, 10), ("carve", 50, 10)]),
        ("l", (60, 600), [("resize", 10, 100), ("carve", 10, 50)]),
        ("l", (6000, 60), [("resize", 150, 10), ("carve", 50, 10)]),
        ("l", (60, 6000), [("resize", 10, 150), ("carve", 10, 50)]),
    ],
)
def test_a_thumbnail_is_made_in_the_steps_of_its_letters(
    letters: str, size: tuple[int, int], done: list[object]
) -> None:
    assert applied(read(thumb=letters), Size(*size), Size(*size)).done == done


def test_a_modifier_says_of_itself_only_what_differs() -> None:
    class Nothing(Modifier):
        words = ()

        @classmethod
        def read(cls, words: Words, defaults: ImageOptions) -> Nothing | None: ...

        def tokens(self) -> tuple[tuple[str, str], ...]:
            return ()

        def apply(
            self, picture: modifiers.Picture, size: Size, render: RenderOptions
        ) -> None: ...

    nothing = Nothing()

    assert nothing.turned() is None
    assert nothing.kind(ImageOptions()) is None
    assert nothing.suits(FORMATS[0])
    assert nothing.result(Size(3, 2), RENDER) == Size(3, 2)
