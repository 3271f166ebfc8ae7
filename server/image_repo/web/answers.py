"""Answers about images: headers, JSON, and how long each may be cached."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from image_repo import names
from image_repo.formats import AUTO
from image_repo.modifiers import read
from image_repo.names import DerivedName
from image_repo.options import option

if TYPE_CHECKING:
    from image_repo.derivations import Answer
    from image_repo.modifiers import ImageOptions
    from image_repo.names import MadeName, Tag
    from image_repo.service import Original

YEAR = 365 * 24 * 3600

AWAY_SECONDS = 10
"""How long an answer that rests on a last known revision may be kept: what changes
while the store is away is seen so soon after it is back."""

LEVEL_HEADER = "X-Image-Repo"
"""Says where a derived image came from."""

_NO_TOKEN = re.compile("[^A-Za-z0-9_-]")


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
    stale_while_revalidate: int = option(
        30,
        "Seconds after max_age and s_maxage for which browsers and caches may still use"
        " it while they ask anew, so that nobody waits; 0: none.",
        low=0,
        high=YEAR,
    )
    auto_kinds: str = option(
        "avif webp",
        "Kinds that `auto` chooses by what a client accepts, the preferred first. What"
        " accepts none of them gets jpg or png. Empty: everybody does.",
        pattern="(avif( webp)?|webp( avif)?)?",
    )
    cache_tag_headers: str = option(
        "Cache-Tag Surrogate-Key",
        "Names of the headers, separated by a space, that carry the tag by which a CDN"
        " before nginx can purge all answers about an image. Empty: none.",
        pattern=r"([A-Za-z0-9-]+( [A-Za-z0-9-]+)*)?",
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

    @property
    def auto(self) -> tuple[str, ...]:
        """What `auto_kinds` names."""
        return tuple(self.auto_kinds.split())

    @property
    def held_seconds(self) -> int:
        """Longest time for which nginx may give an answer that it keeps."""
        return self.s_maxage + self.stale_while_revalidate


@dataclass(frozen=True, slots=True)
class Terms:
    """On what an answer made from an original rests.

    Attributes:
        options: How answers are cached.
        versioned: Whether its URL has a tag, so that it will never be another.
        assumed: Whether the store is away, and a last known revision is believed.
    """

    options: HttpOptions
    versioned: bool = False
    assumed: bool = False

    @property
    def cache_control(self) -> str:
        """The Cache-Control of what may be kept."""
        ours, shared = self.options.max_age, self.options.s_maxage
        stale = self.options.stale_while_revalidate
        if self.assumed:
            ours, shared = min(ours, AWAY_SECONDS), min(shared, AWAY_SECONDS)
            return f"public, max-age={ours}, s-maxage={shared}"
        if self.versioned:
            return f"public, max-age={YEAR}, s-maxage={shared}, immutable"
        more = f", stale-while-revalidate={stale}" if stale else ""
        return f"public, max-age={ours}, s-maxage={shared}{more}"

    def headers(self, tag: Tag, name: MadeName, *, kept: bool = True) -> dict[str, str]:
        """Return what the 200 and 304 of all that is made from an image have.

        Args:
            tag: Of what it was made from.
            name: What it is.
            kept: Whether caches may keep it at all.
        """
        tagged = self.options.cache_tag_headers.split()
        # nginx would keep what is assumed for as long as it can be revalidated.
        etag = {} if self.assumed else {"ETag": names.etag(tag, name)}
        return {
            **etag,
            "Cache-Control": self.cache_control if kept else "no-store",
            **dict.fromkeys(tagged, names.cache_tag(name.image)),
        }


def headers_of(
    name: DerivedName, tag: Tag, terms: Terms, *, kept: bool = True
) -> dict[str, str]:
    """Return what a 200 and a 304 of a derived image have in common."""
    return {
        **terms.headers(tag, name, kept=kept),
        "Content-Location": name.path,
        "Link": f'<{name.path}>; rel="canonical"',
    }


def image(name: DerivedName, answer: Answer, terms: Terms) -> web.Response:
    """Return a derived image as an answer."""
    headers = headers_of(name, answer.tag, terms, kept=answer.lasting)
    if not answer.lasting:
        headers["X-Accel-Expires"] = "0"
    away = "; store=away" if terms.assumed else ""
    headers[LEVEL_HEADER] = answer.source + away
    headers["Server-Timing"] = server_timing(answer)
    response = web.Response(body=answer.derived.body, headers=headers)
    response.headers["Content-Type"] = answer.derived.media_type
    return response


def server_timing(answer: Answer) -> str:
    """Return the header's value: where it came from, and what each step took."""
    steps = [
        f"{_NO_TOKEN.sub('_', step)};dur={1000 * seconds:.1f}"
        for step, seconds in answer.seconds.items()
    ]
    return ", ".join((f'cache;desc="{answer.source}"', *steps))


EXAMPLES: tuple[tuple[str, dict[str, str]], ...] = (
    ("full", {}),
    ("w_400", {"w": "400"}),
    ("thumbnail", {"thumb": "yes"}),
)
"""URLs ready to embed that are said of every image: their word, and what they ask."""

AUTO_EXAMPLE = "w_400"
"""That of them which is said with the kind left open, too."""


def information(
    original: Original, tag: Tag, images: ImageOptions, options: HttpOptions
) -> dict[str, object]:
    """Return what the upload's answer and info.json say of an original of *tag*."""
    header, image = original.header, original.image
    size = header.upright
    base = options.public_url
    examples = {
        word: DerivedName(image, *read(asked, images)) for word, asked in EXAMPLES
    }
    auto = examples[AUTO_EXAMPLE]
    return {
        "name": image,
        "width": size.width,
        "height": size.height,
        "frames": header.frames,
        "bytes": original.size,
        "format": header.format.kind,
        "media_type": header.format.media_type,
        "uploaded": original.uploaded.isoformat(),
        "tag": tag,
        "cache_tag": names.cache_tag(image),
        "urls": {
            **{word: base + name.path for word, name in examples.items()},
            AUTO: base + _auto(auto.path),
        },
        "versioned": {
            **{w: base + name.versioned_path(tag) for w, name in examples.items()},
            AUTO: base + _auto(auto.versioned_path(tag)),
        },
    }


def _auto(path: str) -> str:
    """Return the canonical *path* with the kind left open."""
    return f"{path.rpartition('.')[0]}.{AUTO}"


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
