"""What is wrong with the nginx in front, said where each request shows it again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger(__name__)

QUIET: Final = 60.0
"""Seconds between two lines in the log that say the same."""

CURE: Final = (
    "write its configuration again by `image_repo nginx-conf` and reload it; where"
    " options of the server have changed since it began, restart that first"
)
"""What to do where nginx and the server have been told different things."""


class Complaints:
    """Complains of nginx in the log, not too often.

    Args:
        clock: Seconds that never run backwards.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._quiet_until: dict[str, float] = {}

    def log(self, sentence: str) -> None:
        """Log one of a few sentences that say in what nginx differs."""
        now = self._clock()
        if now >= self._quiet_until.get(sentence, now):
            self._quiet_until[sentence] = now + QUIET
            logger.error("%s: %s", sentence, CURE)
