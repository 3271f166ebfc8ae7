from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from image_repo import sources
from image_repo.errors import ConfigError
from image_repo.sources import Source


@pytest.mark.parametrize(
    ("raw", "source"),
    [
        ("text", Source("explicit", "text")),
        ("", Source("explicit", "")),
        (["explicit", ""], Source("explicit", "")),
        (["explicit", "[env, X]"], Source("explicit", "[env, X]")),
        (["env", "OS_PASSWORD"], Source("env", "OS_PASSWORD")),
        (["file", "/run/secrets/password"], Source("file", "/run/secrets/password")),
    ],
)
def test_a_source_is_read_as_in_yaml(raw: object, source: Source) -> None:
    assert Source.parse(raw) == source


@pytest.mark.parametrize(
    "raw",
    [
        *(None, 5, True, [], {}, ["env"], ["env", ""], ["env", "A=B"], ["env", "A\0"]),
        *(["file", ""], ["file", "/a\0"], ["file", 5], ["explicit", 123456789]),
        *(["home", "x"], ["env", "A", "B"], [["env", "A"]], {"env": "A"}),
    ],
)
def test_anything_else_is_no_source(raw: object) -> None:
    with pytest.raises(ValueError, match="neither a text nor a list"):
        Source.parse(raw)


def test_a_text_is_found_where_the_source_says(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("in a file\n")

    assert Source("explicit", "said").read({}) == "said"
    assert Source("env", "WORD").read({"WORD": "exported"}) == "exported"
    assert Source("env", "WORD").read({}) == ""
    assert Source("file", str(tmp_path / "word")).read({}) == "in a file"


@pytest.mark.parametrize(
    ("content", "text"),
    [("a\n\n", "a\n"), (" a ", " a "), ("a\r\n", "a"), ("", ""), ("é\n", "é")],
)
def test_only_the_end_of_a_files_last_line_is_dropped(
    tmp_path: Path, content: str, text: str
) -> None:
    file = tmp_path / "word"
    file.write_bytes(content.encode())

    assert Source("file", str(file)).read({}) == text


def test_what_cannot_be_read_is_named_with_its_option(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xffSecret")
    missing, binary = str(tmp_path / "missing"), str(tmp_path / "binary")

    def said(source: Source, environ: dict[str, str]) -> str:
        with pytest.raises(ConfigError) as caught:
            sources.given(source, environ, "login.word")
        return str(caught.value)

    assert said(Source("file", missing), {}) == (
        f"option login.word: cannot read '{missing}': No such file or directory"
    )
    assert "Is a directory" in said(Source("file", str(tmp_path)), {})
    assert said(Source("file", binary), {}) == (
        f"option login.word: '{binary}' is not UTF-8"
    )
    assert said(Source("env", "WORD"), {"WORD": "Secret\udc80"}) == (
        "option login.word: WORD in the environment is not UTF-8"
    )


@given(st.text(min_size=1))
def test_an_explicit_text_is_never_shown(text: str) -> None:
    shown = "[explicit, …]"

    assert repr(Source("explicit", text)) == str(Source("explicit", text)) == shown


def test_where_a_text_is_may_be_shown() -> None:
    assert str(Source("env", "OS_PASSWORD")) == "[env, OS_PASSWORD]"
    assert f"{Source('file', '/a')}" == "[file, /a]"
    assert repr(Source("explicit", "")) == '[explicit, ""]'
