"""The commented YAML file of all options, which `image_repo -Yt` prints."""

from __future__ import annotations

import json
import textwrap
import typing
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from typing import TYPE_CHECKING

from image_repo.options import UNITS, About, Described, is_section
from image_repo.sources import Source

if TYPE_CHECKING:
    from image_repo.options import Options


def render(cls: type[Options]) -> str:
    """Return a commented YAML file of all options, which loads to the defaults."""
    return "\n".join(_lines(cls, ())).lstrip() + "\n"


def _lines(cls: type[Options], path: tuple[str, ...]) -> Iterator[str]:
    kinds = typing.get_type_hints(cls)
    indent = "  " * len(path)
    for item in fields(cls):
        kind, here = kinds[item.name], (*path, item.name)
        if is_section(kind):
            yield from _comment(str(kind.__doc__).partition("\n")[0], indent)
            yield f"{indent}{item.name}:"
            yield from _lines(kind, here)
            continue
        known = Described(here, item.default, item.metadata["about"], kind)
        variables = " or ".join(known.variables)
        said = f"{known.about.help} Allowed: {known.allowed}. [{variables}]"
        yield from _comment(said, indent)
        yield f"{indent}{item.name}: {_yaml(item.default, known.about)}"


def _comment(text: str, indent: str) -> Iterator[str]:
    yield ""
    prefix = f"{indent}# "
    yield from textwrap.wrap(
        text,
        88,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _yaml(value: object, about: About) -> str:
    if about.size and isinstance(value, int):
        for unit in ("t", "g", "m", "k"):
            if value and value % UNITS[unit] == 0:
                return f"{value // UNITS[unit]} {unit.upper()}iB"
    if isinstance(value, Source):
        return repr(value) if value.kind != "explicit" else json.dumps(value.text)
    if isinstance(value, float):  # YAML 1.1 takes 1e-05 for a text
        return format(Decimal(repr(value)), "f")
    return json.dumps(value, ensure_ascii=False)
