"""What is said about an image besides itself, and about the server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

from aiohttp import web

from image_repo import names
from image_repo.errors import ForbiddenError, StoreError
from image_repo.names import BASE
from image_repo.peers import PEER_HEADER
from image_repo.web import answers, openapi

if TYPE_CHECKING:
    from image_repo.names import DerivedName, ImageName
    from image_repo.service import Original
    from image_repo.web.handlers import Room

VERSION: Final = version("image-repo")

LOOK_SECONDS: Final = 2.0
"""How long an explanation waits for what the store says; it stands without that."""

View = Callable[[web.Request, "Room", "ImageName"], Awaitable[web.StreamResponse]]
Plain = Callable[[web.Request, "Room"], Awaitable[web.StreamResponse]]


# Of an image


def information(room: Room, original: Original) -> dict[str, object]:
    """Return what the upload's answer and info.json say of an original."""
    tag = room.service.revisions.tag_of(original.revision)
    return answers.information(original, tag, room.images, room.http)


async def info(
    _request: web.Request, room: Room, image: ImageName
) -> web.StreamResponse:
    """Say what is known about an original."""
    original = await room.service.describe(image)
    return answers.as_json(
        information(room, original), headers={"ETag": f'"{original.revision}"'}
    )


async def purge(
    request: web.Request, room: Room, image: ImageName
) -> web.StreamResponse:
    """Forget all that was made from an original; if a peer asks, only here."""
    secret = request.headers.get(PEER_HEADER)
    if secret is None:
        await room.service.purge(image)
    elif room.peers.own_secret(secret):
        await room.service.heard(image, onwards=room.peers.from_afar(secret))
    else:
        raise ForbiddenError(f"{PEER_HEADER} is not a secret of this server")
    return web.Response(status=HTTPStatus.NO_CONTENT)


VIEWS: Mapping[str, View] = {"info.json": info, "purge": purge}


async def explain(room: Room, name: DerivedName) -> web.Response:
    """Say what a derived image is, where it is, and what it would take to make it.

    Nothing is made, and no level is filled.

    Raises:
        UnknownImageError: There is no such image.
        BadRequestError: The kind can't be written here.
        StoreError: The store failed, and no revision is known.
    """
    service = room.service
    service.derivations.check_kind(name.format)
    revision = await service.revisions.get(name.image)
    tag = service.revisions.tag_of(revision)
    assumed = service.assumed(name.image)
    return answers.as_json(
        {
            "name": str(name),
            "path": name.path,
            "versioned_path": name.versioned_path(tag),
            "tag": tag,
            "revision": revision,
            "assumed": assumed,
            "key": names.stored_key(name, tag),
            "etag": names.etag(tag, name),
            "cache_tag": names.cache_tag(name.image),
            "modifiers": dict(pair for m in name.modifiers for pair in m.tokens()),
            "kind": name.format.kind,
            "media_type": name.media_type,
            "nginx": {"key": f"{room.recipe}{BASE}/{name}"},
            "original": None if assumed else await _original(room, name.image),
            "found": await service.where(tag, name),
            "failure": service.failure(tag, name),
            "cost": await service.cost(name, revision),
        }
    )


async def _original(room: Room, image: ImageName) -> dict[str, object] | None:
    """Return what the store says of an original; None: it does not."""
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            stored = await room.service.revisions.look(image)
    except (StoreError, TimeoutError):
        return None
    if stored is None:
        return None
    return {
        "bytes": stored.size,
        "media_type": stored.media_type,
        "uploaded": stored.modified.isoformat(),
    }


# Of the server


async def healthz(_request: web.Request, room: Room) -> web.StreamResponse:
    """Say that the process lives, and what it can do."""
    pool = room.pool
    return answers.as_json(
        {
            "status": "ok",
            "version": VERSION,
            "imagemagick": pool.magick,
            "kinds": sorted(pool.kinds),
            "workers": pool.statistics(),
            "found_in": room.service.found,
        }
    )


async def readyz(_request: web.Request, room: Room) -> web.StreamResponse:
    """Say whether a request for an image would succeed now."""
    await room.service.ready()
    return answers.as_json({"status": "ready"})


async def described(_request: web.Request, room: Room) -> web.StreamResponse:
    """Describe the interface to programs."""
    return answers.as_json(openapi.document(VERSION, room.http.public_url))


PLAIN: Mapping[str, Plain] = {
    "/healthz": healthz,
    "/readyz": readyz,
    openapi.PATH: described,
}
