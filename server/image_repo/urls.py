"""URLs: the one place where a request's target is read.

```
/images, /images/                        list
/images/{name}[.{kind}]                  derived image; POST, PUT, DELETE: the original
/images/{name}/_/{modifiers}.{kind}      derived image, canonical
/images/{name}/_/v_{tag}/{modifiers}.{kind}     the same, of one tag only
/images/{name}/_/{modifiers}.auto        the same, in the kind that suits best
/images/{name}/_/{view}                  what is said about an image
/images/{name}/_/explain.json            the same about a derived image, with its words
/images/{path}/                          everything below a path; POST: a form's file
```

From the values made here on, no raw text of the request exists.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from image_repo import listings, modifiers, names, targets, words
from image_repo.errors import BadRequestError
from image_repo.formats import AUTO, FORMATS, Format, by_extension
from image_repo.listings import REGEX, ListRequest
from image_repo.modifiers import KIND, ImageOptions, Modifier
from image_repo.names import BASE, MARK, DerivedName, ImageName, Tag, image_name
from image_repo.words import TRUTH, TRUTHS, Word, Words

URL = Word("url", (), TRUTH, "Answer a temporary URL, not the image.", "true", TRUTHS)
META = Word(
    "meta", (), TRUTH, "Answer the original's metadata as JSON.", "true", TRUTHS
)
DIRECTIVES = (URL, META, REGEX)

READING = ("GET", "HEAD")
EXPLAIN = "explain.json"
VIEWS = {"info.json": READING, EXPLAIN: READING, "purge": ("POST",)}
"""Each view with its methods."""

_WRITING = ("POST", "PUT", "DELETE")

_ORIGIN = re.compile("[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*")
_VERSION = "v_"
_ANY_KIND = FORMATS[0].kind


class MethodError(BadRequestError):
    """The path has a meaning, but not with this method.

    Args:
        allowed: The methods that the path has.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        super().__init__(f"the method must be one of {', '.join(allowed)} here")
        self.allowed = allowed


@dataclass(frozen=True, slots=True)
class Directives:
    """What changes the answer, not the bytes of an image."""

    url: bool = False
    meta: bool = False
    regex: str | None = None

    @property
    def given(self) -> tuple[str, ...]:
        """The words of those that ask for something."""
        asked = (("url", self.url), ("meta", self.meta))
        given = tuple(word for word, yes in asked if yes)
        return given if self.regex is None else (*given, "regex")


@dataclass(frozen=True, slots=True)
class DerivedRequest:
    """A derived image.

    Attributes:
        name: Which.
        canonical: Whether the path, decoded, equals the canonical one. How it was
            percent-encoded doesn't count: nginx encodes anew what it passes on.
        tag: The only tag it may be served with; None: any.
        directives: What changes the answer.
        negotiated: Whether its kind was chosen by what the client accepts.
    """

    name: DerivedName
    canonical: bool
    tag: Tag | None
    directives: Directives
    negotiated: bool = False

    @property
    def path(self) -> str:
        """The canonical path that answers this, quoted."""
        return (
            self.name.path if self.tag is None else self.name.versioned_path(self.tag)
        )


@dataclass(frozen=True, slots=True)
class AutoRequest:
    """A derived image in the kind that suits the client and the image best.

    Its name is not known yet: this is an alias of several.
    """

    image: ImageName
    modifiers: tuple[Modifier, ...]
    tag: Tag | None
    directives: Directives

    def into(self, kind: Format) -> DerivedRequest:
        """Return what is asked for, once the kind is chosen."""
        name = DerivedName(self.image, self.modifiers, kind)
        return DerivedRequest(name, False, self.tag, self.directives, negotiated=True)


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A write to an original: POST, PUT or DELETE."""

    image: ImageName


@dataclass(frozen=True, slots=True)
class FolderRequest:
    """Everything strictly below a path, or a POST into it.

    Attributes:
        path: The path without the slash that follows it.
        modifiers: What is to be done to each image.
        format: What each comes in.
        directives: What changes the answer; a regex sees only names below the path.
    """

    path: ImageName
    modifiers: tuple[Modifier, ...]
    format: Format
    directives: Directives


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """What is said about an image, or done to what was made from it."""

    image: ImageName
    view: str


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """Where a derived image would come from."""

    name: DerivedName


_BelowImage = DerivedRequest | AutoRequest | ViewRequest | ExplainRequest
Request = ListRequest | ImageRequest | FolderRequest | _BelowImage


@dataclass(frozen=True, slots=True)
class _Target:
    """A target taken apart, on the way to a `Request`."""

    segments: tuple[str, ...]
    """Decoded, those after /images."""
    pairs: tuple[tuple[str, str], ...]
    """The query, decoded."""
    method: str
    defaults: ImageOptions

    def need(self, *allowed: str) -> None:
        if self.method not in allowed:
            raise MethodError(allowed)

    def words(self, known: Sequence[Word]) -> Words:
        return words.resolve(self.pairs, known)


def origin_form(raw_target: str) -> str:
    """Return a request's raw target without scheme and host, if it has them."""
    found = _ORIGIN.match(raw_target)
    if found is None:
        return raw_target
    rest = raw_target[found.end() :]
    return rest if rest.startswith("/") else f"/{rest}"


def read(raw_target: str, method: str, defaults: ImageOptions) -> Request:
    """Return what a request asks.

    Args:
        raw_target: As received, percent-encoded, with the query.
        method: In capitals, as HTTP has it.
        defaults: What the target means where it says nothing.

    Raises:
        MethodError: The path has a meaning with other methods only.
        BadRequestError: It has no meaning; names the parameter and what is allowed.
    """
    (first, base, *segments), pairs = targets.read(origin_form(raw_target))
    if first or f"/{base}" != BASE:
        raise BadRequestError(f"the path must begin with {BASE}")
    target = _Target(tuple(segments), pairs, method, defaults)
    if target.segments in {(), ("",)}:
        target.need(*READING)
        return listings.read(target.words(listings.LISTING))
    if MARK in target.segments:
        return _below_image(target)
    if not target.segments[-1]:
        return _folder(target, target.segments[:-1])
    return _image(target)


def upload_name(path: ImageName, filename: str) -> ImageName:
    """Return the name of an image whose file is uploaded into *path*.

    Raises:
        BadRequestError: The file's name makes no name of an image.
    """
    # Some clients send the path on their machine: RFC 7578, section 4.2.
    stem, _ = split_extension(re.split(r"[/\\]", filename)[-1])
    return image_name(f"{path}/{stem}")


def split_extension(segment: str) -> tuple[str, str]:
    """Return *segment* without the extension that the table knows, and that one."""
    stem, dot, extension = segment.rpartition(".")
    if dot and stem and by_extension(extension) is not None:
        return stem, extension
    return segment, ""


# -- each form -------------------------------------------------------------------------


def _folder(target: _Target, segments: Sequence[str]) -> FolderRequest:
    path = image_name("/".join(segments))
    if target.method in {"PUT", "DELETE"}:
        raise BadRequestError("a path that ends in '/' is no image")
    target.need(*READING, "POST")
    known = () if target.method == "POST" else (*modifiers.words_known(), *DIRECTIVES)
    given = target.words(known)
    return FolderRequest(path, *_decided(given, target), _directives(given))


def _image(target: _Target) -> Request:
    *folders, last = target.segments
    stem, extension = split_extension(last)
    image = image_name("/".join((*folders, stem)))
    if target.method in _WRITING:
        target.words(())
        return ImageRequest(image)
    target.need(*READING, *_WRITING)
    if any(word == REGEX.name for word, _ in target.pairs):
        return _folder(target, target.segments)
    kinds = ((modifiers.KIND.name, extension),) if extension else ()
    target = replace(target, pairs=(*kinds, *target.pairs))
    given = target.words((*modifiers.words_known(), URL, META))
    directives = _directives(given)
    if _is_auto(given.get(KIND.name, "")):
        asked, _ = modifiers.read({**given, KIND.name: _ANY_KIND}, target.defaults)
        return AutoRequest(image, asked, None, directives)
    name = DerivedName(image, *modifiers.read(given, target.defaults))
    return DerivedRequest(name, canonical=False, tag=None, directives=directives)


def _is_auto(kind: str) -> bool:
    return kind.lower() == AUTO


def _decided(given: Words, target: _Target) -> tuple[tuple[Modifier, ...], Format]:
    """Return modifiers and format of what is not one image for one client."""
    if _is_auto(given.get(KIND.name, "")):
        raise BadRequestError(
            f"kind {AUTO!r} is chosen for one image at a time:"
            f" here it must be {KIND.values}"
        )
    return modifiers.read(given, target.defaults)


def _below_image(target: _Target) -> _BelowImage:
    at = target.segments.index(MARK)
    image = image_name("/".join(target.segments[:at]))
    match target.segments[at + 1 :]:
        case (view,) if view in VIEWS:
            target.need(*VIEWS[view])
            if view == EXPLAIN:
                given = target.words(modifiers.words_known())
                return ExplainRequest(DerivedName(image, *_decided(given, target)))
            target.words(())
            return ViewRequest(image, view)
        case (text,) if text:
            return _derived(target, image, text, None)
        case (version, text) if version.startswith(_VERSION):
            tag = names.read_tag(version.removeprefix(_VERSION))
            if tag is None:
                words.refuse("v", version[len(_VERSION) :], "16 digits of 0-9a-f")
            return _derived(target, image, text, tag)
        case _:
            raise BadRequestError(
                f"after /{MARK}/ comes a derived image such as w_400.jpg,"
                f" or one of {', '.join(VIEWS)}"
            )


def _derived(
    target: _Target, image: ImageName, text: str, tag: Tag | None
) -> DerivedRequest | AutoRequest:
    stem, _, kind = text.rpartition(".")
    auto = _is_auto(kind)
    written = f"{stem}.{_ANY_KIND}" if auto else text
    asked, row = names.read_text(written, target.defaults)
    target.need(*READING)
    found = _directives(_only_directives(target), modified=True)
    if auto:
        return AutoRequest(image, asked, tag, found)
    name = DerivedName(image, asked, row)
    version = () if tag is None else (f"{_VERSION}{tag}",)
    canonical = (*image.split("/"), MARK, *version, name.text)
    return DerivedRequest(name, target.segments == canonical, tag, found)


def _only_directives(target: _Target) -> Words:
    for word in modifiers.words_known():
        for spelling, _ in target.pairs:
            if spelling in word.spellings:
                raise BadRequestError(
                    f"parameter {spelling!r} can't follow a path that has its modifiers"
                    f" in it: only {URL.name} and {META.name} can"
                )
    return target.words((URL, META))


def _directives(given: Words, *, modified: bool = False) -> Directives:
    """Return the directives among *given*; *modified*: the path has modifiers in it."""
    found = Directives(
        words.truth(given, "url"), words.truth(given, "meta"), listings.regex(given)
    )
    if found.url and found.meta:
        raise BadRequestError("parameters 'url' and 'meta' can't be given together")
    others = given.keys() - {word.name for word in DIRECTIVES}
    if found.meta and (modified or others):
        shown = ", ".join(sorted(others)) or "those in the path"
        raise BadRequestError(f"parameter 'meta' takes no modifiers, not {shown}")
    return found
