"""Errors as answers: one table, and the middleware that applies it."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus

from aiohttp import web
from multidict import CIMultiDict

from image_repo import errors
from image_repo.urls import MethodError

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

HOP = web.RequestKey("hop", bool)
"""Whether the request came over nginx's cached hop."""

BEGUN = web.RequestKey("begun", web.StreamResponse)
"""The answer of which something may have been sent already."""

FAILURES = {HTTPStatus.INTERNAL_SERVER_ERROR, HTTPStatus.BAD_GATEWAY}
"""Statuses that somebody who runs the server should know of."""


class PreconditionError(errors.ImageRepoError):
    """If-Match or If-None-Match does not hold for a write."""


class LengthRequiredError(errors.ImageRepoError):
    """A body without any length or chunked coding."""


class EncodedError(errors.ImageRepoError):
    """A body or a form's part is compressed or encoded for its transfer."""


class TargetTooLongError(errors.ImageRepoError):
    """The request's path and query are longer than any that has a meaning."""


@dataclass(frozen=True, slots=True)
class Status:
    """What one class of errors is in HTTP.

    Attributes:
        derive: Status when an image is asked for.
        upload: Status when one is sent.
        cached: Seconds for which nginx may give the same answer, so that a queue of
            equal questions dissolves.
        retry_after: Seconds after which a new try is reasonable; None: it isn't.
    """

    derive: int
    upload: int
    cached: int = 1
    retry_after: int | None = None


STATUSES: dict[type[errors.ImageRepoError], Status] = {
    errors.BadRequestError: Status(400, 400),
    MethodError: Status(405, 405),
    errors.UnauthorisedError: Status(401, 401),
    errors.ForbiddenError: Status(403, 403),
    errors.UnknownImageError: Status(404, 404),
    errors.ConflictError: Status(409, 409),
    LengthRequiredError: Status(411, 411),
    PreconditionError: Status(412, 412),
    errors.TooLargeError: Status(422, 413),
    TargetTooLongError: Status(414, 414),
    errors.BadImageError: Status(422, 415),
    EncodedError: Status(415, 415),
    errors.TooCostlyError: Status(422, 422),
    errors.DeriveError: Status(500, 500),
    errors.StoreError: Status(502, 502, retry_after=5),
    errors.BusyError: Status(503, 503, retry_after=1),
    errors.ImageRepoError: Status(500, 500),
}


def status_of(error: errors.ImageRepoError) -> Status:
    """Return the row of the nearest class of *error*."""
    return next(STATUSES[cls] for cls in type(error).__mro__ if cls in STATUSES)


def summary(error: errors.ImageRepoError) -> dict[str, object]:
    """Return what is said of an image that could not be made, among others."""
    return {"error": {"status": status_of(error).derive, "detail": str(error)}}


def problem(
    status: int,
    detail: str,
    *,
    cached: int = 1,
    headers: dict[str, str] | None = None,
) -> web.Response:
    """Return an RFC 9457 answer; nginx may give it again for *cached* seconds."""
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
    }
    # nginx 1.22 obeys the first of these two headers that it reads.
    ordered: CIMultiDict[str] = CIMultiDict({"X-Accel-Expires": str(cached)})
    ordered["Cache-Control"] = "no-store"
    ordered.update(headers or {})
    return web.Response(
        status=status,
        body=json.dumps(body, ensure_ascii=False).encode() + b"\n",
        headers=ordered,
        content_type="application/problem+json",
    )


def _from_error(error: errors.ImageRepoError, *, upload: bool) -> web.Response:
    row = status_of(error)
    headers = {}
    if isinstance(error, MethodError):
        headers["Allow"] = ", ".join(error.allowed)
    retry_after = row.retry_after
    if isinstance(error, errors.BusyError):
        retry_after = error.retry_after
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    status = row.upload if upload else row.derive
    return problem(status, str(error), cached=row.cached, headers=headers)


def _answer(request: web.Request, error: Exception) -> web.Response:
    """Return the answer that *error* is, and log it if it is a failure."""
    if isinstance(error, errors.ImageRepoError):
        response = _from_error(error, upload=request.method in {"POST", "PUT"})
        if response.status in FAILURES:
            logger.warning("%s %s: %s", request.method, request.path, error)
        return response
    if isinstance(error, web.HTTPException):
        return problem(error.status, error.reason)
    if isinstance(error, ConnectionError | TimeoutError):
        logger.info("%s %s: client gone: %s", request.method, request.path, error)
        return problem(400, "the request's body did not arrive whole")
    logger.error("%s %s", request.method, request.path, exc_info=error)
    return problem(500, "the server failed; the log says why")


@web.middleware
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into one answer."""
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 # logged by _answer
        response = _answer(request, error)
    begun: web.StreamResponse | None = request.get(BEGUN)
    if begun is not None:
        # Another answer would be read as a part of this one.
        logger.warning("%s %s: the answer is cut off", request.method, request.path)
        if request.transport is not None:
            request.transport.abort()
        return begun
    if request.body_exists and not request.content.at_eof():
        # What is left of the body can't be told from a next request.
        response.force_close()
    return response


async def note_begun(request: web.Request, response: web.StreamResponse) -> None:
    """Remember that *response* begins; for the signal `on_response_prepare`."""
    request[BEGUN] = response
