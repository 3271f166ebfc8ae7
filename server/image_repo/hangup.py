"""SIGHUP: an order to read the configuration again, or the end of the terminal."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import suppress


class Hangup:
    """Tells the one from the other; to be made before any child is started.

    Children begin deaf to the signal, so that none dies of it before it listens.
    """

    def __init__(self) -> None:
        # Who starts a program by nohup wants it to outlive the terminal.
        asked = signal.signal(signal.SIGHUP, signal.SIG_IGN) is not signal.SIG_IGN
        self._terminal = asked and _terminal()

    def heed(self, reread: Callable[[], None], stop: Callable[[], None]) -> None:
        """Call *reread* at each signal from now on; *stop* where the terminal is gone.

        The calls are made by the running loop, until it ends. A process that *reread*
        signals may have ended.
        """

        def act() -> None:
            lost = self._terminal and not _terminal()
            with suppress(ProcessLookupError):
                (stop if lost else reread)()

        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, act)


def _terminal() -> bool:
    """Return whether this process has a terminal that controls it; see tty(4)."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
