"""The metadata of originals, as JSON."""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo import names
from image_repo.web import answers
from image_repo.web.answers import Terms
from image_repo.web.validators import not_modified

if TYPE_CHECKING:
    from image_repo.derivations import Answer
    from image_repo.names import ImageName
    from image_repo.web.handlers import Room


async def give(request: web.Request, room: Room, image: ImageName) -> web.Response:
    """Answer what is told of an original."""
    name = room.service.metadata_name(image)
    tag = await room.service.tag(image)
    if not_modified(request.headers.get("If-None-Match"), names.etag(tag, name)):
        return web.Response(
            status=HTTPStatus.NOT_MODIFIED,
            headers=_terms(room, image).headers(tag, name),
        )
    answer = await room.service.derivations.get(name)
    headers = _terms(room, image).headers(answer.tag, name, kept=answer.lasting)
    return answers.as_json(told(image, answer), headers=headers)


def _terms(room: Room, image: ImageName) -> Terms:
    return Terms(room.http, assumed=room.service.assumed(image))


async def of(room: Room, image: ImageName) -> dict[str, object]:
    """Return what is told of an original, its name first.

    Raises:
        ImageRepoError: As for a derived image.
    """
    name = room.service.metadata_name(image)
    return told(image, await room.service.derivations.get(name))


def told(image: ImageName, answer: Answer) -> dict[str, object]:
    """Return what an answer of metadata tells, the image's name first."""
    return {"name": image, **json.loads(answer.derived.body)}
