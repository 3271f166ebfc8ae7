"""What nginx may hold: the canonical paths that were answered of late."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

REMEMBERED: Final = 100_000
"""How many answered paths are remembered: about 40 MB at most."""


class Answered:
    """The canonical paths that nginx may hold: those answered a short while ago.

    Args:
        keep: Seconds for which an answer may be held, the longest s-maxage.
        limit: How many paths are remembered; those answered longest ago are dropped.
        clock: Seconds that never run backwards.
    """

    def __init__(
        self,
        keep: float,
        limit: int = REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keep = keep
        self._limit = limit
        self._clock = clock
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._paths: dict[str, dict[str, None]] = {}

    def __len__(self) -> int:
        return len(self._until)

    def keep_for(self, keep: float) -> None:
        """Remember for *keep* seconds at least; never for less than up to now.

        What was answered before may still be held for as long as it said.
        """
        self._keep = max(self._keep, keep)

    def note(self, image: str, path: str) -> None:
        """Remember that *path*, made from *image*, is being answered."""
        now = self._clock()
        self._until[image, path] = now + self._keep
        self._until.move_to_end((image, path))
        self._paths.setdefault(image, {})[path] = None
        self._expire(now)

    def paths(self, image: str) -> tuple[str, ...]:
        """Return what of *image* nginx may hold."""
        self._expire(self._clock())
        return tuple(self._paths.get(image, ()))

    def _expire(self, now: float) -> None:
        # every answer is kept equally long, so the first is the next to expire
        while self._until:
            (image, path), until = next(iter(self._until.items()))
            if until > now and len(self._until) <= self._limit:
                return
            del self._until[image, path]
            del self._paths[image][path]
            if not self._paths[image]:
                del self._paths[image]
