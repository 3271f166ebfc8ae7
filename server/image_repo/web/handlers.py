"""One function for each meaning a request can have."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from image_repo import links, names, urls
from image_repo.errors import (
    BadRequestError,
    BusyError,
    ConflictError,
    ForbiddenError,
    UnknownImageError,
)
from image_repo.formats import AUTO
from image_repo.listings import ListRequest
from image_repo.purge import RECIPE_HEADER, REFRESH_HEADER
from image_repo.web import answers, listing, metadata, negotiation, selected, views
from image_repo.web.answers import HttpOptions, Terms
from image_repo.web.complaints import Complaints
from image_repo.web.errors import (
    HOP,
    PreconditionError,
    answer_errors,
    problem,
)
from image_repo.web.links import Linked, follow, give
from image_repo.web.uploads import Body, receive
from image_repo.web.validators import not_modified, write_refused

if TYPE_CHECKING:
    from image_repo.batches import Batches
    from image_repo.linker import Linker
    from image_repo.modifiers import ImageOptions
    from image_repo.names import ImageName, Recipe, Revision, Tag
    from image_repo.peers import Peers
    from image_repo.selection import Selector
    from image_repo.service import Condition, Service
    from image_repo.transform.pool import Pool

CACHED_HOP = "/_c"
"""Begins the paths that only nginx's internal, cached location asks for."""

FRONT = "@asked"
"""nginx's location that asks for what the client has asked for, as it is."""

UPLOADS_RETRY_AFTER = 10
"""Seconds; an upload of some megabytes takes about as long."""


@dataclass(slots=True)  # not frozen: images and http may change while it serves
class Room:
    """What the handlers work with.

    Attributes:
        service: The rules.
        linker: Gives temporary URLs.
        linked: What those lead to that lead here; None: they lead elsewhere.
        pool: The workers, for what is said about them.
        images: What a URL means where it says nothing.
        http: How answers are cached.
        upload_bytes: Most bytes of an upload.
        behind_nginx: Whether nginx's cached hop may be believed.
        recipe: With what the keys of nginx must begin.
        spool: The folder in which uploads wait until they are whole.
        uploads: How many may arrive at once.
        selector: Chooses images by path and pattern.
        batches: Bounds on the work for answers with many images.
        peers: The other servers.
        complaints: Says what is wrong with nginx.
    """

    service: Service
    linker: Linker
    linked: Linked | None
    pool: Pool
    images: ImageOptions
    http: HttpOptions
    upload_bytes: int
    behind_nginx: bool
    recipe: Recipe
    spool: Path
    uploads: asyncio.Semaphore
    selector: Selector
    batches: Batches
    peers: Peers
    complaints: Complaints = field(default_factory=Complaints)


ROOM = web.AppKey("room", Room)


async def dispatch(request: web.Request) -> web.StreamResponse:
    """Read the request's target, and answer what it asks."""
    room = request.app[ROOM]
    raw = urls.origin_form(request.raw_path)
    hop = room.behind_nginx and raw.startswith(CACHED_HOP + "/")
    request[HOP] = hop
    if hop:
        raw = raw.removeprefix(CACHED_HOP)
    elif (plain := views.PLAIN.get(raw.partition("?")[0])) is not None:
        return await _plain(request, plain)
    _refuse_foreign(request)
    if links.is_link(raw) and not hop:
        return await follow(request, room.linked, links.read(raw))
    return await _answer(request, room, urls.read(raw, request.method, room.images))


async def _answer(  # noqa: PLR0911 - one for each meaning
    request: web.Request, room: Room, target: urls.Request
) -> web.StreamResponse:
    match target:
        case urls.DerivedRequest():
            return await derived(request, room, target)
        case urls.AutoRequest():
            return await negotiated(request, room, target)
        case urls.ImageRequest():
            return await write(request, room, target.image)
        case urls.FolderRequest():
            return await folder(request, room, target)
        case ListRequest():
            return await listing.give(request, room, target)
        case urls.ViewRequest():
            return await views.VIEWS[target.view](request, room, target.image)
        case urls.ExplainRequest():
            return await views.explain(room, target.name)


async def _plain(request: web.Request, answer: views.Plain) -> web.StreamResponse:
    if request.method not in {"GET", "HEAD"}:
        raise urls.MethodError(("GET", "HEAD"))
    return await answer(request, request.app[ROOM])


def _refuse_foreign(request: web.Request) -> None:
    """Refuse a write that a browser sends from a page of another host."""
    origin = request.headers.get("Origin")
    if request.method in {"GET", "HEAD"} or origin is None:
        return
    own = {request.host, urlsplit(request.app[ROOM].http.public_url).netloc}
    own.discard("")  # an origin may be `null`, which has no host either
    if urlsplit(origin).netloc not in own:
        raise ForbiddenError("pages of another origin may not write here")


# Derived images


async def derived(
    request: web.Request, room: Room, target: urls.DerivedRequest
) -> web.StreamResponse:
    """Answer a derived image, or tell nginx where its cache has it."""
    if target.directives.meta:
        return await metadata.give(request, room, target.name.image)
    if target.directives.url:
        return await _link(room, target)
    written = target.name.format.kind in room.pool.kinds
    if request[HOP] and target.canonical:
        # nginx may have chosen a kind that can't be written here: choose again.
        if not written:
            return _elsewhere(FRONT)
        return await _hop(request, room, target)
    if room.behind_nginx and written:
        said = f"?{AUTO}" if target.negotiated else ""
        return _elsewhere(CACHED_HOP + target.path + said)
    return await _image(request, room, target)


async def negotiated(
    request: web.Request, room: Room, target: urls.AutoRequest
) -> web.StreamResponse:
    """Answer a derived image in the kind that suits best."""
    kind = await negotiation.choose(request, room, target.image)
    response = await derived(request, room, target.into(kind))
    response.headers["Vary"] = "Accept"
    return response


def _elsewhere(where: str) -> web.Response:
    """Send nginx to another place of its own."""
    return web.Response(
        headers={"X-Accel-Redirect": where}, content_type="application/octet-stream"
    )


async def _link(room: Room, target: urls.DerivedRequest) -> web.Response:
    name = target.name
    if target.tag not in {None, await room.service.tag(name.image)}:
        return _moved(f"{name.path}?{urls.URL.name}={urls.URL.example}")
    return await give(room.linker, name)


def _moved(to: str) -> web.Response:
    """Send on who asked for a tag that isn't the current one."""
    return web.Response(
        status=HTTPStatus.FOUND,
        headers={
            "X-Accel-Expires": "0",
            "Cache-Control": "no-store",
            "Location": to,
        },
    )


async def _hop(
    request: web.Request, room: Room, target: urls.DerivedRequest
) -> web.StreamResponse:
    """Answer nginx; whatever is said, nginx may keep it, and a change must purge it."""
    image = target.name.image
    recipe = request.headers.get(RECIPE_HEADER, room.recipe)
    response: web.StreamResponse
    refresh = request.headers.get(REFRESH_HEADER, "")
    secret = room.http.refresh_secret
    if secret and hmac.compare_digest(refresh.encode(), secret.encode()):
        response = await _tombstone(room, target)
        response.headers[RECIPE_HEADER] = recipe
    else:
        response = await answer_errors(
            request, lambda request: _image(request, room, target)
        )
    if recipe != room.recipe:
        room.complaints.log(
            "nginx's keys are of another configuration, so that nothing new is kept"
        )
        response.headers.update({"X-Accel-Expires": "0", "Cache-Control": "no-store"})
    own = negotiation.assumed(room)
    if request.headers.get(negotiation.ASSUMES_HEADER, own) != own:
        room.complaints.log(
            "nginx takes other kinds or thumbnails for granted than the configuration"
            " says"
        )
    # What is about to be said was true just now: nothing is awaited in between.
    with room.service.sending(image, target.path):
        await response.prepare(request)
        await response.write_eof()
    return response


async def _tombstone(room: Room, target: urls.DerivedRequest) -> web.Response:
    """Return what takes an entry's place in nginx: expired, and right if shown.

    A replaced image is found under its new tag, which is another entry.
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
        return _moved(name.path)
    terms, given = _terms(room, target, tag), request.headers.get("If-None-Match")
    # nginx keeps the headers of what it revalidates, and terms are about to change.
    if not terms.assumed and not_modified(given, names.etag(tag, name)):
        return web.Response(
            status=HTTPStatus.NOT_MODIFIED,
            headers=answers.headers_of(name, tag, terms),
        )
    answer = await room.service.derivations.get(name)
    return answers.image(name, answer, _terms(room, target, answer.tag))


def _terms(room: Room, target: urls.DerivedRequest, tag: Tag) -> Terms:
    """Return on what an answer of *tag* rests now."""
    assumed = room.service.assumed(target.name.image)
    return Terms(room.http, versioned=target.tag == tag, assumed=assumed)


# Uploads


async def write(
    request: web.Request, room: Room, image: ImageName
) -> web.StreamResponse:
    """Keep, replace or remove an original."""
    allowed = _condition(request, image)
    if request.method == "DELETE":
        await room.service.delete(image, allowed)
        return web.Response(status=HTTPStatus.NO_CONTENT)
    # What is sure to be refused is refused before its body is read.
    allowed(await room.service.look(image))
    async with _body(request, room) as body:
        return await _upload(room, image, body, allowed)


def _condition(request: web.Request, image: ImageName) -> Condition:
    """Return what refuses a write unless it finds what it asks for."""

    def allowed(revision: Revision | None) -> None:
        if revision is not None and request.method == "POST":
            raise ConflictError(f"there is an image {image!r} already; PUT replaces it")
        etag = None if revision is None else f'"{revision}"'
        given = request.headers
        if write_refused(given.get("If-Match"), given.get("If-None-Match"), etag):
            raise PreconditionError("the image is not what the write asks for")

    return allowed


@asynccontextmanager
async def _body(request: web.Request, room: Room) -> AsyncIterator[Body]:
    if room.uploads.locked():
        raise BusyError("too many uploads are arriving", UPLOADS_RETRY_AFTER)
    async with (
        room.uploads,
        receive(request, room.upload_bytes, room.spool) as body,
    ):
        yield body


async def _upload(
    room: Room, image: ImageName, body: Body, allowed: Condition
) -> web.Response:
    original, new = await room.service.upload(image, body.spool, allowed)
    location = room.http.public_url + names.BASE + "/" + names.quoted(image)
    return answers.as_json(
        views.information(room, original),
        status=HTTPStatus.CREATED if new else HTTPStatus.OK,
        headers={"Location": location, "ETag": f'"{original.revision}"'},
    )


async def folder(
    request: web.Request, room: Room, target: urls.FolderRequest
) -> web.StreamResponse:
    """Answer the images below a path, or upload a form's file into it."""
    if request.method != "POST":
        return await selected.give(request, room, target, derived)
    if request.content_type != "multipart/form-data":
        raise BadRequestError(
            "a path that ends in / takes a form's file under its own name;"
            " to send bytes alone give the image's name"
        )
    async with _body(request, room) as body:
        image = urls.upload_name(target.path, body.filename or "")
        return await _upload(room, image, body, _condition(request, image))
