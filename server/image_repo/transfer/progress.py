"""What becomes of each object that is moved: counted, shown on the way, summed up."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Final, NoReturn, Self, TextIO

from tqdm import tqdm

GIVE_UP: Final = 20
"""Failures in a row after which the store is taken to be down: more than are moved at
once by default, so that one short fault, which fails all under way, is survived."""

LINE_SECONDS: Final = 10.0
"""Between lines of progress where there is no terminal."""

WRONG: Final = 1
"""Exit status when something is not as it should be in the target."""

INTERRUPTED: Final = 130
"""Exit status after Ctrl-C, as shells have it: 128 and the number of SIGINT."""


class Outcome(Enum):
    """What became of an object; the value is its word in a summary."""

    COPIED = "copied"
    WOULD = "would copy"
    THERE = "already there"
    CONFLICT = "conflicts"
    NOT_IMAGE = "not images"
    GONE = "gone meanwhile"
    FAILED = "failed"


_LISTED = {
    Outcome.WOULD: "would copy",
    Outcome.CONFLICT: "conflict",
    Outcome.NOT_IMAGE: "not an image",
    Outcome.GONE: "gone meanwhile",
    Outcome.FAILED: "failed",
}
"""Outcomes that have a line for each object, and how it begins."""

_RARE = {Outcome.WOULD, Outcome.GONE}
"""Outcomes that a summary leaves out when there are none."""

_SIZED = {Outcome.COPIED, Outcome.WOULD}
"""Outcomes whose bytes a summary gives."""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one object.

    Attributes:
        key: The object's key, or the path of a file.
        outcome: What became of it.
        size: Bytes in its body, where they were moved or would be.
        reason: Why, where the outcome alone does not say.
        systemic: Whether it failed for a reason that others may share.
    """

    key: str
    outcome: Outcome
    size: int = 0
    reason: str = ""
    systemic: bool = False


@dataclass(slots=True)
class Summary:
    """All results so far.

    Attributes:
        counts: How many objects had each outcome.
        sizes: Bytes in their bodies.
        stopped: Why not all objects were looked at; empty: they were.
        interrupted: Whether somebody pressed Ctrl-C.
    """

    counts: Counter[Outcome] = field(default_factory=Counter)
    sizes: Counter[Outcome] = field(default_factory=Counter)
    stopped: str = ""
    interrupted: bool = False
    _failures: int = 0

    def add(self, result: Result) -> None:
        """Count a result; too many failures in a row stop the whole."""
        self.counts[result.outcome] += 1
        self.sizes[result.outcome] += result.size
        self._failures = self._failures + 1 if result.systemic else 0
        if self._failures >= GIVE_UP and not self.stopped:
            self.stopped = f"{GIVE_UP} failures in a row, the last: {result.reason}"

    @property
    def status(self) -> int:
        """The exit status: 0 when the target has all that it should."""
        if self.interrupted:
            return INTERRUPTED
        wrong = self.counts[Outcome.CONFLICT] + self.counts[Outcome.FAILED]
        return WRONG if wrong or self.stopped else 0

    def __str__(self) -> str:
        """Return all counts in one line."""
        return ", ".join(
            f"{outcome.value} {self.counts[outcome]}"
            + (f" ({in_words(self.sizes[outcome])})" if outcome in _SIZED else "")
            for outcome in Outcome
            if self.counts[outcome] or outcome not in _RARE
        )


class Progress:
    """Shows on a stream how far a transfer is; an async context manager.

    A terminal has a bar. Anything else, such as a log, has a line every so often.

    Args:
        stream: Where it is shown, usually the standard error output.
        every: Seconds between two lines.
        clock: Monotonic seconds.

    Attributes:
        summary: All results so far.
    """

    def __init__(
        self,
        stream: TextIO,
        every: float = LINE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.summary = Summary()
        self._stream = stream
        self._every = every
        self._clock = clock
        self._done = 0
        self._total: int | None = None
        self._bar: tqdm[NoReturn] | None = None
        self._lines: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._begun = self._clock()
        if self._stream.isatty():
            self._bar = tqdm(
                file=self._stream, unit=" images", dynamic_ncols=True, leave=False
            )
        else:
            self._lines = asyncio.create_task(self._tell())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lines is not None:
            self._lines.cancel()
        if self._bar is not None:
            self._bar.close()

    def add(self, result: Result) -> None:
        """Count a result, and say it if it is not what was hoped for."""
        self.summary.add(result)
        if result.outcome in _LISTED:
            # Quoted, since a key may hold what a terminal takes for a command.
            reason = f": {result.reason}" if result.reason else ""
            self.say(f"{_LISTED[result.outcome]}: {result.key!r}{reason}")

    def step(self) -> None:
        """Show that one more image has been dealt with."""
        self._done += 1
        if self._bar is not None:
            self._bar.set_postfix_str(self._moved(), refresh=False)
            self._bar.update()

    def expect(self, total: int) -> None:
        """Show how many images there will be."""
        self._total = total
        if self._bar is not None:
            self._bar.total = total
            self._bar.refresh()

    def say(self, line: str) -> None:
        """Write a line that stays, above the bar if there is one."""
        tqdm.write(line, file=self._stream)

    def stop(self, reason: str) -> None:
        """Let no other image be begun."""
        self.summary.stopped = self.summary.stopped or reason

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            of = "" if self._total is None else f" of {self._total}"
            self.say(f"{self._done}{of} images, {self._moved()}: {self.summary}")

    def _moved(self) -> str:
        size = self.summary.sizes[Outcome.COPIED]
        rate = size / max(self._clock() - self._begun, 0.001)
        return f"{in_words(size)}, {in_words(rate)}/s"


def run(work: Callable[[Progress], Awaitable[None]]) -> int:
    """Do *work* on a new event loop; return the exit status.

    Progress, and what is wrong with single objects, goes to the standard error output,
    the summary to the standard output, after Ctrl-C as well.

    Raises:
        ImageRepoError: The work could not begin.
    """
    progress = Progress(sys.stderr)
    summary = progress.summary
    try:
        asyncio.run(_shown(work, progress))
    except KeyboardInterrupt:
        summary.interrupted = True
        progress.say("interrupted: the same command goes on from here")
    if summary.stopped:
        progress.say(f"stopped: {summary.stopped}")
    elif not (summary.counts or summary.interrupted):
        progress.say("nothing was found")
    sys.stdout.write(f"{summary}\n")
    return summary.status


async def _shown(
    work: Callable[[Progress], Awaitable[None]], progress: Progress
) -> None:
    async with progress:
        await work(progress)


def in_words(size: float) -> str:
    """Return a number of bytes as people read it, such as 34.5 MB."""
    if size < 1000:  # noqa: PLR2004
        return f"{size:.0f} bytes"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95:  # noqa: PLR2004 - what would be rounded to 1000
            return f"{size:.1f} {unit}"
    return f"{size / 1000:.1f} TB"
