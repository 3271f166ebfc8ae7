"""What nginx's access log tells of its cache, as text or as JSON.

A log may be of any length: what is kept of it is bounded. Sums are exact. So are the
slowest derivations. Of refused clients `CLIENTS` are counted, and of images `NAMES`
derived names: whichever has more is told to within what its table says, and those with
little are forgotten first. All of it takes some 100 MB at most, and ten million lines
take a few minutes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from image_repo.accesslog import CACHES, HITS

if TYPE_CHECKING:
    from image_repo.accesslog import Line

CLIENTS: Final = 10_000
"""Refused clients that are counted at once."""

NAMES: Final = 200_000
"""Different derived names that are remembered at once, of all images."""

_DERIVED: Final = ("derived", "intermediate", "")
"""Levels of answers that were made; an error has none."""

_LIMIT: Final = "limit"
"""Level of what nginx has refused."""

_WHO: Final = ("nginx", "server")
"""Who refuses."""

_REFUSED: Final = (429, 503)
"""Statuses of what was refused, by nginx or by the server."""


# -- bounded tables --------------------------------------------------------------------


@dataclass(slots=True)
class Frequent:
    """Counts texts, of which there may be any number (Misra and Gries, 1982).

    Attributes:
        limit: How many are counted at once. None is counted too low by more than one in
            so many of all that were added.
        counts: Of those that are left.
        missed: By how much a count may be too low.
    """

    limit: int = CLIENTS
    counts: Counter[str] = field(default_factory=Counter)
    missed: int = 0

    def add(self, text: str) -> None:
        """Count one."""
        if text in self.counts or len(self.counts) < self.limit:
            self.counts[text] += 1
            return
        self.missed += 1
        self.counts = Counter({t: n - 1 for t, n in self.counts.items() if n > 1})


@dataclass(slots=True)
class Spread:
    """Counts the different derived names of each image.

    Attributes:
        limit: How many names are remembered at once.
        names: Their hashes, by image.
        held: How many there are.
        least: The most that any image had that was forgotten; 0: none was.
    """

    limit: int = NAMES
    names: dict[str, set[int]] = field(default_factory=dict)
    held: int = 0
    least: int = 0

    def add(self, name: str) -> None:
        """Count a canonical name."""
        image, mark, text = name.rpartition("/_/")
        if not mark:
            return
        known = self.names.setdefault(image.partition("/_/")[0], set())
        self.held -= len(known)
        known.add(hash(text))
        self.held += len(known)
        if self.held > self.limit:
            self._forget()

    def _forget(self) -> None:
        """Drop the images with the fewest names, until there is room again."""
        for image, known in sorted(self.names.items(), key=lambda row: len(row[1])):
            if self.held <= self.limit // 2:
                return
            del self.names[image]
            self.held -= len(known)
            self.least = max(self.least, len(known))


@dataclass(slots=True)
class Slowest:
    """Keeps the slowest answers, one of each name.

    Attributes:
        limit: How many.
        lines: By name.
        floor: Seconds that none of so many is below.
    """

    limit: int
    lines: dict[str, Line] = field(default_factory=dict)
    floor: float = -1.0

    def add(self, line: Line) -> None:
        """Keep it if it is among the slowest."""
        if line.server_seconds <= self.floor:
            return
        known = self.lines.get(line.name)
        if known is None or line.server_seconds > known.server_seconds:
            self.lines[line.name] = line
        if len(self.lines) > self.limit:
            quickest = min(self.lines.values(), key=lambda one: one.server_seconds)
            self.floor = quickest.server_seconds
            del self.lines[quickest.name]


# -- the report ------------------------------------------------------------------------


class Report:
    """What the lines of a log come to.

    Args:
        top: How many rows the tables have that may have any number.
    """

    def __init__(self, top: int = 10) -> None:
        self._top = top
        self._lines = 0
        self._unread = 0
        self._times = ("", "")
        self._requests: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._refusals: Counter[str] = Counter()
        self._slowest = Slowest(top)
        self._spread = Spread()
        self._refused = Frequent()

    def add(self, line: Line | None) -> None:
        """Add one line; None: one that can't be read."""
        self._lines += 1
        if line is None:
            self._unread += 1
            return
        self._times = (self._times[0] or line.time, line.time)
        self._statuses[line.status] += 1
        if line.status in _REFUSED or line.level == _LIMIT:
            self._refusals["nginx" if line.level == _LIMIT else "server"] += 1
            self._refused.add(line.client)
            return
        if not line.cache:
            return
        self._requests[line.cache] += 1
        self._bytes[line.cache] += line.size
        self._spread.add(line.name)
        if line.cache not in HITS and line.level in _DERIVED:
            self._slowest.add(line)

    def json(self) -> str:
        """Return it as JSON; *notes* says which tables are not exact, and how far."""
        said = {
            "lines": self._lines,
            "unreadable": self._unread,
            "first": self._times[0],
            "last": self._times[1],
            "hits": self._hits(),
            "refusals": {who: self._refusals[who] for who in _WHO},
            **{table.key: table.rows for table in self._tables()},
            "notes": {table.key: table.note for table in self._tables() if table.note},
        }
        return json.dumps(said, indent=2) + "\n"

    def text(self) -> str:
        """Return it as tables of fixed width."""
        lines = [f"{self._lines:,} lines, {self._unread:,} of them unreadable"]
        if self._times[0]:
            lines.append(f"from {_shown(self._times[0])} to {_shown(self._times[1])}")
        if self._requests.total():
            hits = self._hits().items()
            said = ", ".join(f"{100 * share:.1f} % of {what}" for what, share in hits)
            lines.append(f"hits: {said}")
        if self._refusals.total():
            said = ", ".join(f"{self._refusals[who]:,} by {who}" for who in _WHO)
            lines.append(f"refused, which is neither hit nor miss: {said}")
        for table in self._tables():
            lines += ["", table.title, *([f"({table.note})"] if table.note else [])]
            lines += _drawn(table.rows)
        return "\n".join(lines) + "\n"

    def _hits(self) -> dict[str, float]:
        return {"requests": _share(self._requests), "bytes": _share(self._bytes)}

    def _tables(self) -> tuple[_Table, ...]:
        slowest = sorted(
            self._slowest.lines.values(), key=lambda line: -line.server_seconds
        )
        spread = sorted(
            ((image, len(known)) for image, known in self._spread.names.items()),
            key=lambda row: (-row[1], row[0]),
        )
        caches, refused = self._requests, self._refused
        return (
            _Table(
                "cache",
                "What nginx's cache said",
                _rows(
                    ("cache", "requests", "bytes"),
                    [(s, caches[s], self._bytes[s]) for s in CACHES if caches[s]],
                ),
            ),
            _Table(
                "statuses",
                "Statuses",
                _rows(("status", "requests"), sorted(self._statuses.items())),
            ),
            _Table(
                "slowest",
                "Slowest derivations",
                _rows(
                    ("seconds", "status", "name", "time"),
                    [
                        (s.server_seconds, str(s.status), s.name, s.time)
                        for s in slowest
                    ],
                ),
            ),
            _Table(
                "fragmented",
                "Images with the most derived names",
                _rows(("names", "image"), [(n, i) for i, n in spread[: self._top]]),
                _note("each may have {} names more", self._spread.least),
            ),
            _Table(
                "refused",
                "Clients refused most often",
                _rows(
                    ("requests", "client"),
                    [(n, c) for c, n in refused.counts.most_common(self._top)],
                ),
                _note("each may be {} requests more", refused.missed),
            ),
        )


@dataclass(frozen=True, slots=True)
class _Table:
    """One part of the report; *key* is its name in JSON."""

    key: str
    title: str
    rows: list[dict[str, object]]
    note: str = ""


def _rows(
    heads: Sequence[str], rows: Iterable[Sequence[object]]
) -> list[dict[str, object]]:
    return [dict(zip(heads, row, strict=True)) for row in rows]


def _share(counts: Counter[str]) -> float:
    """Return the share of hits; what the server asks to purge is no request."""
    total = sum(counts[status] for status in CACHES if status != "BYPASS")
    return sum(counts[status] for status in HITS) / total if total else 0.0


def _note(text: str, number: int) -> str:
    return text.format(number) if number else ""


def _drawn(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """Return lines with columns as wide as they need; numbers stand on the right."""
    if not rows:
        return ["  none"]
    heads = list(rows[0])
    cells = [heads, *([_shown(row[head]) for head in heads] for row in rows)]
    widths = [max(len(line[at]) for line in cells) for at in range(len(heads))]
    right = [not isinstance(rows[0][head], str) for head in heads]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in cells
    ]


def _shown(value: object) -> str:
    """Return a value for a terminal, which no name may command."""
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, int):
        return f"{value:,}"
    return "".join(
        c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value)
    )
