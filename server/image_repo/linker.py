"""Temporary URLs of derived images, given when what they lead to is surely stored."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from image_repo import links
from image_repo.errors import BusyError
from image_repo.flights import Flights, Remembered
from image_repo.names import stored_key
from image_repo.revisions import LAG_SECONDS

if TYPE_CHECKING:
    from image_repo.derivations import Answer, Derivations
    from image_repo.names import DerivedName, Tag
    from image_repo.revisions import Revisions
    from image_repo.stores.store import Store

logger = logging.getLogger(__name__)

KNOWN_SECONDS: Final = LAG_SECONDS
"""How long it is believed that an object is stored; a change of its image is
remembered for as long."""

MARGIN: Final = 300
"""Seconds for which an object stays after the links to it have ended: other machines'
clocks may be wrong, and a link's last second is enough to begin with it."""

TRIES: Final = 3
"""How often what to link to is looked for, while its image is being changed."""


class Signer(Protocol):
    """Makes links to the objects of one store, which work without a credential."""

    async def link(self, key: str, expires: int, filename: str) -> str:
        """Return a link to an object, which need not be there.

        Args:
            key: The object's, in the store.
            expires: Seconds since 1970 at which the link ends.
            filename: What a browser calls the file when it is saved.

        Raises:
            StoreError: What is needed to sign can't be had.
        """
        ...

    async def rotate(self) -> None:
        """Sign with a new key from now on; links made with the one before stay valid.

        Raises:
            ConfigError: The key comes from the configuration.
            StoreError: The key can't be changed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Terms:
    """For how long things are good; all in seconds.

    Attributes:
        lifetime: For which a link is valid at least.
        slack: For which it may be valid longer, so that it can be given again.
        kept_for: For which derived images are stored at least; None: for ever.
    """

    lifetime: int = 3600
    slack: int = 600
    kept_for: int | None = None

    @property
    def stored_for(self) -> int | None:
        """For which derived images have to be stored; None: for ever.

        Twice as long as links need, so that one that is asked for all the time isn't
        stored anew for each of them.
        """
        if self.kept_for is None:
            return None
        return max(self.kept_for, 2 * (self.lifetime + self.slack) + MARGIN)


@dataclass(frozen=True, slots=True)
class Link:
    """A temporary URL, and when it ends."""

    url: str
    expires: datetime


@dataclass(frozen=True, slots=True)
class _Known:
    """An object that is stored.

    Attributes:
        key: In the store.
        until: Seconds since 1970 at which the store may forget it; None: never.
        changes: How many changes of images there had been before it was looked for.
    """

    key: str
    until: float | None
    changes: int

    def lasts(self, until: int) -> bool:
        """Return whether the object is there for links that end then."""
        return self.until is None or self.until >= until + MARGIN


class Linker:
    """Gives links to derived images; an async context manager.

    Each image's change, as `revisions` counts them, makes it forget what it knew.

    Args:
        derivations: Makes what is not stored yet.
        revisions: Which originals are current.
        store: What the links lead to: where derived images are kept, under their keys.
        signer: Makes links to objects of *store*.
        terms: How long things are good.
        now: Seconds since 1970.

    Attributes:
        terms: As given; links that are given later have others if they are changed.
    """

    def __init__(
        self,
        derivations: Derivations,
        revisions: Revisions,
        store: Store,
        signer: Signer,
        terms: Terms,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._derivations = derivations
        self._revisions = revisions
        self._store = store
        self._signer = signer
        self.terms = terms
        self._now = now
        self._known: Remembered[tuple[DerivedName, Tag], _Known] = Remembered(
            KNOWN_SECONDS
        )
        self._storing: Flights[tuple[DerivedName, Tag], _Known | None] = Flights()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is being stored."""
        await self._storing.landed(lambda _: True)

    async def link(self, name: DerivedName) -> Link:
        """Return a link to a derived image, which is stored until after its end.

        Raises:
            BusyError: The image is being changed.
            StoreError: It can't be stored, or the link can't be signed.
            ImageRepoError: As deriving it.
        """
        end = links.end(self._now(), self.terms.lifetime, self.terms.slack)
        for _ in range(TRIES):
            key = await self._stored(name, end)
            if key is not None:
                url = await self._signer.link(key, end, links.filename(name))
                return Link(url, datetime.fromtimestamp(end, UTC))
        raise BusyError(f"the image {name.image!r} is being changed")

    async def _stored(self, name: DerivedName, end: int) -> str | None:
        """Return the key of the stored image; None: it has to be looked for again."""
        tag = await self._revisions.tag(name.image)
        known = self._known.get((name, tag))
        if known is None or not self._holds(name, known, end):
            # Who comes while another looks for it takes what that one finds, unless
            # this is no good here; then one of them looks again.
            known = await self._storing.do(
                (name, tag), lambda: self._store_it(name, tag, end)
            )
        return known.key if known and self._holds(name, known, end) else None

    def _holds(self, name: DerivedName, known: _Known, end: int) -> bool:
        changed = self._revisions.changed_since(name.image, known.changes)
        return known.lasts(end) and not changed

    async def _store_it(self, name: DerivedName, tag: Tag, end: int) -> _Known | None:
        """Have an image stored until after *end*; None: it has changed meanwhile."""
        changes = self._revisions.changes
        known = await self._look(name, tag, changes)
        if known is None or not known.lasts(end):
            answer = await self._derivations.get(name)
            if not answer.lasting:
                return None
            tag = answer.tag
            known = await self._put(name, answer, changes)
            if self._revisions.changed_since(name.image, changes):
                # What made the change may have looked for what to delete before this.
                await self._store.delete(known.key)
                return None
        self._known.put((name, tag), known)
        return known

    async def _look(self, name: DerivedName, tag: Tag, changes: int) -> _Known | None:
        key = stored_key(name, tag)
        stored = await self._store.head(key)
        if stored is None:
            return None
        ends = stored.expires
        return _Known(key, None if ends is None else ends.timestamp(), changes)

    async def _put(self, name: DerivedName, answer: Answer, changes: int) -> _Known:
        lifetime = self.terms.stored_for
        key = stored_key(name, answer.tag)
        asked = self._now()
        await self._store.put(
            key,
            io.BytesIO(answer.derived.body),
            media_type=answer.derived.media_type,
            lifetime=lifetime,
        )
        logger.info("stored %s for a temporary URL", name)
        return _Known(key, None if lifetime is None else asked + lifetime, changes)
