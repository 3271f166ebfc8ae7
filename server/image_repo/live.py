"""Which options a running server takes anew when it is told to read them again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Final, TypeVar

from image_repo.options import describe, is_section

if TYPE_CHECKING:
    from image_repo.options import Options

T = TypeVar("T", bound="Options")

LIVE: Final = frozenset(
    {
        "image_default_format",
        "thumbnail_default_format",
        "thumbnail_default_size",
        "thumbnail_equalise",
        "thumbnail_liquid_resize",
        "thumbnail_sharpen",
        "http.max_age",
        "http.s_maxage",
        "http.stale_while_revalidate",
        "swift_cache_configuration.url_lifetime",
        "swift_cache_configuration.url_lifetime_slack",
    }
)
"""What is looked at anew for each request, and is in no name, key or recipe."""


BEHIND_NGINX: Final = frozenset(
    {
        "image_default_format",
        "thumbnail_default_format",
        "thumbnail_default_size",
        "thumbnail_equalise",
        "thumbnail_liquid_resize",
        "thumbnail_sharpen",
    }
)
"""What nginx's configuration knows, too: behind nginx it takes a restart."""


def changes(before: Options, after: Options) -> Iterator[str]:
    """Yield the path of each option that has another value, with dots."""
    for known in describe(type(before)):
        if _at(before, known.path) != _at(after, known.path):
            yield ".".join(known.path)


def merged(before: T, after: T) -> T:
    """Return *before* with the values that *after* has for the options in `LIVE`.

    Behind nginx those in `BEHIND_NGINX` stay.
    """
    behind = getattr(before, "behind_nginx", False)
    return _merged(before, after, "", LIVE - BEHIND_NGINX if behind else LIVE)


def _merged(before: T, after: T, where: str, live: frozenset[str]) -> T:
    given: dict[str, object] = {}
    for item in fields(before):
        old, new = getattr(before, item.name), getattr(after, item.name)
        if is_section(old):
            given[item.name] = _merged(old, new, f"{where}{item.name}.", live)
        elif f"{where}{item.name}" in live:
            given[item.name] = new
    return replace(before, **given)


def _at(options: object, path: tuple[str, ...]) -> object:
    for name in path:
        options = getattr(options, name)
    return options
