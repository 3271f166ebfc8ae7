"""The files of a folder as images: which there are, and what each is called.

A file is the image that it would be if it were uploaded: `plots/a.jpg` is `plots/a`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from image_repo.errors import BadRequestError
from image_repo.formats import rank
from image_repo.names import ImageName, image_name
from image_repo.transfer.progress import Outcome, Result
from image_repo.urls import split_extension


@dataclass(frozen=True, slots=True)
class Candidate:
    """Files that would all be the same image.

    Attributes:
        name: The image's.
        paths: Of the files, below the folder: that without an extension, then the
            others by the order of the table. At least one.
    """

    name: ImageName
    paths: tuple[str, ...]


def walk(top: Path, prefix: str) -> Iterator[Candidate | Result]:
    """Yield the images below a folder in a fixed order, and what can't be one.

    Hidden files and folders are passed by. Links are not followed. It holds the names
    of one folder at a time.

    Args:
        top: The folder.
        prefix: Path that all names begin with; empty: none.
    """
    waiting = [""]
    while waiting:
        below = waiting.pop()
        try:
            files, folders = _entries(f"{top}/{below}")
        except OSError as error:
            reason = f"cannot read the folder: {error.strerror}"
            yield Result(below or ".", Outcome.FAILED, reason=reason)
            continue
        waiting += [f"{below}{name}/" for name in sorted(folders, reverse=True)]
        yield from _images(f"{prefix}/" if prefix else "", below, files)


def open_file(path: str) -> BinaryIO:
    """Open a file that is not a link.

    Raises:
        OSError: It can't be opened.
    """
    # What was a file may have been replaced by a pipe, which opens only with a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags), "rb", buffering=0)


def _entries(path: str) -> tuple[list[tuple[str, bool]], list[str]]:
    """Return a folder's files, with whether they are regular ones, and its folders."""
    files, folders = [], []
    with os.scandir(path) as found:
        for entry in found:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                files.append((entry.name, entry.is_file(follow_symlinks=False)))
    return files, folders


def _images(
    prefix: str, below: str, files: list[tuple[str, bool]]
) -> Iterator[Candidate | Result]:
    named: list[tuple[ImageName, int, str]] = []
    for file, regular in sorted(files):
        path = f"{below}{file}"
        stem, extension = split_extension(file)
        if not regular:
            reason = "it is a link or a device"
            yield Result(path, Outcome.NOT_IMAGE, reason=reason)
            continue
        try:
            name = image_name(f"{prefix}{below}{stem}")
        except BadRequestError as error:
            yield Result(path, Outcome.FAILED, reason=str(error))
            continue
        named.append((name, rank(extension), path))
    named.sort()
    for name, group in groupby(named, lambda found: found[0]):
        yield Candidate(name, tuple(path for _, _, path in group))
