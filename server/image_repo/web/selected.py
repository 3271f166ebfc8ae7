"""Answers about selections: many images in one request."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo import links
from image_repo.errors import ImageRepoError, UnknownImageError
from image_repo.names import DerivedName
from image_repo.urls import DerivedRequest, Directives
from image_repo.web import metadata
from image_repo.web.archive import zipped
from image_repo.web.errors import summary
from image_repo.web.links import of as link_of
from image_repo.web.streams import send, while_there

if TYPE_CHECKING:
    from image_repo.levels import Derived
    from image_repo.names import ImageName
    from image_repo.urls import FolderRequest
    from image_repo.web.handlers import Room

Single = Callable[[web.Request, "Room", DerivedRequest], Awaitable[web.StreamResponse]]
"""Answers one derived image."""


@dataclass(frozen=True, slots=True)
class _Selection:
    """Images that were chosen, and what is asked of each of them."""

    room: Room
    target: FolderRequest
    images: list[ImageName]

    def named(self, image: ImageName) -> DerivedName:
        return DerivedName(image, self.target.modifiers, self.target.format)


async def give(
    request: web.Request, room: Room, target: FolderRequest, single: Single
) -> web.StreamResponse:
    """Answer what is asked of the images below a path; by *single* if it is only one.

    Raises:
        UnknownImageError: There are none.
        BadRequestError: There are too many, or the regex or the kind is not allowed.
        BusyError: Too many such answers are being sent.
        StoreError: The store failed.
    """
    asked = target.directives
    room.service.derivations.check_kind(target.format)
    async with while_there(request):
        images = await room.selector.select(target.path, asked.regex)
    if not images:
        such = "" if asked.regex is None else " in whose name the regex is found"
        raise UnknownImageError(f"there is no image below {target.path!r}{such}")
    chosen = _Selection(room, target, images)
    if len(images) == 1 and not asked.url and not asked.meta:
        name = chosen.named(images[0])
        one = DerivedRequest(name, canonical=False, tag=None, directives=Directives())
        return await single(request, room, one)
    with room.batches.begun():
        if asked.url:
            return await send(request, "application/json", _links(chosen))
        if asked.meta:
            return await send(request, "application/json", _metadata(chosen))
        called = f"{target.path.rpartition('/')[2]}.zip"
        return await send(
            request,
            "application/zip",
            zipped(_derived(chosen)),
            {"Content-Disposition": links.disposition({}, called)},
        )


# What is sent


async def _derived(
    chosen: _Selection,
) -> AsyncGenerator[tuple[DerivedName, Derived | ImageRepoError], None]:
    async def make(image: ImageName) -> Derived:
        answer = await chosen.room.service.derivations.get(chosen.named(image))
        return answer.derived

    async with aclosing(chosen.room.batches.each(chosen.images, make)) as each:
        async for image, made in each:
            yield chosen.named(image), made


async def _links(chosen: _Selection) -> AsyncGenerator[bytes, None]:
    """Yield a JSON array that says of each image what is said of one alone."""

    async def make(image: ImageName) -> dict[str, object]:
        return await link_of(chosen.room.linker, chosen.named(image))

    begin = b"[\n"
    async with aclosing(chosen.room.batches.each(chosen.images, make)) as each:
        async for image, made in each:
            yield begin + _json(_told(made, name=chosen.named(image).path))
            begin = b",\n"
    yield b"\n]\n"


async def _metadata(chosen: _Selection) -> AsyncGenerator[bytes, None]:
    """Yield a JSON object with the metadata of each image by its name."""

    async def make(image: ImageName) -> dict[str, object]:
        return await metadata.of(chosen.room, image)

    begin = b"{\n"
    async with aclosing(chosen.room.batches.each(chosen.images, make)) as each:
        async for image, made in each:
            yield begin + _json(image) + b": " + _json(_told(made, name=image))
            begin = b",\n"
    yield b"\n}\n"


def _told(made: dict[str, object] | ImageRepoError, name: str) -> dict[str, object]:
    """Return what was made, or why it was not."""
    return {"name": name, **summary(made)} if isinstance(made, ImageRepoError) else made


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
