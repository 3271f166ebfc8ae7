"""Answers about links, and what the links to this server lead to."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo import links
from image_repo.errors import UnknownImageError
from image_repo.web import answers
from image_repo.web.validators import not_modified

if TYPE_CHECKING:
    from image_repo.linker import Linker
    from image_repo.links import LinkRequest
    from image_repo.names import DerivedName
    from image_repo.stores.linkkeys import LinkKeys
    from image_repo.stores.store import Object, Store


@dataclass(frozen=True, slots=True)
class Linked:
    """What the links to this server lead to.

    Attributes:
        store: Where derived images are kept, and nothing else.
        keys: Say which links are valid.
    """

    store: Store
    keys: LinkKeys


async def give(linker: Linker, name: DerivedName) -> web.Response:
    """Answer a temporary URL of a derived image."""
    return answers.as_json(await of(linker, name))


async def of(linker: Linker, name: DerivedName) -> dict[str, object]:
    """Return what is said of a temporary URL.

    Raises:
        ImageRepoError: As `Linker.link`.
    """
    link = await linker.link(name)
    return {"name": name.path, "url": link.url, "expires": link.expires.isoformat()}


async def follow(
    request: web.Request, linked: Linked | None, target: LinkRequest
) -> web.Response:
    """Answer what a link leads to, if it is valid.

    Args:
        request: Of any method.
        linked: None: links lead elsewhere.
        target: What the request's target says.
    """
    if linked is None:
        raise UnknownImageError("no link leads here")
    now = time.time()
    ends = await linked.keys.verify(request.method, target.key, target.words, now)
    found = await linked.store.fetch(target.key)
    if found is None:
        raise UnknownImageError("what the link led to is gone")
    with found:
        return await _object(request, target, found, ends, max(0, ends - int(now) - 1))


async def _object(
    request: web.Request, target: LinkRequest, found: Object, ends: int, left: int
) -> web.Response:
    """Return the object; *left*: whole seconds for which the link is surely valid."""
    etag = f'"{found.stored.revision}"'
    headers = {
        "ETag": etag,
        "Expires": formatdate(ends, usegmt=True),
        "Cache-Control": f"private, max-age={left}",
    }
    if not_modified(request.headers.get("If-None-Match"), etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
    called = target.key.rpartition("/")[2]
    headers["Content-Disposition"] = links.disposition(target.words, called)
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Content-Type"] = found.stored.media_type
    return web.Response(body=await found.read(), headers=headers)
