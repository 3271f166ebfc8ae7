"""Where on a disk the object of a key is: the only code that makes or reads paths.

    site 7/plot          site%207.d/plot.o
    site 7/plot/_/x      site%207.d/plot.d/_.d/x.o
    a very long segment  {240 characters}.c/{the rest}.o

Every part of a path is quoted to lower-case ASCII, so that nothing depends on what a
file system thinks of case, Unicode or reserved names, and ends in `.o` (object), `.d`
(folder) or `.c` (continued), so that none is `.` or `..`, and `x` and `x/y` coexist.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

PART: Final = 240
"""Characters of a quoted segment in one part of a path; file systems take 255 bytes."""

_QUOTED = re.compile(rb"[^a-z0-9._@+=,-]")


def place(key: str) -> str:
    """Return the path of the object *key*, relative to where objects are."""
    *folders, last = key.split("/")
    return "/".join([*(_part(f, "d") for f in folders), _part(last, "o")])


def walk(top: str, prefix: str, after: str) -> Iterator[str]:
    """Yield keys below *top* that begin with *prefix* and come after *after*, sorted.

    Folders that vanish meanwhile are empty, and files that are not ours are passed by.

    Raises:
        OSError: A folder cannot be read.
    """
    base = prefix[: prefix.rfind("/") + 1]
    stack = [iter(_folder(_path(top, base), base))]
    while stack:
        found = next(stack[-1], None)
        if found is None:
            stack.pop()
            continue
        key, path = found
        if not key.startswith(prefix):
            continue
        # Of a folder, `key` is what all keys in it begin with.
        if path.endswith(".d"):
            if key > after or after.startswith(key):
                stack.append(iter(_folder(path, key)))
        elif key > after:
            yield key


def _path(top: str, base: str) -> str:
    return "/".join([top, *(_part(f, "d") for f in base.split("/")[:-1])])


def _part(segment: str, suffix: str) -> str:
    quoted = _QUOTED.sub(lambda m: b"%%%02x" % ord(m[0]), segment.encode()).decode()
    *heads, tail = [quoted[at : at + PART] for at in range(0, len(quoted), PART)] or [
        ""
    ]
    return "".join(f"{head}.c/" for head in heads) + f"{tail}.{suffix}"


def _folder(path: str, base: str) -> list[tuple[str, str]]:
    """Return the keys of objects, and beginnings of keys of folders, with their paths.

    Sorting `x/` for the folder x puts its keys where they belong: after `x-y`, before
    `x0`.
    """
    found = []
    below = [(path, "")]
    while below:
        here, quoted = below.pop()
        for name in _names(here):
            stem, suffix = quoted + name[:-2], name[-1]
            if name.endswith(".c"):
                below.append((f"{here}/{name}", stem))
                continue
            segment = unquote_to_bytes(stem).decode(errors="replace")
            if f"{here}/{name}" == f"{path}/{_part(segment, suffix)}":
                end = "/" if suffix == "d" else ""
                found.append((f"{base}{segment}{end}", f"{here}/{name}"))
    found.sort()
    return found


def _names(path: str) -> list[str]:
    try:
        names = os.listdir(path)  # noqa: PTH208 - paths here are text
    except FileNotFoundError:
        return []
    return [n for n in names if n.isascii() and n.endswith((".o", ".d", ".c"))]
