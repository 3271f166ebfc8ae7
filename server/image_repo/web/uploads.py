"""Request bodies, streamed into a spool under the byte limit."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import BodyPartReader, web

from image_repo.errors import BadImageError, BadRequestError, TooLargeError
from image_repo.stores.spool import Spool
from image_repo.web.errors import LengthRequiredError

if TYPE_CHECKING:
    from aiohttp import MultipartReader

CHUNK = 256 * 1024
"""Bytes taken from the connection at once; the memory of one upload."""

IDLE_SECONDS = 60.0
"""Longest wait for the next chunk of a body; as nginx's client_body_timeout."""

MAX_PARTS = 20
"""Parts of a form that are looked through for its file."""

_FOLDERS = re.compile(r".*[/\\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Body:
    """What was sent.

    Attributes:
        spool: The image's bytes.
        filename: Its name on the sender's disk, without folders; None: not told.
    """

    spool: Spool
    filename: str | None


@asynccontextmanager
async def receive(
    request: web.Request, limit: int, directory: Path | None = None
) -> AsyncIterator[Body]:
    """Spool the image that a request carries, as a form's file or as its whole body.

    Args:
        request: The upload; its body has not been read.
        limit: Most bytes of the image.
        directory: Where it waits until it is whole; None: the system's place for such.

    Raises:
        TooLargeError: It has more.
        LengthRequiredError: There is no body.
        BadRequestError: A form without exactly one file.
        BadImageError: The file is empty.
    """
    if not request.body_exists:
        raise LengthRequiredError("an upload needs a body: the image's bytes")
    form = request.content_type == "multipart/form-data"
    length = request.content_length
    if length is not None and length > limit and not form:
        raise TooLargeError(f"{length} bytes are more than the {limit} allowed")
    async with Spool(limit, directory) as spool:
        filename = await (_form if form else _raw)(request, spool)
        if not spool.size:
            raise BadImageError("the upload is empty")
        yield Body(spool, filename)


async def _raw(request: web.Request, spool: Spool) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            chunk = await request.content.read(CHUNK)
        if not chunk:
            return
        await spool.write(chunk)


async def _form(request: web.Request, spool: Spool) -> str:
    filename: str | None = None
    try:
        reader = await request.multipart()
        for _ in range(MAX_PARTS):
            part = await _next(reader)
            if part is None:
                break
            if part.filename is None:
                raise BadRequestError(
                    f"form field {(part.name or '')[:40]!r} is not a file: an upload"
                    " has one file and nothing else"
                )
            if filename is not None:
                raise BadRequestError(
                    "the form has several files: upload one at a time"
                )
            filename = _FOLDERS.sub("", part.filename)
            await _file(part, spool)
    except ValueError as error:
        raise BadRequestError("the form is malformed") from error
    if filename is None:
        raise BadRequestError(
            "the form has no file: send one, as in -F file=@photo.jpg"
        )
    return filename


async def _next(reader: MultipartReader) -> BodyPartReader | None:
    async with asyncio.timeout(IDLE_SECONDS):
        part = await reader.next()
    if part is None or isinstance(part, BodyPartReader):
        return part
    raise BadRequestError("a form within a form is not an upload")


async def _file(part: BodyPartReader, spool: Spool) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            chunk = await part.read_chunk(CHUNK)
        if not chunk:
            return
        await spool.write(chunk)
