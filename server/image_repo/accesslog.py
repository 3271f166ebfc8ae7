"""nginx's access log: what a line of it says, and how a file of it is read."""

from __future__ import annotations

import gzip
import json
import math
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Final

from image_repo.errors import ConfigError

LONGEST: Final = 64 * 2**10
"""Bytes of a line; nginx takes requests of 16 KiB, of which escapes make more."""

STDIN: Final = "-"
"""Stands for the standard input, among files."""

HITS: Final = ("HIT", "STALE", "UPDATING")
CACHES: Final = (*HITS, "REVALIDATED", "EXPIRED", "MISS", "BYPASS")
"""What nginx says of its cache; the first without asking a server."""

_STATUSES: Final = 1000
_GZIP: Final = b"\x1f\x8b"
_NUMBER: Final = re.compile(r"[0-9]+\.[0-9]+")


@dataclass(frozen=True, slots=True)
class Line:
    """One request.

    Attributes:
        client: Its address.
        status: Of the answer.
        size: Bytes of the answer's body.
        cache: One of `CACHES`, or empty: the cache was not asked.
        level: What has answered: nginx, limit, or what the server says.
        name: The canonical name; empty: no derived image was asked for.
        server_seconds: How long the server took until its answer began; 0: nobody
            knows, or it was not asked.
        time: When it was answered, as nginx says it.
    """

    client: str
    status: int
    size: int
    cache: str
    level: str
    name: str
    server_seconds: float
    time: str

    @classmethod
    def read(cls, raw: bytes) -> Line | None:
        """Return what a line of the log says; None: it is none of ours."""
        try:
            said = json.loads(raw.decode("utf-8", "replace"))
            line = cls(
                client=_text(said["client"]),
                status=_number(said["status"], _STATUSES),
                size=_number(said["bytes"]),
                cache=_text(said["cache"]),
                level=_text(said["level"]).partition(";")[0],
                name=_text(said["name"]),
                server_seconds=_server_seconds(said),
                time=_text(said["time"]),
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return line if line.cache in {"", *CACHES} else None


def _text(said: object) -> str:
    if not isinstance(said, str):
        raise TypeError
    return said


def _number(said: object, below: float = math.inf) -> int:
    if not isinstance(said, int) or not 0 <= said < below:
        raise TypeError
    return said


def _server_seconds(said: dict[str, object]) -> float:
    """Return them; older lines have those of the last hop, with all its tries."""
    if "upstream" in said:
        text = _text(said["upstream"]).rpartition(" : ")[2]
        return sum(map(float, _NUMBER.findall(text)))
    seconds = said.get("server_seconds")
    if seconds is None:
        return 0.0
    if not isinstance(seconds, float) or not 0 <= seconds < math.inf:
        raise TypeError
    return seconds


def lines(stream: BufferedReader[FileIO]) -> Iterator[Line | None]:
    """Yield what each line of a log says, which may be compressed by gzip.

    None stands for a line that is none of ours, or for an end that is not there.
    """
    try:
        if stream.peek(len(_GZIP)).startswith(_GZIP):
            with gzip.open(stream) as plain:
                while raw := plain.readline(LONGEST):
                    yield Line.read(raw)
        else:
            while raw := stream.readline(LONGEST):
                yield Line.read(raw)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        yield None


@contextmanager
def opened(file: str) -> Iterator[BufferedReader[FileIO]]:
    """Open a log; `STDIN` is the standard input.

    Raises:
        ConfigError: It can't be read.
    """
    if file == STDIN:
        yield BufferedReader(FileIO(sys.stdin.fileno(), closefd=False))
        return
    try:
        stream = BufferedReader(FileIO(Path(file)))
    except OSError as error:
        raise ConfigError(f"log {file}: {error.strerror}") from error
    with stream:
        yield stream
