from __future__ import annotations

from dataclasses import dataclass, fields, replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from strategies import defaults

from image_repo import options, template
from image_repo.errors import ConfigError, OptionError
from image_repo.modifiers import ImageOptions, RenderOptions
from image_repo.options import About, option
from image_repo.sources import Source


@dataclass(frozen=True, slots=True)
class Inner:
    """A section of its own.

    More about it.
    """

    bytes: int = option(64 * 2**20, "Bytes.", size=True, low=1, high=2**40)
    odd: int = option(1001, "Odd bytes.", size=True)
    most: float = option(0.00001, "Most.", high=9, pixels=True)
    least: int | None = option(None, "Least.", low=1, pixels=True)


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are."""

    user: Source = option(Source("env", "OS_USERNAME"), "User.")
    word: Source = option(Source("file", "/a/b"), "Word.", secret=True)
    place: str = option(
        "é", "Place.", pattern="[^/]+", most_bytes=4, alias="PLACE", secret=False
    )


@dataclass(frozen=True, slots=True)
class Sample:
    """Options of every type."""

    flag: bool = option(False, "Whether.")
    count: int = option(4, "How many.", low=0, high=64)
    colour: str = option("#ffffff", "Colour.", pattern="#[0-9a-f]{6}", pixels=True)
    word: str = option("a", "Word.", choices=("a", "b"))
    free: str = option('é "\\', "Text.")
    box: tuple[int, int] = option((50, 60), "Box.", low=1, high=100)
    key: str = option("", "Key.", pattern="[a-z]*", secret=True)
    inner: Inner = Inner()
    login: Login = Login()


def test_nothing_said_gives_the_defaults() -> None:
    assert options.load(Sample, {}) == Sample()


def test_a_section_without_options_is_its_defaults() -> None:
    assert options.load(Sample, {"inner": None}) == Sample()


@pytest.mark.parametrize("cls", [Sample, Inner, Login, ImageOptions, RenderOptions])
def test_the_template_loads_to_exactly_the_defaults(cls: type) -> None:
    said = yaml.safe_load(template.render(cls))

    assert options.load(cls, said) == cls()
    assert list(said) == [f.name for f in fields(cls)]


def test_the_template_says_everything_about_an_option() -> None:
    lines = template.render(Sample).splitlines()

    assert lines[:2] == [
        "# Whether. Allowed: true or false. [IMAGE_REPO_FLAG]",
        "flag: false",
    ]
    assert "  # Bytes. Allowed: an amount such as 64 MiB, 1 to 1099511627776." in lines
    assert "  bytes: 64 MiB" in lines
    assert "  odd: 1001" in lines
    assert "# A section of its own." in lines
    assert "  user: [env, OS_USERNAME]" in lines
    assert any(line.endswith(" PLACE]") for line in lines)
    assert all(len(line) <= 88 for line in lines)


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("flag", True, True),
        ("count", 0, 0),
        ("colour", "#00ff00", "#00ff00"),
        ("word", "b", "b"),
        ("free", "", ""),
        ("box", [1, 100], (1, 100)),
    ],
)
def test_a_valid_value_is_taken(name: str, given: object, value: object) -> None:
    assert getattr(options.load(Sample, {name: given}), name) == value


@pytest.mark.parametrize(
    ("given", "value"),
    [
        *((5, 5), ("5", 5), ("5 B", 5), ("2k", 2048), ("2 KiB", 2048), ("1GiB", 2**30)),
        *(("3 MB", 3 * 2**20), (" 1 g ", 2**30), ("1 TiB", 2**40)),
    ],
)
def test_an_amount_may_have_a_unit(given: object, value: int) -> None:
    assert options.load(Sample, {"inner": {"bytes": given}}).inner.bytes == value


def test_a_number_may_be_whole_and_an_optional_one_null() -> None:
    inner = options.load(Sample, {"inner": {"most": 3, "least": None}}).inner

    assert repr(inner.most) == "3.0"
    assert inner.least is None
    assert options.load(Sample, {"inner": {"least": 2}}).inner.least == 2


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"flag": 1}, "option flag is 1: it must be true or false"),
        ({"flag": "true"}, "option flag is 'true': it must be true or false"),
        ({"count": 65}, "option count is 65: it must be a whole number, 0 to 64"),
        ({"count": -1}, "option count is -1: it must be a whole number, 0 to 64"),
        ({"count": True}, "option count is True: it must be a whole number, 0 to 64"),
        ({"count": "4"}, "option count is '4': it must be a whole number, 0 to 64"),
        ({"count": None}, "option count is None: it must be a whole number, 0 to 64"),
        ({"colour": "red"}, "is 'red': it must be text that matches #[0-9a-f]{6}"),
        ({"colour": "#ffffff\n"}, "it must be text that matches #[0-9a-f]{6}"),
        ({"word": "c"}, "option word is 'c': it must be one of a, b"),
        ({"free": 5}, "option free is 5: it must be text"),
        ({"box": [0, 1]}, "option box is [0, 1]: it must be a list of two whole"),
        ({"box": [1, 1, 1]}, "it must be a list of two whole numbers, 1 to 100"),
        ({"box": "1,2"}, "option box is '1,2': it must be a list of two"),
        ({"key": "Secret"}, "option key is not allowed: it must be text that matches"),
        ({"inner": 4}, "option inner is 4: it must be a section of options"),
        ({"inner": {"bytes": "1 PiB"}}, "option inner.bytes is '1 PiB': it must be an"),
        ({"inner": {"bytes": 0}}, "option inner.bytes is 0: it must be an amount"),
        ({"inner": {"bytes": True}}, "option inner.bytes is True: it must be an"),
        ({"inner": {"bytes": "9" * 9999}}, "it must be an amount such as 64 MiB"),
        ({"inner": {"most": 9.5}}, "is 9.5: it must be a number, at most 9"),
        ({"inner": {"most": float("nan")}}, "is nan: it must be a number, at most 9"),
        ({"inner": {"most": float("inf")}}, "is inf: it must be a number"),
        ({"inner": {"most": 10**400}}, "it must be a number, at most 9"),
        ({"inner": {"most": True}}, "is True: it must be a number"),
        (
            {"inner": {"least": 0}},
            "is 0: it must be a whole number, at least 1 or null",
        ),
        ({"cuont": 1}, "unknown option cuont: it must be one of flag, count, colour"),
        ({"cuont": 1}, "; did you mean count?"),
        ({"zzz": 1}, "unknown option zzz"),
        ({5: 1}, "unknown option 5"),
        (
            {"login": {"user": ["env"]}},
            "option login.user is ['env']: it must be a text, or [env, NAME], [file,",
        ),
        ({"login": {"user": ["home", "x"]}}, "is ['home', 'x']: it must be a text"),
        ({"login": {"user": None}}, "option login.user is None: it must be a text"),
        ({"login": {"word": ["Secret"]}}, "option login.word is not allowed: it must"),
        ({"login": ["Secret"]}, "option login is not allowed: it must be a section"),
        ({"login": {"place": "a/b"}}, "option login.place is 'a/b': it must be text"),
        ({"login": {"place": "ééé"}}, "matches [^/]+, of at most 4 bytes"),
        ({"login": {"place": "\udc80"}}, "matches [^/]+, of at most 4 bytes"),
        ({"inner": {"byts": 1}}, "unknown option inner.byts: it must be one of bytes"),
    ],
)
def test_a_wrong_option_is_refused_by_its_name_value_and_what_is_allowed(
    mapping: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        options.load(Sample, mapping)

    assert message in str(caught.value)
    assert "Secret" not in str(caught.value)


def test_a_section_loaded_alone_says_where_it_is() -> None:
    with pytest.raises(ConfigError, match=r"option a\.b\.most is 10"):
        options.load(Inner, {"most": 10}, where="a.b")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("flag", "Yes", True),
        ("flag", "0", False),
        ("count", "7", 7),
        ("free", "", ""),
        ("word", "b", "b"),
        ("box", "7,8", (7, 8)),
    ],
)
def test_the_environment_wins(name: str, text: str, value: object) -> None:
    environment = {f"IMAGE_REPO_{name}".upper(): text, "IMAGE_REPO_PORT": "unknown"}

    loaded = options.load(Sample, {name: "overruled"}, environment)

    assert getattr(loaded, name) == value


def test_the_environment_reaches_into_sections() -> None:
    environment = {
        "IMAGE_REPO_INNER_BYTES": "2 KiB",
        "IMAGE_REPO_INNER_MOST": "1e-3",
        "IMAGE_REPO_INNER_LEAST": "4",
    }

    inner = options.load(Sample, {}, environment).inner

    assert inner == replace(Inner(), bytes=2048, most=0.001, least=4)


def test_a_source_is_a_text_or_says_where_the_text_is() -> None:
    login = {"user": "me", "word": ["env", "WORD"]}

    loaded = options.load(Sample, {"login": login}).login

    assert loaded.user == Source("explicit", "me")
    assert loaded.word == Source("env", "WORD")


def test_a_text_of_the_environment_is_the_text_of_a_source() -> None:
    environment = {"IMAGE_REPO_LOGIN_USER": "[env, OS_USERNAME]"}

    loaded = options.load(Sample, {"login": {"user": "overruled"}}, environment)

    assert loaded.login.user == Source("explicit", "[env, OS_USERNAME]")


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"PLACE": "a"}, "a"),
        ({"PLACE": "a", "IMAGE_REPO_LOGIN_PLACE": "b"}, "b"),
        ({"PLACE": ""}, "file"),
    ],
)
def test_an_alias_wins_over_the_file_and_loses_to_the_options_own_variable(
    environment: dict[str, str], place: str
) -> None:
    loaded = options.load(Sample, {"login": {"place": "file"}}, environment)

    assert loaded.login.place == place


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("FLAG", "maybe"), ("COUNT", "x"), ("COUNT", "65"), ("COUNT", "")),
        *(("BOX", "1"), ("BOX", "1,x"), ("WORD", "c")),
        *(("INNER_MOST", "nan"), ("INNER_MOST", "x")),
    ],
)
def test_a_wrong_text_in_the_environment_is_refused(name: str, text: str) -> None:
    path = name.lower().replace("_", ".")

    with pytest.raises(ConfigError, match=f"option {path} is {text!r}: it must be"):
        options.load(Sample, {}, {f"IMAGE_REPO_{name}": text})


def test_all_that_is_wrong_is_found_at_once_and_has_its_default() -> None:
    said = {"count": 99, "inner": {"odd": 5, "most": "x", "byts": 1}, "word": "b"}

    loaded, faults = options.examine(Sample, said, {"IMAGE_REPO_FLAG": "maybe"})

    assert loaded == Sample(word="b", inner=Inner(odd=5))
    assert {(fault.path, fault.variable) for fault in faults} == {
        (("flag",), "IMAGE_REPO_FLAG"),
        (("count",), ""),
        (("inner", "most"), ""),
        (("inner", "byts"), ""),
    }


@pytest.mark.parametrize(
    "said", [{"free": 5}, {"login": {"user": 12}}, {"login": {"word": 123456}}]
)
def test_a_number_where_a_text_must_be_needs_quotes(said: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=r"; put it in quotes$"):
        options.load(Sample, said)


def test_a_size_in_the_environment_may_be_written_with_an_x() -> None:
    assert options.load(Sample, {}, {"IMAGE_REPO_BOX": "7x8"}).box == (7, 8)


@given(
    st.dictionaries(
        st.sampled_from([f.name for f in fields(Sample)]),
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    )
)
def test_any_mapping_is_loaded_or_refused(mapping: dict[str, object]) -> None:
    try:
        loaded = options.load(Sample, mapping)
    except ConfigError:
        return

    assert 0 <= loaded.count <= 64
    assert loaded.word in {"a", "b"}


@given(defaults)
def test_what_is_loaded_is_what_was_said(chosen: ImageOptions) -> None:
    said = {f.name: getattr(chosen, f.name) for f in fields(ImageOptions)}
    said["thumbnail_default_size"] = list(said["thumbnail_default_size"])

    assert options.load(ImageOptions, said) == chosen


def test_every_option_is_described_with_its_environment_name() -> None:
    described = {d.environment: d.default for d in options.describe(Sample)}

    assert list(described)[:2] == ["IMAGE_REPO_FLAG", "IMAGE_REPO_COUNT"]
    assert described["IMAGE_REPO_INNER_ODD"] == 1001


def test_only_options_that_change_pixels_are_in_the_text_for_the_recipe() -> None:
    text = options.pixels(Sample())

    assert text == '{"colour":"#ffffff","inner.least":null,"inner.most":1e-05}'
    assert options.pixels(Sample(count=5)) == text
    assert options.pixels(Sample(inner=Inner(least=5))) != text


@pytest.mark.parametrize(
    ("about", "allowed"),
    [
        (About("", choices=("a", "b")), "one of a, b"),
        (About("", pattern="x+"), "text that matches x+"),
        (About("", low=1, high=2), "1 to 2"),
        (About("", low=1), "at least 1"),
        (About("", high=2), "at most 2"),
        (About(""), ""),
    ],
)
def test_what_is_allowed_is_said_in_words(about: About, allowed: str) -> None:
    assert about.allowed == allowed
