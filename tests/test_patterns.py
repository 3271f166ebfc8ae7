"""Patterns of strangers: what they mean, what they may cost."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import image_names

from image_repo.errors import BadRequestError
from image_repo.names import ImageName
from image_repo.patterns import MAX_LENGTH, checked, compile_
from image_repo.selection import Selector

NAMES = (
    "plots/site-7",
    "plots/site-70.raw",
    "plots/Site 8/a b",
    "Überblick/säge",
    "a",
    "aaa/bbb",
    "x.y+z@2x",
    "2024-01-31/foto_1",
    "{3}",
    "k",
    "\u212a",  # which is k in another case
)

PLAIN = (
    "site",
    "^plots/",
    "site-[0-9]+$",
    r"site-\d+\Z",
    r"\Aplots",
    r"(?i)SITE",
    r"(?i)^ü",
    r"[^/]+/[^/]+/",
    "ä",
    "s.ge$",
    r"\bsite\b",
    "a{3}",
    "(a|b){2,3}/",
    "^(?:plots|2024-.*)/",
    r"x\.y\+z@2x",
    "(?P<year>[0-9]{4})-",
    "a??b|c*",
    "[a-c]{2,}",
    r"\{3\}",
    "^$|k$",
    re.escape("x.y+z@2x"),
    re.escape("plots/Site 8/a b"),
)

EVIL = (
    "(a+)+$",
    "(a*)*b",
    "(a|aa)+$",
    "(a|a)*b",
    "(.*a){20}",
    "(.*)*x",
    "([a-zA-Z]+)*!",
    "(([a-z])+.)+[A-Z]([a-z])+$",
    "^(([a-z])+.)+[A-Z]([a-z])+$",
    "(?:a?){64}a{64}",
    "(x+x+)+y",
    r"(\w+\s?)*$!",
    r"^(\d+)*[a-z]*\d$!",
    r"(?:.*\.)*z",
    ".*.*.*.*.*.*.*.*=.*",
    "(a.{90}c|b.{90}d)",
    "(.{0,10}a){15}x",
    "(((.?){9}){9}){9}(((.?){9}){9}){9}",
    "[a-z]{1,100}[a-z]{1,100}",
    r"(?i)\pL{1,8}(\pN|\pP)*\pL$",
    r"(.*a.{50}){2}c",
)


@pytest.mark.parametrize("text", PLAIN)
def test_a_pattern_finds_what_python_finds(text: str) -> None:
    pattern = compile_(text)

    assert [name for name in NAMES if pattern.matches(name)] == [
        name for name in NAMES if re.search(text, name)
    ]


parts = st.sampled_from(
    ["a", "b", "/", ".", "^", "$", "é", "[ab]", "[^a/]", "x", r"\.", r"\A", "(?:ab|a)"]
) | st.text("abé/x-1 ", min_size=1, max_size=3)
counts = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,3}", "*?"])
texts = st.recursive(
    st.builds(str.__add__, parts, counts),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=4).map("".join)
        | st.lists(inner, min_size=1, max_size=3).map("|".join)
        | st.builds("({}){}".format, inner, counts)
    ),
    max_leaves=8,
)
written = st.builds(str.__add__, st.sampled_from(["", "^", "(?i)", "(?i)^"]), texts)
searched = image_names | st.text("abé/x-1 ", min_size=1, max_size=8)


@given(written, st.lists(searched, max_size=5))
@settings(max_examples=300)
def test_whatever_both_can_read_both_find(text: str, found: list[str]) -> None:
    try:
        pattern = compile_(text)
        known = re.compile(text)
    except (BadRequestError, re.error):
        return

    for name in found:
        assert pattern.matches(name) == (known.search(name) is not None)


@given(written, st.lists(searched, max_size=5))
@settings(max_examples=300)
def test_every_name_that_matches_begins_with_the_prefix(
    text: str, found: list[ImageName]
) -> None:
    try:
        pattern = compile_(text)
    except BadRequestError:
        return

    for name in found:
        assert name.startswith(pattern.prefix) or not pattern.matches(name)


@pytest.mark.parametrize("text", [r"^ab?\b", r"^(?:ab|a)\b", r"\Aa+\B", r"^\ba*"])
def test_a_boundary_of_words_ends_no_prefix_too_late(text: str) -> None:
    pattern = compile_(text)
    found = [name for name in ("a", "a/b", "ab", "abx", "x") if re.search(text, name)]

    for name in found:
        assert pattern.matches(name)
        assert name.startswith(pattern.prefix)


@given(st.text(max_size=30) | st.text(r"^()[]{}|\*+?.,:iAZQCEpPLbx19aé", max_size=30))
def test_any_text_is_compiled_or_refused(text: str) -> None:
    try:
        pattern = compile_(text)
    except BadRequestError:
        return

    for name in NAMES:
        assert name.startswith(pattern.prefix) or not pattern.matches(name)


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        ("^plots/site-[0-9]+", "plots/site-"),
        (r"^plots\.x/", "plots.x/"),
        (r"\Aplots", "plots"),
        ("^(?:ab|ac)d", "a"),
        ("^abc?", "ab"),
        ("^é[ab]", "é"),
        ("^[éè]x", ""),
        ("^a(b|c)", "a"),
        ("^(abc)+", "abc"),
        ("^e\u0301", "\u00e9"),
        ("(?i)^abc", ""),
        ("(?i)^1abc", "1"),
        ("abc", ""),
        ("^ab|ac", ""),
        ("^|a", ""),
        ("^*abc", ""),
        ("^{0}abc", ""),
        ("(^abc)", ""),
        ("^[[:alpha:](]|b", ""),
        ("^", ""),
        ("^.*abc", ""),
    ],
)
def test_a_prefix_is_what_all_that_match_begin_with(text: str, prefix: str) -> None:
    assert compile_(text).prefix == prefix


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "it must be 1 to 256 characters long"),
        ("x" * 257, "it must be 1 to 256 characters long"),
        ("(", "missing )"),
        ("*", "no argument for repetition"),
        (
            "a++",
            "without lookaround, backreferences, conditional groups and possessive",
        ),
        ("(?=x)", "without lookaround"),
        ("(?<!x)y", "without lookaround"),
        (r"(a)\1", "without lookaround, backreferences"),
        (r"(?P<n>a)(?P=n)", "without lookaround, backreferences"),
        ("(a)?(?(1)b|c)", "conditional groups"),
        ("a{201}", "may add up to 200"),
        ("[a-z]{1,100}" * 3, "may add up to 200"),
        (r"\Q[\E{1000}", "may add up to 200"),
        (r"\pL" * 21, r"each \p counts as 10"),
        ("x{99999999999999999999}", "may add up to 200"),
        ("x{" + "9" * 240 + "}", "may add up to 200"),
        ("((a{10}){10}){100}", "repetition"),
        (r"(?i)\pL{20}\pL{20}\pL{20}\pL{20}\pL{20}", "too large"),
        ("a{,3}", "{0,n}"),
        ("\ud800", "not valid UTF-8"),
    ],
)
def test_what_is_refused_names_the_parameter_and_the_reason(
    text: str, reason: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        compile_(text)

    assert "parameter 'regex' is " in str(caught.value)
    assert reason in str(caught.value)


def test_a_text_is_searched_in_the_form_that_names_have() -> None:
    assert checked("e\u0301") == "\u00e9"
    assert compile_("sa\u0308ge").matches("Überblick/säge")


def test_the_longest_text_is_compiled() -> None:
    assert compile_("x" * MAX_LENGTH).matches("x" * MAX_LENGTH)


async def many(_: str) -> AsyncIterator[ImageName]:
    for n in range(20_000):
        yield ImageName(f"plots/site-{n}/{'a' * 40}!")


@pytest.mark.parametrize("text", EVIL)
async def test_an_evil_pattern_is_answered_or_refused_soon(text: str) -> None:
    """While it is searched for, the event loop goes on."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            lags.append(time.perf_counter() - before)

    async with Selector(many, 10) as selector:
        watching = asyncio.create_task(watch())
        begun = time.process_time()
        with suppress(BadRequestError):
            pattern = await selector.compiled(text)
            _ = [name async for name in selector.matching(many(""), pattern)]
        spent = time.process_time() - begun
        watching.cancel()

    assert spent < 1.5
    # A machine that is busy may be late itself.
    assert sorted(lags)[len(lags) * 98 // 100] < 0.05
    assert max(lags) < 0.5
