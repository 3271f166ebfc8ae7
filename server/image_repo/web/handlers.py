"""One function for each meaning a request can have."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from image_repo import names, urls
from image_repo.errors import BadRequestError, ForbiddenError, UnknownImageError
from image_repo.purge import REFRESH_HEADER
from image_repo.web import answers
from image_repo.web.answers import HttpOptions
from image_repo.web.errors import (
    HOP,
    PreconditionError,
    UnservedError,
    answer_errors,
    problem,
)
from image_repo.web.uploads import receive
from image_repo.web.validators import not_modified, write_refused

if TYPE_CHECKING:
    from image_repo.modifiers import ImageOptions
    from image_repo.names import ImageName
    from image_repo.service import Service
    from image_repo.transform.pool import Pool

CACHED_HOP = "/_c"
"""Begins the paths that only nginx's internal, cached location asks for."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the handlers work with."""

    service: Service
    pool: Pool
    images: ImageOptions
    http: HttpOptions
    upload_bytes: int
    behind_nginx: bool


ROOM = web.AppKey("room", Room)

Answering = Callable[[web.Request, Room], Awaitable[web.StreamResponse]]


async def dispatch(request: web.Request) -> web.StreamResponse:
    """Read the request's target, and answer what it asks."""
    room = request.app[ROOM]
    raw = urls.origin_form(request.raw_path)
    hop = room.behind_nginx and raw.startswith(CACHED_HOP + "/")
    request[HOP] = hop
    if hop:
        raw = raw.removeprefix(CACHED_HOP)
    elif (plain := PLAIN.get(raw.partition("?")[0])) is not None:
        return await _plain(request, plain)
    _refuse_foreign(request)
    return await _answer(request, room, urls.read(raw, request.method, room.images))


async def _answer(
    request: web.Request, room: Room, target: urls.Request
) -> web.StreamResponse:
    match target:
        case urls.DerivedRequest():
            return await derived(request, room, target)
        case urls.ImageRequest():
            return await write(request, room, target.image)
        case urls.FolderRequest():
            return await folder(request, room, target)
        case urls.ListRequest():
            return await listing(request, room, target)
        case urls.ViewRequest():
            return await VIEWS[target.view](room, target.image)


async def _plain(request: web.Request, answer: Answering) -> web.StreamResponse:
    if request.method not in {"GET", "HEAD"}:
        raise urls.MethodError(("GET", "HEAD"))
    return await answer(request, request.app[ROOM])


def _refuse_foreign(request: web.Request) -> None:
    """Refuse a write that a browser sends from a page of another host."""
    origin = request.headers.get("Origin")
    if request.method in {"GET", "HEAD"} or origin is None:
        return
    own = {request.host, urlsplit(request.app[ROOM].http.public_url).netloc}
    if urlsplit(origin).netloc not in own:
        raise ForbiddenError("pages of another origin may not write here")


# Derived images


async def derived(
    request: web.Request, room: Room, target: urls.DerivedRequest
) -> web.StreamResponse:
    """Answer a derived image, or tell nginx where its cache has it."""
    for word in target.directives.given:
        raise UnservedError(f"{word}= is not served by this version")
    if request[HOP] and target.canonical:
        return await _hop(request, room, target)
    if room.behind_nginx:
        return web.Response(
            headers={"X-Accel-Redirect": CACHED_HOP + target.path},
            content_type="application/octet-stream",
        )
    return await _image(request, room, target)


async def _hop(
    request: web.Request, room: Room, target: urls.DerivedRequest
) -> web.StreamResponse:
    """Answer nginx; whatever is said, nginx may keep it, and a change must purge it."""
    image = target.name.image
    response: web.StreamResponse
    refresh = request.headers.get(REFRESH_HEADER, "")
    secret = room.http.refresh_secret
    if secret and hmac.compare_digest(refresh.encode(), secret.encode()):
        response = await _tombstone(room, target)
    else:
        response = await answer_errors(
            request, lambda request: _image(request, room, target)
        )
    # What is about to be said was true just now: nothing is awaited in between.
    with room.service.sending(image, target.path):
        await response.prepare(request)
        await response.write_eof()
    return response


async def _tombstone(room: Room, target: urls.DerivedRequest) -> web.Response:
    """Return what takes an entry's place in nginx: expired, and right if shown.

    nginx may show it to others while it renews the entry. A replaced image is found
    under its new tag, which is another entry.
    """
    try:
        tag = await room.service.tag(target.name.image)
    except UnknownImageError as error:
        gone = problem(HTTPStatus.NOT_FOUND, str(error))
        gone.headers["X-Accel-Expires"] = "@1"
        return gone
    elsewhere = target.name.path if target.tag else target.name.versioned_path(tag)
    return web.Response(
        status=HTTPStatus.FOUND,
        headers={
            "X-Accel-Expires": "@1",
            "Cache-Control": "no-store",
            "Location": elsewhere,
        },
    )


async def _image(
    request: web.Request, room: Room, target: urls.DerivedRequest
) -> web.Response:
    name = target.name
    room.service.derivations.check_kind(name.format)
    tag = await room.service.tag(name.image)
    if target.tag is not None and target.tag != tag:
        return web.Response(
            status=HTTPStatus.FOUND,
            headers={
                "X-Accel-Expires": "0",
                "Cache-Control": "no-store",
                "Location": name.path,
            },
        )
    control = answers.cache_control(room.http, versioned=target.tag is not None)
    if not_modified(request.headers.get("If-None-Match"), names.etag(tag, name)):
        return web.Response(
            status=HTTPStatus.NOT_MODIFIED,
            headers=answers.headers_of(name, tag, control),
        )
    answer = await room.service.derivations.get(name)
    if target.tag not in {None, answer.tag}:
        control = answers.cache_control(room.http, versioned=False)
    return answers.image(name, answer, control)


# Uploads


async def write(
    request: web.Request, room: Room, image: ImageName
) -> web.StreamResponse:
    """Keep, replace or remove an original."""
    if request.method == "DELETE":
        await room.service.delete(image)
        return web.Response(status=HTTPStatus.NO_CONTENT)
    return await upload(request, room, image)


async def upload(
    request: web.Request, room: Room, image: ImageName
) -> web.StreamResponse:
    """Keep the request's body as an original."""
    replacing = request.method == "PUT"
    await _refuse_write(request, room, image, replacing=replacing)
    async with receive(request, room.upload_bytes) as body:
        original, new = await room.service.upload(
            image, body.spool, replacing=replacing
        )
    location = room.http.public_url + names.BASE + "/" + names.quoted(image)
    return answers.as_json(
        answers.information(original, room.images, room.http),
        status=HTTPStatus.CREATED if new else HTTPStatus.OK,
        headers={"Location": location},
    )


async def _refuse_write(
    request: web.Request, room: Room, image: ImageName, *, replacing: bool
) -> None:
    """Refuse what is sure to be refused before its body is read."""
    if not replacing:
        await room.service.refuse_existing(image)
    conditions = (
        request.headers.get("If-Match"),
        request.headers.get("If-None-Match"),
    )
    if conditions == (None, None):
        return
    revision = await room.service.current(image)
    if write_refused(*conditions, None if revision is None else f'"{revision}"'):
        raise PreconditionError("the image is not in the state that the write asks for")


async def folder(
    request: web.Request, room: Room, target: urls.FolderRequest
) -> web.StreamResponse:
    """Upload a form's file under its own name into a path."""
    if request.method != "POST":
        raise UnservedError("everything below a path is not served by this version")
    if request.content_type != "multipart/form-data":
        raise BadRequestError(
            "a path that ends in / takes a form's file under its own name;"
            " to send bytes alone give the image's name"
        )
    async with receive(request, room.upload_bytes) as body:
        image = urls.upload_name(target.path, body.filename or "")
        await room.service.refuse_existing(image)
        original, _ = await room.service.upload(image, body.spool, replacing=False)
    location = room.http.public_url + names.BASE + "/" + names.quoted(image)
    return answers.as_json(
        answers.information(original, room.images, room.http),
        status=HTTPStatus.CREATED,
        headers={"Location": location},
    )


# Views and lists


async def info(room: Room, image: ImageName) -> web.StreamResponse:
    """Say what is known about an original."""
    original = await room.service.describe(image)
    return answers.as_json(answers.information(original, room.images, room.http))


async def purge(room: Room, image: ImageName) -> web.StreamResponse:
    """Forget all that was made from an original."""
    await room.service.purge(image)
    return web.Response(status=HTTPStatus.NO_CONTENT)


VIEWS = {"info.json": info, "purge": purge}


async def listing(
    request: web.Request, room: Room, target: urls.ListRequest
) -> web.StreamResponse:
    """Stream the names of all images as a JSON array."""
    if target.regex is not None:
        raise UnservedError("regex= is not served by this version")
    response = web.StreamResponse(headers={"Cache-Control": "no-store"})
    response.content_type = "application/json"
    found = room.service.names()
    first = await anext(found, None)  # a failing store is an error, not a cut list
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    await response.write(b"[")
    if first is not None:
        await response.write(json.dumps(first, ensure_ascii=False).encode())
    async for image in found:
        await response.write(b",\n" + json.dumps(image, ensure_ascii=False).encode())
    await response.write(b"]\n")
    return response


async def healthz(_request: web.Request, room: Room) -> web.StreamResponse:
    """Say that the process lives, and what it can do."""
    pool = room.pool
    return answers.as_json(
        {
            "status": "ok",
            "version": version("image-repo"),
            "imagemagick": pool.magick,
            "kinds": sorted(pool.kinds),
            "workers": pool.statistics(),
        }
    )


async def readyz(_request: web.Request, room: Room) -> web.StreamResponse:
    """Say whether a request for an image would succeed now."""
    await room.service.ready()
    return answers.as_json({"status": "ready"})


PLAIN: dict[str, Answering] = {"/healthz": healthz, "/readyz": readyz}
