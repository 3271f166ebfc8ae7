from __future__ import annotations

from hypothesis import given
from strategies import defaults

from image_repo.assumptions import Assumptions
from image_repo.config import Config
from image_repo.modifiers import ImageOptions
from image_repo.names import DerivedName
from image_repo.urls import DerivedRequest, read


def test_without_more_the_defaults_are_assumed() -> None:
    config = Config()

    assert Assumptions.of(config, config.http.auto) == Assumptions()


@given(defaults)
def test_what_is_assumed_is_what_the_shortest_urls_mean(images: ImageOptions) -> None:
    assumed = Assumptions.of(images, ())

    for query, text in (("", assumed.full), ("?thumbnail=1", assumed.thumbnail)):
        found = read(f"/images/x{query}", "GET", images)
        assert isinstance(found, DerivedRequest)
        assert isinstance(found.name, DerivedName)
        assert found.name.text == text


@given(defaults, defaults)
def test_what_is_said_differs_where_anything_does(
    one: ImageOptions, other: ImageOptions
) -> None:
    kinds = ("avif", "webp")
    first, second = Assumptions.of(one, kinds), Assumptions.of(other, kinds)

    assert (str(first) == str(second)) == (first == second)
    assert str(first) != str(Assumptions.of(one, kinds[::-1]))
