"""Lists of images: as JSON, as lines of JSON, and as pages for a browser."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from image_repo import names, urls
from image_repo.modifiers import read
from image_repo.names import DerivedName
from image_repo.originals import Entry, Named
from image_repo.selection import beginning
from image_repo.service import Service
from image_repo.web.accept import preferred
from image_repo.web.streams import send, while_there

if TYPE_CHECKING:
    from aiohttp import web

    from image_repo.listings import ListRequest
    from image_repo.names import ImageName
    from image_repo.web.handlers import Room

T = TypeVar("T", bound=Named)

ARRAY: Final = "application/json"
LINES: Final = "application/x-ndjson"
PAGE: Final = "text/html"

PAGE_NAMES: Final = 1000
"""Names on a page for a browser, unless it asks for another number."""

AT_ONCE: Final = 1000
"""Names in one write, before others get their turn: some ms, and about 64 KiB."""

POLICY: Final = "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of a page, which needs nothing but itself."""


@dataclass(frozen=True, slots=True)
class _Form(Generic[T]):
    """One form of a list.

    Attributes:
        media_type: As in Content-Type.
        listed: Yields what is listed, given a prefix and a marker.
        line: What is said of one image.
        begins: Comes before all lines.
        between: Comes between two lines.
        ends: Comes after all, given the path of what follows, if that is known.
        limit: How many there are if the request does not say it; None: all.
        headers: Of the answer.
    """

    media_type: str
    listed: Callable[[Service, str, str], AsyncGenerator[T, None]]
    line: Callable[[T], str]
    begins: str = ""
    between: str = "\n"
    ends: Callable[[str | None], str] = lambda _: ""
    limit: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


async def give(
    request: web.Request, room: Room, target: ListRequest
) -> web.StreamResponse:
    """Answer the names of images, in the form that the client likes best.

    Raises:
        BadRequestError: The regex is not allowed, or takes too long.
        StoreError: The store failed before anything was sent.
    """
    accept = ",".join(request.headers.getall("Accept", ()))
    liked = preferred(accept, (ARRAY, LINES, PAGE))
    if liked == LINES:
        return await _answer(request, room, target, _lines(room))
    if liked == PAGE:
        return await _answer(request, room, target, _page(room, target))
    return await _answer(request, room, target, _ARRAY)


async def _answer(
    request: web.Request, room: Room, target: ListRequest, form: _Form[T]
) -> web.StreamResponse:
    headers = {"Vary": "Accept", "X-Content-Type-Options": "nosniff", **form.headers}
    found = await _found(room, target, form)
    limit = target.limit or form.limit
    following = None
    if limit is not None:
        async with while_there(request), aclosing(found):
            some = await _first(found, limit + 1)
        if len(some) > limit:
            following = replace(target, marker=some[limit - 1].key).path
            headers["Link"] = f'<{following}>; rel="next"'
        found = _each(some[:limit])
    return await send(
        request, form.media_type, _pieces(found, form, following), headers
    )


async def _found(
    room: Room, target: ListRequest, form: _Form[T]
) -> AsyncGenerator[T, None]:
    """Return what is listed, once the store has begun to say it."""
    prefix: str | None = target.prefix
    pattern = None
    if target.regex is not None:
        pattern = await room.selector.compiled(target.regex)
        prefix = beginning(target.prefix, pattern.prefix)
    if prefix is None:
        return _each(())
    listed = form.listed(room.service, prefix, target.marker)
    begun = _each(await _first(listed, 1), listed)
    if pattern is None:
        return begun
    return room.selector.matching(begun, pattern, lambda one: one.image)


async def _first(some: AsyncGenerator[T, None], most: int) -> list[T]:
    found: list[T] = []
    async for one in some:
        found.append(one)
        if len(found) == most:
            break
    return found


async def _each(
    some: Sequence[T], more: AsyncGenerator[T, None] | None = None
) -> AsyncGenerator[T, None]:
    for one in some:
        yield one
    if more is not None:
        async with aclosing(more):
            async for one in more:
                yield one


async def _pieces(
    found: AsyncGenerator[T, None], form: _Form[T], following: str | None
) -> AsyncGenerator[bytes, None]:
    """Yield the answer; its beginning at once, then many lines at a time."""
    yield form.begins.encode()
    between = ""
    lines: list[str] = []
    async with aclosing(found):
        async for one in found:
            lines.append(form.line(one))
            if len(lines) == AT_ONCE:
                yield (between + form.between.join(lines)).encode()
                between = form.between
                lines = []
                await asyncio.sleep(0)  # a store may have many at hand
    if lines:
        yield (between + form.between.join(lines)).encode()
    yield form.ends(following).encode()


# -- each form -------------------------------------------------------------------------


_ARRAY: Final[_Form[Named]] = _Form(
    ARRAY,
    Service.named,
    lambda one: json.dumps(one.image, ensure_ascii=False),
    begins="[",
    between=",\n",
    ends=lambda _: "]\n",
)


def _lines(room: Room) -> _Form[Entry]:
    def line(one: Entry) -> str:
        said = {
            "name": one.image,
            "bytes": one.size,
            "modified": one.modified.isoformat(),
            "url": room.http.public_url + _path(room, one.image),
        }
        return json.dumps(said, ensure_ascii=False) + "\n"

    return _Form(LINES, Service.entries, line, between="")


def _page(room: Room, target: ListRequest) -> _Form[Named]:
    title = html.escape(" ".join(filter(None, ("Images", target.prefix, target.regex))))

    def line(one: Named) -> str:
        href = html.escape(_path(room, one.image))
        return f'<li><a href="{href}">{html.escape(one.image)}</a></li>'

    def ends(following: str | None) -> str:
        more = ""
        if following is not None:
            more = f'<p><a rel="next" href="{html.escape(following)}">More</a></p>\n'
        return f"\n</ul>\n{more}</body>\n</html>\n"

    return _Form(
        f"{PAGE}; charset=utf-8",
        Service.named,
        line,
        begins=(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f"<title>{title}</title>\n</head>\n<body>\n<h1>{title}</h1>\n<ul>\n"
        ),
        ends=ends,
        limit=PAGE_NAMES,
        headers={"Content-Security-Policy": POLICY},
    )


def _path(room: Room, image: ImageName) -> str:
    """Return the path of an image in full size, as short as it is unmistakable."""
    if urls.split_extension(image.rpartition("/")[2])[1]:
        return DerivedName(image, *read({}, room.images)).path
    return f"{names.BASE}/{names.quoted(image)}"
