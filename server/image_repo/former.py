"""Configuration files of the first release, read with their meaning.

`TABLE` has every key that is not read as it stands. What it does not have is either
an option of that name today, or unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from image_repo.errors import OptionError
from image_repo.formats import by_extension

Value = object
"""As a YAML parser gives it."""

Path = tuple[str, ...]
"""The names of the sections that an option is in, and its own."""

_PAIR = re.compile(r"\(\s*'(env|file|explicit)'\s*,\s*'([^']*)'\s*\)")
_SIZE = re.compile(r"\(?\s*(\d{1,9})\s*[x,]\s*(\d{1,9})\s*\)?")


# -- values ----------------------------------------------------------------------------


def _same(value: Value) -> Value:
    return value


def _kind(value: Value) -> Value:
    """Return `jpg` for `JPEG`; formats were ImageMagick's words."""
    row = by_extension(value) if isinstance(value, str) else None
    return value if row is None else row.kind


def _size(value: Value) -> Value:
    """Return a list for `(50, 50)`, as the first release has printed it, or `50x50`."""
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if found is None else [int(found[1]), int(found[2])]


def _whole(value: Value) -> Value:
    """Return 5 for 5.0."""
    whole = isinstance(value, float) and value.is_integer()
    return int(value) if whole and isinstance(value, float) else value


def _source(value: Value) -> Value:
    """Return a list for `('env', 'OS_USERNAME')`, as the first release has printed it.

    To YAML that is a text.
    """
    found = _PAIR.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if found is None else [found[1], found[2]]


# -- the table -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Former:
    """A key of the first release.

    Attributes:
        key: Its path in the file, with dots.
        now: The option that it is now; empty: none.
        why: What is the case instead, where it is none.
        only: The values that mean what is done anyway; all others are refused. None
            said: every value is passed over, with a warning.
        read: Returns a value as it is written now.
    """

    key: str
    now: str = ""
    why: str = ""
    only: tuple[str, ...] = ()
    read: Callable[[Value], Value] = _same

    @property
    def path(self) -> Path:
        """The names of the sections it is in, and its own."""
        return tuple(self.key.split("."))


_PERSISTENT = "persistent_store_configuration"
_CACHE = "swift_cache_configuration"
_MEMORY = "memory_cache_configuration"
_LOCAL = "local_cache_configuration"

_SWIFT_SIZE = f"Swift deletes derived images after {_CACHE}.lifetime"
_EVICTION = "a cache that is full drops what was used longest ago"
_CATALOGUE = "Keystone says where Swift is"
_SPOOL = "what is on its way is kept in `work`"
_AS_NEEDED = "containers and directories are made where they are missing"
_UPLOADED = "originals are kept as they are uploaded"
_UNBOUNDED = "originals are not limited in number or size together"
_LINKS = f"temporary URLs lead to derived images alone: see {_CACHE}"

EVICTION: Final = (
    *("alarm_free_threshold", "eager_writeback", "evict_free_threshold"),
    *("evict_hysterysis", "next_level", "priority"),
)
"""Keys that four sections had."""


def _swift(section: str) -> tuple[Former, ...]:
    where, unlimited = f"{section}.credentials", section == _PERSISTENT
    size = _UNBOUNDED if unlimited else _SWIFT_SIZE
    return (
        *(
            Former(f"{where}.{name}", f"{where}.{now}", read=_source)
            for name, now in (
                *(("authurl", "auth_url"), ("tenant", "tenant_name")),
                *((name, name) for name in ("tenant_id", "username", "password")),
            )
        ),
        Former(f"{section}.server_url", why=_CATALOGUE),
        Former(f"{section}.use_file_cache", why=_SPOOL),
        Former(f"{section}.download_path", why=_SPOOL),
        Former(f"{section}.initialise_store", why=_AS_NEEDED),
        Former(f"{section}.max_size", why=size),
        Former(f"{section}.max_elements", why=size),
    )


TABLE: Final = (
    Former("image_default_format", "image_default_format", read=_kind),
    Former("thumbnail_default_format", "thumbnail_default_format", read=_kind),
    Former("thumbnail_default_size", "thumbnail_default_size", read=_size),
    Former(
        "thumbnail_liquid_cutin_ratio",
        "render.thumbnail_liquid_cutin_ratio",
        read=_whole,
    ),
    Former("local_file_cache_path", "work"),
    Former(
        "repository_base_pathname",
        why="every path begins with /images; nginx can rewrite others to it",
        only=("images", "/images", "/images/", "images/"),
    ),
    *_swift(_PERSISTENT),
    *(
        Former(f"{_PERSISTENT}.{name}", why=_LINKS)
        for name in ("url_key", "url_lifetime", "url_lifetime_slack", "url_method")
    ),
    *_swift(_CACHE),
    Former(
        f"{_CACHE}.url_method",
        why="temporary URLs are to read with, by GET or HEAD",
        only=("GET", "get"),
    ),
    Former(f"{_LOCAL}.initialise", why=_AS_NEEDED),
    *(
        Former(f"{section}.{name}", why=_EVICTION)
        for section in (_MEMORY, _LOCAL, _PERSISTENT, _CACHE)
        for name in EVICTION
    ),
    Former("create_new", why=_AS_NEEDED),
    Former("owner", why="nothing asked for it"),
    Former("alarm_threshold", why=_UNBOUNDED),
    Former("max_size", why=_UNBOUNDED),
    Former("max_images", why=_UNBOUNDED),
    Former("cannonical_format_used", why=_UPLOADED),
    Former("cannonical_format", why=_UPLOADED),
)
"""Every key of the first release that is not simply an option of today."""

UNLIMITED: Final = tuple(
    f"{section}.{name}"
    for section in (_MEMORY, _LOCAL)
    for name in ("max_size", "max_elements")
)
"""Options of today in which 0 meant no limit, and means that nothing is kept."""


# -- reading ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Note:
    """What whoever wrote a file should know of some of its keys.

    Attributes:
        paths: The keys.
        text: Goes on after their names.
    """

    paths: tuple[Path, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Translated:
    """A file of either release in the words of today.

    Attributes:
        content: The options.
        former: The paths of those in the file, by theirs of today.
        notes: What means nothing any more.
        faults: What can't be done any more.
    """

    content: Mapping[str, Value]
    former: Mapping[Path, Path]
    notes: tuple[Note, ...]
    faults: tuple[OptionError, ...]


def translate(content: Mapping[str, Value]) -> Translated:
    """Return what a file says in the words of today; those of today stay as they are.

    Args:
        content: As a YAML parser gives it; it is left alone.
    """
    copy = _copy(content)
    former: dict[Path, Path] = {}
    idle: dict[str, list[Path]] = {}
    faults: list[OptionError] = []
    for row, value in _found(copy):
        now = tuple(row.now.split("."))
        if row.now and any(True for _ in _values(copy, now)):
            text = f"{row.key} is an older word for {row.now}, which is there, too"
            faults.append(OptionError(f"option {text}", row.path))
        elif row.now:
            _put(copy, now, row.read(value))
            former[now] = row.path
        elif not row.only:
            idle.setdefault(row.why, []).append(row.path)
        elif value not in row.only:
            text = f"it must be {row.only[0]}: {row.why}"
            faults.append(OptionError(f"option {row.key}: {text}", row.path))
    notes = [
        Note(tuple(paths), f"no longer used: {why}") for why, paths in idle.items()
    ]
    if idle or any(now != path for now, path in former.items()):
        notes += _zeros(copy)
    return Translated(copy, former, tuple(notes), tuple(faults))


def _found(content: dict[str, Value]) -> Iterator[tuple[Former, Value]]:
    """Take out each key of the table that is there; yield it with its value."""
    for row in TABLE:
        for value in tuple(_values(content, row.path)):
            _take(content, row.path)
            yield row, value


def _zeros(content: Mapping[str, Value]) -> Iterator[Note]:
    for key in UNLIMITED:
        path = tuple(key.split("."))
        if any(v == 0 and not isinstance(v, bool) for v in _values(content, path)):
            yield Note((path,), "0 meant no limit, and means now that nothing is kept")


def _copy(content: Mapping[str, Value], depth: int = 2) -> dict[str, Value]:
    """Copy sections as deep as options are: an anchor may hold itself."""
    return {
        name: _copy(value, depth - 1) if depth and isinstance(value, Mapping) else value
        for name, value in content.items()
    }


def _values(content: Mapping[str, Value], path: Path) -> Iterator[Value]:
    """Yield the value at a path, if there is one."""
    *sections, name = path
    section: Value = content
    for inner in sections:
        section = section.get(inner) if isinstance(section, Mapping) else None
    if isinstance(section, Mapping) and name in section:
        yield section[name]


def _take(content: dict[str, Value], path: Path) -> None:
    """Remove what is at a path, and sections that nothing is left in."""
    section = content.get(path[0])
    if len(path) > 1 and isinstance(section, dict):
        _take(section, path[1:])
    if len(path) == 1 or not section:
        del content[path[0]]


def _put(content: dict[str, Value], path: Path, value: Value) -> None:
    name, *inner = path
    if not inner:
        content[name] = value
        return
    section = {} if content.get(name) is None else content[name]
    if isinstance(section, dict):  # anything else is refused as a section
        _put(section, tuple(inner), value)
        content[name] = section
