"""Selections: the images below a path, or those of them that a pattern is found in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Final, ParamSpec, Self, TypeVar

from image_repo import patterns
from image_repo.errors import BadRequestError
from image_repo.stores.store import reading

if TYPE_CHECKING:
    from image_repo.names import ImageName
    from image_repo.patterns import Pattern

P = ParamSpec("P")
T = TypeVar("T")

PAGE: Final = 256
"""Names that are searched before others get their turn: about a millisecond."""

SPARE_SECONDS: Final = 0.5
NAME_SECONDS: Final = 10e-6
"""Time of a processor that a pattern may take, at once and for each name: three times
what honest ones take. RE2 needs no exponential time, but `(.{0,10}a){15}x` takes 5 ms
for a long name."""


class Selector:
    """Chooses images by path and pattern; an async context manager.

    All patterns share one thread, in turns of a page, so that they never take more than
    one core, and none of the threads that stores need.

    Args:
        names: Yields the names of all images that begin with a text.
        most: How many images may be chosen at once.
    """

    def __init__(
        self, names: Callable[[str], AsyncIterator[ImageName]], most: int
    ) -> None:
        self._names = names
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="patterns")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    async def select(self, path: ImageName, regex: str | None) -> list[ImageName]:
        """Return the names of all images strictly below *path*, in order.

        Args:
            path: Without the slash that follows it.
            regex: Text of a pattern that must be found in the whole name; None: all.

        Raises:
            BadRequestError: There are more than may be chosen at once, or the pattern
                is not allowed or takes too long; says what is allowed.
            StoreError: The store failed.
        """
        pattern = None if regex is None else await self.compiled(regex)
        found: list[ImageName] = []
        async with aclosing(self._below(path, pattern)) as chosen:
            async for image in chosen:
                if len(found) == self._most:
                    raise BadRequestError(
                        f"more than {self._most} images are chosen: choose fewer by a"
                        " longer path, or by the parameter 'regex'"
                    )
                found.append(image)
        return found

    async def compiled(self, text: str) -> Pattern:
        """Return the pattern of a text.

        Raises:
            BadRequestError: It is not allowed; says what is.
        """
        return await self._in_thread(patterns.compile_, text)

    async def matching(
        self,
        some: AsyncIterator[T],
        pattern: Pattern,
        name: Callable[[T], str] = str,
    ) -> AsyncGenerator[T, None]:
        """Yield those of *some* in whose *name* a pattern is found.

        Raises:
            BadRequestError: It takes too long.
        """
        search = _Search(pattern)
        page: list[T] = []
        async for one in some:
            page.append(one)
            if len(page) == PAGE:
                for found in await self._in_thread(search.found_in, page, name):
                    yield found
                page = []
        for found in await self._in_thread(search.found_in, page, name):
            yield found

    async def _below(
        self, path: ImageName, pattern: Pattern | None
    ) -> AsyncGenerator[ImageName, None]:
        prefix = beginning(f"{path}/", "" if pattern is None else pattern.prefix)
        if prefix is None:
            return
        names = self._names(prefix)
        if pattern is None:
            async for name in names:
                yield name
            return
        async with aclosing(self.matching(names, pattern)) as matching:
            async for name in matching:
                yield name

    async def _in_thread(
        self, func: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        return await reading(lambda: func(*args, **kwargs), self._thread)


class _Search:
    """A pattern being searched for, and what it has taken so far."""

    def __init__(self, pattern: Pattern) -> None:
        self._pattern = pattern
        self._left = SPARE_SECONDS

    def found_in(self, some: list[T], name: Callable[[T], str]) -> list[T]:
        """Return those of *some* in whose name it is found; blocks."""
        found = []
        before = time.thread_time()
        for one in some:
            if self._pattern.matches(name(one)):
                found.append(one)
            now = time.thread_time()
            self._left += NAME_SECONDS - (now - before)
            before = now
            if self._left < 0:
                raise BadRequestError(
                    f"parameter {patterns.PARAMETER!r} is {self._pattern.text[:40]!r}:"
                    " it must be simpler, for it takes too long to search for; repeat"
                    " less within repetitions, or begin it with ^ and what the names"
                    " begin with"
                )
        return found


def beginning(one: str, other: str) -> str | None:
    """Return what begins all names that begin with both; None: there can't be any."""
    if one.startswith(other):
        return one
    return other if other.startswith(one) else None
