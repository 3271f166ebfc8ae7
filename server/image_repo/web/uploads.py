"""Request bodies, streamed into a spool under the byte limit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import BodyPartReader, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from image_repo.errors import BadImageError, BadRequestError, TooLargeError
from image_repo.stores.spool import Spool
from image_repo.web.errors import EncodedError, LengthRequiredError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aiohttp import MultipartReader
    from multidict import CIMultiDictProxy

CHUNK = 256 * 1024
"""Bytes taken from the connection at once; the memory of one upload."""

IDLE_SECONDS = 60.0
"""Longest wait for the next chunk of a body; as nginx's client_body_timeout."""

MAX_PARTS = 20
"""Parts of a form that are looked through for its file."""

AS_IT_IS = {"", "identity", "binary", "7bit", "8bit"}
"""Codings of a body, or of a form's part, that leave its bytes alone."""


@dataclass(frozen=True, slots=True)
class Body:
    """What was sent.

    Attributes:
        spool: The image's bytes.
        filename: Its name on the sender's disk, as told; None: not told.
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
        EncodedError: The body is not the image's own bytes.
        BadRequestError: A form without exactly one file, or a malformed body.
        BadImageError: The file is empty.
    """
    if not request.body_exists:
        if hdrs.CONTENT_LENGTH in request.headers:
            raise BadImageError("the upload is empty")
        raise LengthRequiredError("an upload needs a body: the image's bytes")
    _refuse_encoded(request.headers)
    form = request.content_type == "multipart/form-data"
    length = request.content_length
    if length is not None and length > limit and not form:
        raise TooLargeError(f"{length} bytes are more than the {limit} allowed")
    async with Spool(limit, directory) as spool:
        filename = await (_form if form else _raw)(request, spool)
        if not spool.size:
            raise BadImageError("the upload is empty")
        yield Body(spool, filename)


def _refuse_encoded(headers: CIMultiDictProxy[str]) -> None:
    """Refuse what would have to be decoded: an original is kept as it was sent."""
    for header in (hdrs.CONTENT_ENCODING, hdrs.CONTENT_TRANSFER_ENCODING):
        for coding in ",".join(headers.getall(header, [])).split(","):
            if coding.strip().lower() not in AS_IT_IS:
                raise EncodedError(
                    f"{header} {coding.strip()[:40]!r}: send the image's own bytes"
                )


@contextmanager
def _malformed(what: str) -> Iterator[None]:
    """Turn what aiohttp raises for a malformed *what* into a client's error."""
    try:
        yield
    except (
        HttpProcessingError,
        web.RequestPayloadError,
        RuntimeError,
        ValueError,
    ) as error:
        raise BadRequestError(f"the {what} is malformed") from error


async def _raw(request: web.Request, spool: Spool) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            with _malformed("body"):
                chunk = await request.content.read(CHUNK)
        if not chunk:
            return
        await spool.write(chunk)


async def _form(request: web.Request, spool: Spool) -> str:
    filename: str | None = None
    with _malformed("form"):
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
            raise BadRequestError("the form has several files: upload one at a time")
        _refuse_encoded(part.headers)
        filename = part.filename
        await _file(part, spool)
    if filename is None:
        raise BadRequestError(
            "the form has no file: send one, as in -F file=@photo.jpg"
        )
    return filename


async def _next(reader: MultipartReader) -> BodyPartReader | None:
    async with asyncio.timeout(IDLE_SECONDS):
        with _malformed("form"):
            part = await reader.next()
    if part is None or isinstance(part, BodyPartReader):
        return part
    raise BadRequestError("a form within a form is not an upload")


async def _file(part: BodyPartReader, spool: Spool) -> None:
    while True:
        async with asyncio.timeout(IDLE_SECONDS):
            with _malformed("form"):
                chunk = await part.read_chunk(CHUNK)
        if not chunk:
            return
        await spool.write(chunk)
