"""Which kind an image comes in where the URL leaves it open."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from image_repo.assumptions import Assumptions
from image_repo.formats import Format, by_kind
from image_repo.web.accept import outright

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from image_repo.names import ImageName
    from image_repo.web.handlers import Room

logger = logging.getLogger(__name__)

ASSUMES_HEADER: Final = "X-Image-Repo-Assumes"
"""Carries what nginx's configuration takes for granted."""

GRAPHICS, PHOTOGRAPHS = by_kind("png"), by_kind("jpg")
"""What comes to those who accept none of the better kinds."""


def by_accept(header: str, kinds: Sequence[str]) -> Format | None:
    """Return the one of *kinds* that a client likes best; None: it names none.

    nginx decides by the same rule in what `nginx_maps.accepted` makes of it.
    """
    rows = {by_kind(kind).media_type: by_kind(kind) for kind in kinds}
    found = outright(header, tuple(rows))
    return None if found is None else rows[found]


async def choose(request: web.Request, room: Room, image: ImageName) -> Format:
    """Return the kind in which an image suits a client best.

    Within what everybody can show it depends on the original alone.

    Raises:
        UnknownImageError: There is no such image.
        StoreError: The store failed.
    """
    kinds = [kind for kind in room.http.auto if kind in room.pool.kinds]
    accepted = by_accept(",".join(request.headers.getall("Accept", ())), kinds)
    if accepted is not None:
        return accepted
    return GRAPHICS if await room.service.graphics.has(image) else PHOTOGRAPHS


def check_kinds(room: Room) -> None:
    """Warn of kinds that are to be chosen and that can't be written here."""
    for kind in room.http.auto:
        if kind not in room.pool.kinds:
            logger.warning(
                "%s can't write %s, which http.auto_kinds names; it is never chosen",
                room.pool.magick,
                kind,
            )


def assumed(room: Room) -> str:
    """Return what nginx should take for granted, as `ASSUMES_HEADER` has it."""
    return str(Assumptions.of(room.images, room.http.auto))
