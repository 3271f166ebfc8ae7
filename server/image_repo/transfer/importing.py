"""`image_repo import`: the images in a folder into a store of originals."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from image_repo.errors import BadImageError, BadRequestError, ConfigError, TooLargeError
from image_repo.formats import SNIFF_BYTES, sniff
from image_repo.names import ImageName, image_name
from image_repo.stores.store import Store, Stored, in_thread, settled
from image_repo.transfer.folder import Candidate, open_file, walk
from image_repo.transfer.moving import (
    Incoming,
    Rules,
    attempted,
    body_of,
    each,
    keep,
)
from image_repo.transfer.progress import Outcome, Progress, Result
from image_repo.transform.headers import Header
from image_repo.transform.pool import Pool

Look = Callable[[ImageName], Awaitable[Stored | None]]

_PAGE: Final = 1000  # images found by one visit to a thread


@dataclass(frozen=True, slots=True)
class Folder:
    """What is imported.

    Attributes:
        path: The folder.
        prefix: Path that all names of images begin with; empty: none.
        upload_bytes: Most bytes of an image.
    """

    path: Path
    prefix: str
    upload_bytes: int


async def import_folder(
    folder: Folder,
    target: Store,
    pool: Pool,
    progress: Progress,
    rules: Rules | None = None,
    look: Look | None = None,
) -> None:
    """Store every image below a folder as if it were uploaded.

    What is put into the target meanwhile, by a server that runs, may be overwritten.

    Args:
        folder: What is imported.
        target: Where each image goes under its name.
        pool: The workers that judge what an image is.
        progress: Told what becomes of each file.
        rules: How; None: the defaults.
        look: How an image is looked for in the target; None: under its name alone.

    Raises:
        ConfigError: There is no such folder, or no name can begin with the prefix.
    """
    rules = rules or Rules()
    await in_thread(_check, folder)
    importer = _Importer(folder, target, pool, rules, look or target.head)

    async def work(item: Candidate | Result) -> None:
        async for result in importer.results(item):
            progress.add(result)

    await each(importer.listing, work, progress, rules.jobs)


def _check(folder: Folder) -> None:
    if not folder.path.is_dir():
        raise ConfigError(f"{str(folder.path)!r} is not a folder")
    try:
        image_name(folder.prefix or "any")
    except BadRequestError as error:
        raise ConfigError(f"option --prefix: {error}") from error


class _Importer:
    def __init__(
        self,
        folder: Folder,
        target: Store,
        pool: Pool,
        rules: Rules,
        look: Look,
    ) -> None:
        self._folder = folder
        self._target = target
        self._pool = pool
        self._rules = rules
        self._look = look
        # The queue before the workers may be shorter than there are jobs.
        self._workers = asyncio.Semaphore(pool.count)

    async def listing(self) -> AsyncGenerator[Candidate | Result, None]:
        found = walk(self._folder.path, self._folder.prefix)
        while page := await in_thread(list, islice(found, _PAGE)):
            for item in page:
                yield item

    async def results(self, item: Candidate | Result) -> AsyncIterator[Result]:
        """Import the first file of a name that is an image; no other may replace it."""
        if isinstance(item, Result):
            yield item
            return
        first = ""
        for path in item.paths:
            result = await attempted(path, self._file(item.name, path, first))
            yield result
            if result.outcome in {Outcome.COPIED, Outcome.WOULD, Outcome.THERE}:
                first = first or path

    async def _file(self, name: ImageName, path: str, first: str) -> Result:
        file = await in_thread(open_file, f"{self._folder.path}/{path}")
        try:
            return await self._opened(name, path, first, file)
        finally:
            await settled(file.close)

    async def _opened(
        self, name: ImageName, path: str, first: str, file: BinaryIO
    ) -> Result:
        size = await in_thread(_size, file, self._folder.upload_bytes)
        body = body_of(file.fileno(), size)
        there = await self._look(name)
        revision = await settled(self._target.revision_of, body)
        if there is not None and there.revision == revision:
            return Result(path, Outcome.THERE)
        header = await self._probe(file, size)
        if first:
            reason = f"{first!r} is image {name!r} already"
            return Result(path, Outcome.CONFLICT, reason=reason)
        media_type = header.format.media_type
        given = Incoming(path, name, body, size, revision, media_type, {})
        return await keep(self._target, given, there, self._rules)

    async def _probe(self, file: BinaryIO, size: int) -> Header:
        async with self._workers:
            return await self._pool.probe(file, size)


def _size(file: BinaryIO, most: int) -> int:
    """Return how many bytes a file has.

    Raises:
        BadImageError: It is empty, or too large and no image anyway.
        TooLargeError: It has more than *most*.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise BadImageError("the file is empty")
    if size > most:
        if sniff(os.pread(file.fileno(), SNIFF_BYTES, 0)) is None:
            raise BadImageError("the bytes are not an image of a format read here")
        raise TooLargeError(f"{size} bytes are more than the {most} allowed")
    return size
