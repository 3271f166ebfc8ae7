"""Answers about images: headers, JSON, and how long each may be cached."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo import names
from image_repo.modifiers import read
from image_repo.names import DerivedName
from image_repo.options import option

if TYPE_CHECKING:
    from image_repo.derivations import Answer
    from image_repo.modifiers import ImageOptions
    from image_repo.names import ImageName, Tag
    from image_repo.service import Original

YEAR = 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How answers are cached, and under which address they are known."""

    public_url: str = option(
        "",
        "Scheme and host that clients use, such as https://img.example.org; begins the"
        " URLs in answers. Empty: they begin with /images.",
        pattern=r"(https?://[A-Za-z0-9.:\[\]-]+)?",
    )
    max_age: int = option(
        300,
        "Seconds for which browsers use a derived image without asking again.",
        low=0,
        high=YEAR,
    )
    s_maxage: int = option(
        600,
        "Seconds for which nginx and other shared caches do.",
        low=1,
        high=YEAR,
    )
    refresh_secret: str = option(
        "",
        "Secret by which an nginx whose cache files aren't ours knows a request to"
        " forget an image; 16 to 128 of A-Z a-z 0-9 _ -. Empty: there are none.",
        pattern=r"([A-Za-z0-9_-]{16,128})?",
        secret=True,
    )
    uploads: int = option(
        64, "Uploads that may arrive at once; more are refused.", low=1, high=10_000
    )
    selected: int = option(
        10_000,
        "Images that one request may choose by a path or a regex; more are refused.",
        low=1,
        high=1_000_000,
    )
    archives: int = option(
        8,
        "Answers with many images that may be sent at once; more are refused.",
        low=1,
        high=1000,
    )
    drain_seconds: float = option(
        30.0, "Seconds that requests under way get at the end.", low=0, high=3600
    )


def cache_control(options: HttpOptions, *, versioned: bool) -> str:
    """Return the Cache-Control of a derived image; *versioned*: of its tag for ever."""
    if versioned:
        return f"public, max-age={YEAR}, s-maxage={options.s_maxage}, immutable"
    return f"public, max-age={options.max_age}, s-maxage={options.s_maxage}"


def headers_of(name: DerivedName, tag: Tag, control: str) -> dict[str, str]:
    """Return what a 200 and a 304 of a derived image have in common."""
    return {
        "ETag": names.etag(tag, name),
        "Cache-Control": control,
        "Content-Location": name.path,
        "Link": f'<{name.path}>; rel="canonical"',
    }


def image(name: DerivedName, answer: Answer, control: str) -> web.Response:
    """Return a derived image as an answer."""
    timing = [f'cache;desc="{answer.source}"'] + [
        f"{step};dur={1000 * seconds:.1f}" for step, seconds in answer.seconds.items()
    ]
    headers = headers_of(name, answer.tag, control if answer.lasting else "no-store")
    if not answer.lasting:
        headers["X-Accel-Expires"] = "0"
    headers["Server-Timing"] = ", ".join(timing)
    response = web.Response(body=answer.derived.body, headers=headers)
    response.headers["Content-Type"] = answer.derived.media_type
    return response


EXAMPLES: tuple[tuple[str, dict[str, str]], ...] = (
    ("full", {}),
    ("w_400", {"w": "400"}),
    ("thumbnail", {"thumb": "yes"}),
)
"""URLs ready to embed that are said of every image: their word, and what they ask."""


def example_urls(
    image: ImageName, images: ImageOptions, options: HttpOptions
) -> dict[str, str]:
    """Return canonical URLs of an image by what they are examples of."""
    return {
        word: options.public_url + DerivedName(image, *read(asked, images)).path
        for word, asked in EXAMPLES
    }


def information(
    original: Original, images: ImageOptions, options: HttpOptions
) -> dict[str, object]:
    """Return what the upload's answer and info.json say of an original."""
    header = original.header
    size = header.upright
    return {
        "name": original.image,
        "width": size.width,
        "height": size.height,
        "frames": header.frames,
        "bytes": original.size,
        "format": header.format.kind,
        "media_type": header.format.media_type,
        "uploaded": original.uploaded.isoformat(),
        "urls": example_urls(original.image, images, options),
    }


def as_json(
    value: object,
    *,
    status: int = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
) -> web.Response:
    """Return *value* as a JSON answer that no cache keeps."""
    return web.Response(
        status=status,
        body=json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n",
        headers={"Cache-Control": "no-store", **(headers or {})},
        content_type="application/json",
    )
