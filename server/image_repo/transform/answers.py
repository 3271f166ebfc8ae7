"""What the head of a worker's answer says, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from image_repo.errors import (
    BadImageError,
    BadRequestError,
    DeriveError,
    ImageRepoError,
    TooLargeError,
)
from image_repo.formats import by_extension
from image_repo.geometry import Size
from image_repo.transform.headers import Header
from image_repo.transform.reduced import Reduced

_ERRORS: dict[str, type[ImageRepoError]] = {
    error.__name__: error for error in (BadImageError, TooLargeError, BadRequestError)
}
_HEADER = ("kind", "width", "height", "frames", "orientation", "scans")


@dataclass(frozen=True, slots=True)
class Rendered:
    """A derived image.

    Attributes:
        body: Its bytes.
        reduced: What was written into the file that was to be kept; None: nothing that
            is of use.
        seconds: What each step took, in order; `queue` is the wait for a worker.
    """

    body: bytes
    reduced: Reduced | None
    seconds: dict[str, float]


def error_of(head: Mapping[str, object]) -> ImageRepoError | None:
    """Return the error that an answer is; None: it is none."""
    if "error" not in head:
        return None
    kind = _ERRORS.get(str(head["error"]), DeriveError)
    return kind(str(head.get("message", "the worker failed")))


def header_of(head: Mapping[str, object]) -> Header:
    """Return the header of an image that was probed.

    Raises:
        DeriveError: There is none.
    """
    try:
        kind, *numbers = (head[name] for name in _HEADER)
        row = by_extension(str(kind))
        width, height, frames, orientation, scans = map(int, map(str, numbers))
    except (KeyError, ValueError) as e:
        raise DeriveError("a worker sent no header") from e
    if row is None:
        raise DeriveError("a worker sent no header")
    graphic = head.get("graphic") is True
    size = Size(width, height)
    return Header(row, size, frames, orientation, scans, graphic=graphic)


def rendered_of(head: Mapping[str, object], body: bytes, queued: float) -> Rendered:
    """Return the derived image that an answer brings.

    Args:
        head: Of the answer.
        body: Of the answer.
        queued: Seconds that the job has waited for a worker.

    Raises:
        DeriveError: There is none.
    """
    if not body:
        raise DeriveError("a worker sent no image")
    kept, steps = head.get("reduced"), head.get("seconds")
    reduced = Reduced.read(kept) if isinstance(kept, dict) else None
    seconds = {"queue": queued}
    for step, took in steps.items() if isinstance(steps, dict) else ():
        seconds[str(step)] = float(took)
    return Rendered(body, reduced, seconds)
