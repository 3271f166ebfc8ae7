"""The OpenAPI description of the interface, made from the tables that make it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Final

from image_repo import links, listings, modifiers, urls
from image_repo.errors import ImageRepoError
from image_repo.formats import AUTO, FORMATS
from image_repo.names import BASE, FULL, MARK
from image_repo.web.errors import STATUSES
from image_repo.words import Word

PATH: Final = "/openapi.json"
"""Where the server gives it."""

Json = dict[str, object]

PROBLEM: Final = "application/problem+json"

ANY_TEXT: Final[Json] = {"type": "string"}
BYTES: Final[Json] = {}
"""Schema of a body that is no text: OpenAPI 3.1 leaves it empty."""

_NAME: Final[Json] = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "An image's name. It may have slashes, which OpenAPI can't say.",
    "schema": {"type": "string", "minLength": 1},
    "example": "plots/site-7",
}
_PATH: Final[Json] = {**_NAME, "name": "path", "description": "Begins images' names."}
_DERIVED: Final[Json] = {
    "name": "derived",
    "in": "path",
    "required": True,
    "description": f"Modifiers in their order and a kind; without any, {FULL}."
    f" The kind {AUTO} is the one that suits Accept and the image best.",
    "schema": {
        "type": "string",
        "pattern": rf"^({FULL}|[a-z]+_[a-z0-9._]+(-[a-z]+_[a-z0-9._]+)*)\.[a-z]+$",
    },
    "example": "w_400-h_300.webp",
}
_TAG: Final[Json] = {
    "name": "tag",
    "in": "path",
    "required": True,
    "description": "The tag of an image and the settings, as in versioned URLs.",
    "schema": {"type": "string", "pattern": "^[0-9a-f]{16}$"},
    "example": "0123456789abcdef",
}

_TEXT: Final[Json] = {"type": "string"}
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_TIME: Final[Json] = {"type": "string", "format": "date-time"}
_TRUTH: Final[Json] = {"type": "boolean"}
_TEXTS: Final[Json] = {"type": "object", "additionalProperties": _TEXT}


def _object(properties: Mapping[str, Json], *optional: str) -> Json:
    return {
        "type": "object",
        "properties": properties,
        "required": [name for name in properties if name not in optional],
    }


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


SCHEMAS: Final[Mapping[str, Json]] = {
    "Problem": _object(
        {"type": _TEXT, "title": _TEXT, "status": _COUNT, "detail": _TEXT}
    ),
    "Image": _object(
        {
            "name": _TEXT,
            "width": _COUNT,
            "height": _COUNT,
            "frames": _COUNT,
            "bytes": _COUNT,
            "format": {"enum": [row.kind for row in FORMATS]},
            "media_type": _TEXT,
            "uploaded": _TIME,
            "tag": _TEXT,
            "cache_tag": _TEXT,
            "urls": _TEXTS,
            "versioned": _TEXTS,
        }
    ),
    "Explanation": _object(
        {
            "name": _TEXT,
            "path": _TEXT,
            "versioned_path": _TEXT,
            "tag": _TEXT,
            "revision": _TEXT,
            "assumed": _TRUTH,
            "key": _TEXT,
            "etag": _TEXT,
            "cache_tag": _TEXT,
            "modifiers": _TEXTS,
            "kind": {"enum": [row.kind for row in FORMATS if row.served]},
            "media_type": _TEXT,
            "nginx": _object({"key": _TEXT}),
            "original": _or_null(
                _object({"bytes": _COUNT, "media_type": _TEXT, "uploaded": _TIME})
            ),
            "found": {"type": "object", "additionalProperties": _or_null(_TRUTH)},
            "failure": _or_null(_TEXT),
            "cost": _object(
                {
                    "intermediate": _or_null(_TEXT),
                    "fetch": _TRUTH,
                    "workers": _COUNT,
                    "idle": _COUNT,
                    "waiting": _COUNT,
                    "seconds": {"type": "number", "minimum": 0},
                }
            ),
        }
    ),
    "Names": {"type": "array", "items": _TEXT},
    "Link": _object({"name": _TEXT, "url": _TEXT, "expires": _TIME}),
    "Metadata": {"type": "object"},
    "Status": _object({"status": _TEXT}),
}


def document(version: str, server: str) -> Json:
    """Return the description.

    Args:
        version: Of the package.
        server: Scheme and host of the server; empty: that which gives this.
    """
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Image Repository",
            "version": version,
            "description": "Keeps images and serves any size and format of them.",
        },
        "servers": [{"url": server or "/"}],
        "paths": _paths(),
        "components": {"schemas": dict(SCHEMAS)},
    }


def _paths() -> Json:
    image, below = f"{BASE}/{{name}}", f"{BASE}/{{name}}/{MARK}"
    asked = (*modifiers.words_known(), *urls.DIRECTIVES)
    with_url = (urls.URL, urls.META)
    return {
        BASE: {"get": _reading("List images", _LISTS, listings.LISTING)},
        image: {
            "get": _reading("Get an image, or what matches below it", _IMAGES, asked),
            "put": _writing("Store or replace an image"),
            "post": _writing("Store an image that is not there yet"),
            "delete": _gone("Delete an image and all made from it"),
            "parameters": [_NAME],
        },
        f"{below}/{{derived}}": {
            "get": _reading("Get a derived image", _IMAGES, with_url),
            "parameters": [_NAME, _DERIVED],
        },
        f"{below}/v_{{tag}}/{{derived}}": {
            "get": _reading("Get a derived image of one tag", _IMAGES, with_url),
            "parameters": [_NAME, _TAG, _DERIVED],
        },
        f"{below}/info.json": {
            "get": _reading("Describe an image", {"application/json": "Image"}),
            "parameters": [_NAME],
        },
        f"{below}/{urls.EXPLAIN}": {
            "get": _reading(
                "Say where a derived image would come from, and make none",
                {"application/json": "Explanation"},
                modifiers.words_known(),
            ),
            "parameters": [_NAME],
        },
        f"{below}/purge": {
            "post": _gone("Forget all made from an image"),
            "parameters": [_NAME],
        },
        f"{BASE}/{{path}}/": {
            "get": _reading("Get all images below a path", _IMAGES, asked),
            "post": _writing("Store a form's file under its own name", form=True),
            "parameters": [_PATH],
        },
        f"{links.BASE}/{{name}}/{MARK}/{{tag}}/{{derived}}": {
            "get": _reading("Follow a temporary URL", _IMAGES, links.WORDS),
            "parameters": [_NAME, _TAG, _DERIVED],
        },
        **{
            path: {"get": _reading(summary, {"application/json": schema})}
            for path, summary, schema in _PLAIN
        },
    }


_PLAIN: Final = (
    ("/healthz", "Say that the server lives, and what it can do", "Status"),
    ("/readyz", "Say whether images can be served now", "Status"),
    (PATH, "This description", "Metadata"),
)

_LISTS: Final = {
    "application/json": "Names",
    "application/x-ndjson": "",
    "text/html": "",
}

_IMAGES: Final = {
    **{row.media_type: "" for row in FORMATS if row.served},
    "application/zip": "",
    "application/json": "Anything",
}
"""What may come for an image: itself, many in an archive, links, metadata."""


def _reading(
    summary: str, contents: Mapping[str, str], words: Iterable[Word] = ()
) -> Json:
    return {
        "summary": summary,
        "parameters": [p for word in words for p in _parameters(word)],
        "responses": {
            "200": {
                "description": "What was asked for.",
                "content": {
                    media_type: {"schema": _schema(name)}
                    for media_type, name in contents.items()
                },
            },
            "302": {"description": "The same without a tag that is not current."},
            "304": {"description": "It is what If-None-Match says."},
            **_problems(lambda cls: STATUSES[cls].derive),
        },
    }


def _writing(summary: str, *, form: bool = False) -> Json:
    file: Json = {
        "type": "object",
        "properties": {"file": {"type": "string", "contentMediaType": "image/*"}},
        "required": ["file"],
    }
    bodies: Json = {} if form else {"image/*": {"schema": BYTES}}
    stored: Json = {
        "description": "What is known of the image.",
        "content": {"application/json": {"schema": _schema("Image")}},
    }
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": file}, **bodies},
        },
        "responses": {
            "200": stored,
            "201": stored,
            **_problems(lambda cls: STATUSES[cls].upload),
        },
    }


def _gone(summary: str) -> Json:
    return {
        "summary": summary,
        "responses": {
            "204": {"description": "It is done."},
            **_problems(lambda cls: STATUSES[cls].derive),
        },
    }


def _problems(status: Callable[[type[ImageRepoError]], int]) -> Json:
    """Return the answers that errors are, by their statuses."""
    found: dict[str, list[str]] = {}
    for cls in STATUSES:
        said = (inspect.getdoc(cls) or "").partition("\n")[0]
        found.setdefault(str(status(cls)), []).append(said)
    return {
        number: {
            "description": f"{HTTPStatus(int(number)).phrase}. {' '.join(said)}",
            "content": {PROBLEM: {"schema": _schema("Problem")}},
        }
        for number, said in sorted(found.items())
    }


def _parameters(word: Word) -> Iterable[Json]:
    schema = dict(ANY_TEXT)
    if word.pattern:
        schema["pattern"] = f"^(?:{word.pattern})$"
    for spelling in word.spellings:
        same = "" if spelling == word.name else f" The same as {word.name}."
        yield {
            "name": spelling,
            "in": "query",
            "description": f"{word.help} Allowed: {word.values}.{same}",
            "schema": schema,
            "example": word.example,
        }


def _schema(name: str) -> Json:
    if name == "Anything" or not name:
        return {}
    return {"$ref": f"#/components/schemas/{name}"}
