"""Options: one field each, beside its use; everything about it comes from there.

A room's options are a frozen dataclass whose fields are made by `option`. Loading,
checks, the commented YAML template, environment names and the documentation iterate
those fields; nothing about an option is stated a second time. An option whose value may
be a secret is a `Source`: it says where the value is, and reading it is for later.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from types import MappingProxyType, UnionType
from typing import TYPE_CHECKING, TypeVar

from image_repo.errors import OptionError
from image_repo.sources import Source

if TYPE_CHECKING:
    from typing import Any, ClassVar, Protocol

    class Options(Protocol):
        """Any dataclass of options."""

        __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[Any]]]


T = TypeVar("T", bound="Options")
V = TypeVar("V")

PREFIX = "IMAGE_REPO_"
"""Begins the variables of the environment that are named after options."""

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
"""Bytes in one of each unit of an amount."""

_AMOUNT = re.compile(r"(\d+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class About:
    """What is said about an option.

    Attributes:
        help: A sentence for the template and the documentation.
        low: Smallest value allowed; for a list, of each item.
        high: Largest value allowed.
        choices: The only words allowed.
        pattern: What a text must match as a whole.
        most_bytes: Longest text allowed, in UTF-8.
        size: Whether it is an amount of bytes, which may be written `64 MiB`.
        pixels: Whether it changes pixels and so belongs to the recipe.
        secret: Whether messages must not show its value.
        alias: Another variable of the environment that gives it; the one that is named
            after the option wins, and an empty one says nothing.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    most_bytes: int | None = None
    size: bool = False
    pixels: bool = False
    secret: bool = False
    alias: str = ""

    @property
    def allowed(self) -> str:
        """The allowed values in words; empty: no bound but the type."""
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.pattern is not None:
            most = f", of at most {self.most_bytes} bytes" if self.most_bytes else ""
            return f"text that matches {self.pattern}{most}"
        if self.low is not None and self.high is not None:
            return f"{_plain(self.low)} to {_plain(self.high)}"
        if self.low is not None:
            return f"at least {_plain(self.low)}"
        return "" if self.high is None else f"at most {_plain(self.high)}"


def _plain(number: float) -> str:
    return f"{number:g}" if number % 1 else str(int(number))


def option(default: V, help: str, **about: object) -> V:  # noqa: A002 - the word users of argparse know
    """Return a dataclass field that is an option; *about* as in `About`."""
    said = About(help, **about)  # type: ignore[arg-type] # checked by About itself
    made: V = field(default=default, metadata={"about": said})
    return made


@dataclass(frozen=True, slots=True)
class Described:
    """One option as documentation and template see it.

    Attributes:
        path: Names of the sections it is in, and its own.
        default: Its value where nothing is said.
        about: What is said about it.
        kind: The type of its values.
    """

    path: tuple[str, ...]
    default: object
    about: About
    kind: object = str

    @property
    def environment(self) -> str:
        """The variable that gives this option, such as IMAGE_REPO_HTTP_MAX_AGE."""
        return PREFIX + "_".join(self.path).upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """All variables that give this option; the first wins."""
        return tuple(filter(None, (self.environment, self.about.alias)))

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        kind = "an amount such as 64 MiB" if self.about.size else _said(self.kind)
        none = " or null" if _bare(self.kind) is not self.kind else ""
        if self.about.choices or self.about.pattern is not None:
            return self.about.allowed + none
        return ", ".join(filter(None, (kind, self.about.allowed))) + none


def describe(cls: type[Options], path: tuple[str, ...] = ()) -> Iterator[Described]:
    """Yield every option of *cls* and of its sections, in the order of the fields."""
    kinds = typing.get_type_hints(cls)
    for item in fields(cls):
        here = (*path, item.name)
        if is_section(kinds[item.name]):
            yield from describe(kinds[item.name], here)
        else:
            about = item.metadata["about"]
            yield Described(here, item.default, about, kinds[item.name])


# -- loading ---------------------------------------------------------------------------


def load(
    cls: type[T],
    mapping: Mapping[str, object],
    environ: Mapping[str, str] = MappingProxyType({}),
    where: str = "",
) -> T:
    """Return the options in *mapping*; the environment wins, defaults fill up.

    Args:
        cls: Dataclass of options; fields that are dataclasses are sections.
        mapping: As a YAML parser gives it; a section may be null.
        environ: Texts by the names that `Described.environment` gives.
        where: Path of the section that *cls* is, with dots.

    Raises:
        OptionError: An option is unknown, of the wrong type, or out of its range.
    """
    loaded, faults = examine(cls, mapping, environ, where)
    if faults:
        raise faults[0]
    return loaded


def examine(
    cls: type[T],
    mapping: Mapping[str, object],
    environ: Mapping[str, str] = MappingProxyType({}),
    where: str = "",
) -> tuple[T, list[OptionError]]:
    """Return the options as `load`, and all that is wrong; that has its default."""
    kinds = typing.get_type_hints(cls)
    path = tuple(filter(None, where.split(".")))
    faults = [_unknown(name, kinds, path) for name in mapping if name not in kinds]
    given: dict[str, object] = {}
    for item in fields(cls):
        kind, here = kinds[item.name], (*path, item.name)
        try:
            if is_section(kind):
                section = _section(mapping.get(item.name), kind, here)
                given[item.name], wrong = examine(
                    kind, section, environ, ".".join(here)
                )
                faults += wrong
            else:
                known = Described(here, item.default, item.metadata["about"], kind)
                given |= _given(known, mapping, environ)
        except OptionError as error:
            faults.append(error)
    return cls(**given), faults


def _given(
    known: Described, mapping: Mapping[str, object], environ: Mapping[str, str]
) -> dict[str, object]:
    """Return the value of an option by its name; nothing where nothing is said."""
    name = known.path[-1]
    for variable in known.variables:
        # An alias belongs to others, who may leave it empty.
        if variable in environ and (environ[variable] or variable == known.environment):
            return {name: _value(known, environ[variable], _TEXTS, variable)}
    return {name: _value(known, mapping[name], _VALUES)} if name in mapping else {}


def _unknown(name: object, known: Iterable[str], path: tuple[str, ...]) -> OptionError:
    here = (*path, str(name))
    return OptionError(
        f"unknown option {'.'.join(here)}: it must be one of {', '.join(known)}"
        f"{nearest(str(name), known)}",
        here,
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Return words that ask whether the known name most like *name* was meant."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _section(
    value: object, kind: type[Options], path: tuple[str, ...]
) -> Mapping[str, object]:
    if value is None:  # all its options are comments
        return {}
    if not isinstance(value, Mapping):
        secret = any(known.about.secret for known in describe(kind))
        shown = "not allowed" if secret else repr(value)
        raise OptionError(
            f"option {'.'.join(path)} is {shown}: it must be a section of options", path
        )
    return value


def is_section(kind: object) -> bool:
    """Return whether a type, or a value, is a dataclass of options."""
    # Without is_dataclass's TypeGuard: mypy would take the rest for no Options.
    return is_dataclass(kind) and kind is not Source and not isinstance(kind, Source)


def _bare(kind: object) -> object:
    """Return X of `X | None`, anything else as it is."""
    if isinstance(kind, UnionType):
        return next(k for k in typing.get_args(kind) if k is not type(None))
    return kind


def _said(kind: object) -> str:
    return _WORDS[_bare(kind)]


_WORDS: Mapping[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple[int, int]: "a list of two whole numbers",
    Source: "a text, or [env, NAME], [file, PATH] or [explicit, TEXT]",
}


Converters = Mapping[object, "Callable[[object], object]"]
"""For each type what makes a value of it, or raises ValueError."""


def _value(
    known: Described, raw: object, converters: Converters, variable: str = ""
) -> object:
    """Return *raw* as a valid value of an option.

    Raises:
        OptionError: Names the option, the value, and what is allowed.
    """
    bare, about = _bare(known.kind), known.about
    if raw is None and bare is not known.kind:
        return None
    try:
        value = (_amount if about.size else converters[bare])(raw)
        valid = all(
            _within(about, item)
            for item in (value if isinstance(value, tuple) else (value,))
        )
    except (ValueError, KeyError, OverflowError):  # UnicodeError among the first
        valid, value = False, None
    if not valid:
        shown = "not allowed" if about.secret else repr(raw)
        text = bare in {str, Source} and isinstance(raw, int | float)
        raise OptionError(
            f"option {'.'.join(known.path)} is {shown}: it must be {known.allowed}"
            + ("; put it in quotes" if text else ""),
            known.path,
            variable,
        )
    return value


def _within(about: About, value: object) -> bool:
    if isinstance(value, int | float):
        low = -math.inf if about.low is None else about.low
        return low <= value <= (math.inf if about.high is None else about.high)
    text = str(value)
    return (
        (not about.choices or text in about.choices)
        and (about.pattern is None or re.fullmatch(about.pattern, text) is not None)
        and (about.most_bytes is None or len(text.encode()) <= about.most_bytes)
    )


def _exactly(*types: type) -> Callable[[object], object]:
    def convert(value: object) -> object:
        if type(value) not in types:
            raise ValueError
        return value

    return convert


def _finite(value: object) -> object:
    number = _exactly(int, float)(value)
    if not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError
    return float(number)


def _two(value: object) -> object:
    if not isinstance(value, list) or [type(item) for item in value] != [int, int]:
        raise ValueError
    return tuple(value)


def _amount(value: object) -> object:
    found = _AMOUNT.fullmatch(str(value).strip())
    if found is None or isinstance(value, bool):
        raise ValueError
    return int(found[1]) * UNITS[found[2].lower()]


_VALUES: Converters = {
    bool: _exactly(bool),
    int: _exactly(int),
    float: _finite,
    str: _exactly(str),
    tuple[int, int]: _two,
    Source: Source.parse,
}


def _truth(text: object) -> object:
    return {
        "true": True,
        "1": True,
        "yes": True,
        "false": False,
        "0": False,
        "no": False,
    }[str(text).lower()]


_TEXTS: Converters = {
    bool: _truth,
    int: lambda text: int(str(text)),
    float: lambda text: _finite(float(str(text))),
    str: _exactly(str),
    tuple[int, int]: lambda text: _two([int(n) for n in re.split("[,x]", str(text))]),
    Source: lambda text: Source("explicit", str(text)),
}


def pixels(instance: Options) -> str:
    """Return a stable text of all options that change pixels, sections included."""
    found = dict(_pixels(instance, ""))
    return json.dumps(found, sort_keys=True, separators=(",", ":"))


def _pixels(instance: Options, where: str) -> Iterator[tuple[str, object]]:
    for item in fields(instance):
        value = getattr(instance, item.name)
        if is_section(value):
            yield from _pixels(value, f"{where}{item.name}.")
        elif item.metadata["about"].pixels:
            yield f"{where}{item.name}", value
