"""`image_repo copy`: all originals of one store into another.

A copy has the source's revision in its metadata. So a later run knows what is there
already without fetching anything, in both directions and between stores whose
revisions are different checksums.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image_repo.errors import ConfigError
from image_repo.names import MARK
from image_repo.stores.containers import NAME, NAME_BYTES
from image_repo.stores.store import Object, Store, Stored, settled
from image_repo.transfer.moving import (
    Incoming,
    Rules,
    attempted,
    body_of,
    each,
    keep,
)
from image_repo.transfer.progress import Outcome, Progress, Result

COPIED_FROM: Final = "copied-from"
"""The word of metadata that holds the revision which the source had."""


@dataclass(frozen=True, slots=True)
class Disk:
    """The originals in a data directory, as the option `data` names it."""

    data: Path

    @property
    def originals(self) -> Path:
        """The directory of their store."""
        return self.data / "originals"


@dataclass(frozen=True, slots=True)
class Swift:
    """The originals in a container; None: in the one that is configured."""

    container: str | None


Place = Disk | Swift


def read_place(text: str) -> Place:
    """Return the place that *text* names: `disk:DIR`, `swift` or `swift:CONTAINER`.

    Raises:
        ConfigError: It names none.
    """
    word, colon, name = text.partition(":")
    match word, colon, name:
        case "disk", ":", name if name:
            return Disk(Path(name))
        case "swift", "", _:
            return Swift(None)
        case "swift", ":", name if _is_container(name):
            return Swift(name)
        case _:
            raise ConfigError(
                f"{text!r} is no place: it must be disk:DIR, swift or swift:CONTAINER"
            )


def _is_container(name: str) -> bool:
    return bool(re.fullmatch(NAME, name)) and len(name.encode()) <= NAME_BYTES


def check_source(place: Place) -> None:
    """Refuse a directory without originals; opened as a store it would get them.

    Raises:
        ConfigError: It has none.
    """
    if isinstance(place, Disk) and not place.originals.is_dir():
        raise ConfigError(
            f"there are no originals in {str(place.data)!r}: it must be a directory"
            " that was the option data of a server"
        )


async def copy(
    source: Store, target: Store, progress: Progress, rules: Rules | None = None
) -> None:
    """Copy all originals, with their media types and metadata.

    Derived images, which one container may hold as well, are left out. What is put into
    the source meanwhile may be copied or not; an object that is replaced there comes as
    one of its two revisions. What is put into the target meanwhile, by a server that
    runs, may be overwritten.
    """
    rules = rules or Rules()

    def listing() -> AsyncGenerator[str, None]:
        return _originals(source)

    async def work(key: str) -> None:
        progress.add(await attempted(key, _copied(key, source, target, rules)))

    await each(listing, work, progress, rules.jobs)


async def _originals(source: Store) -> AsyncGenerator[str, None]:
    async for key in source.list():
        if f"/{MARK}/" not in key:
            yield key


async def _copied(key: str, source: Store, target: Store, rules: Rules) -> Result:
    here = await source.head(key)
    if here is None:
        return Result(key, Outcome.GONE)
    there = await target.head(key)
    if there is not None and _same(here, there):
        return Result(key, Outcome.THERE)
    if there is None and rules.dry_run:
        return Result(key, Outcome.WOULD, here.size)
    found = await source.fetch(key)
    if found is None:
        return Result(key, Outcome.GONE)
    try:
        return await _moved(found, there, target, rules)
    finally:
        # In a thread: giving back the blocks of a large file takes a while.
        await settled(found.close)


async def _moved(
    found: Object, there: Stored | None, target: Store, rules: Rules
) -> Result:
    stored = found.stored
    body = body_of(found.file.fileno(), found.size)
    revision = await settled(target.revision_of, body)
    if there is not None and there.revision == revision:
        return Result(stored.key, Outcome.THERE)
    metadata = {**stored.metadata, COPIED_FROM: stored.revision}
    given = Incoming(
        label=stored.key,
        key=stored.key,
        body=body,
        size=found.size,
        revision=revision,
        media_type=stored.media_type,
        metadata=metadata,
    )
    return await keep(target, given, there, rules)


def _same(here: Stored, there: Stored) -> bool:
    """Return whether both are known to be the same bytes, without reading them."""
    return here.size == there.size and (
        here.revision == there.revision
        or here.revision == there.metadata.get(COPIED_FROM)
        or there.revision == here.metadata.get(COPIED_FROM)
    )
