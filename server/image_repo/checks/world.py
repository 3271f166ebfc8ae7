"""What is checked, by what, and how long that may take."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from image_repo.config import chosen_store
from image_repo.errors import ImageRepoError

if TYPE_CHECKING:
    from image_repo.config import Config

T = TypeVar("T")

PATIENCE: Final = 10.0
"""Seconds that one check may take; all run at once."""


class DoubtError(ImageRepoError):
    """Something may be wrong, or may not be right yet; it is only said."""


@dataclass(frozen=True, slots=True)
class World:
    """What is checked: all options, and where credentials may be."""

    config: Config
    environ: Mapping[str, str]

    @property
    def on_swift(self) -> bool:
        """Whether Swift keeps the images."""
        return chosen_store(self.config, self.environ) == "swift"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that may be wrong.

    Attributes:
        option: Which says it, or what is looked at.
        look: Returns in words what is right; raises what is wrong, or DoubtError.
        needed: Whether there is anything to look at.
    """

    option: str
    look: Callable[[World], Awaitable[str]]
    needed: Callable[[World], bool] = lambda _: True


async def apart(work: Callable[[], T]) -> T:
    """Run *work* in a thread that need not end: a disk or a resolver may hang."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        try:
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())
        except RuntimeError:  # the loop has ended
            return

    def run() -> None:
        try:
            found = work()
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            fault = error
            tell(lambda: future.set_exception(fault))
        else:
            tell(lambda: future.set_result(found))

    threading.Thread(target=run, daemon=True).start()
    return await future
