"""A worker: a child process that decodes and encodes, one job at a time.

`python -m image_repo.transform.worker FD` serves the socket FD until it ends.
Nothing else in the package loads ImageMagick.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from image_repo.errors import (
    BadImageError,
    BadRequestError,
    DeriveError,
    ImageRepoError,
    TooLargeError,
)
from image_repo.formats import FORMATS
from image_repo.modifiers import RenderOptions
from image_repo.names import read_job
from image_repo.transform import policy
from image_repo.transform.frames import (
    MAX_BODY,
    FrameError,
    Head,
    Message,
    encode,
    receive,
)
from image_repo.transform.headers import Limits
from image_repo.transform.reduced import Reduced

GRACE = 5
"""Seconds after its deadline when a worker ends itself, should the server be gone."""

_KEPT = 192 * 2**20
"""Bytes of memory kept between jobs; a job of more gives all of it back."""

_PAGE = resource.getpagesize()
_REFUSED = ("mvg", "msl", "svg", "text", "label", "caption", "url", "file", "info")
"""Coders that must be refused before the first job: they read files or draw texts."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the first message gives a worker for its life."""

    limits: Limits
    render: RenderOptions
    memory: int
    nice: int
    confined: bool


@dataclass(frozen=True, slots=True)
class Job:
    """What a message asks for.

    Attributes:
        head: Of the message.
        data: The bytes that are to be worked on.
        keep: An open file for what is worth keeping; None: nothing is.
    """

    head: Mapping[str, object]
    data: bytes
    keep: int | None


def main(descriptor: int) -> None:
    """Serve the socket *descriptor* until the other side closes it."""
    with socket.socket(fileno=descriptor) as sock:
        message, _ = receive(sock)
        settings = _settings(message)
        policy.limit(settings.memory)
        hello = _hello()
        policy.stand_back(settings.nice)  # others wait for its start
        sock.sendall(encode(hello))
        memory = os.open("/proc/self/statm", os.O_RDONLY)
        if settings.confined:
            policy.confine()
        while True:
            try:
                message, files = receive(sock)
            except FrameError:
                return
            with _alarm(float(_number(message.head, "deadline")) + GRACE):
                sock.sendall(_answer(message.head, files, settings))
            _give_back(memory)


def _number(head: Mapping[str, object], name: str) -> float:
    value = head[name]
    if not isinstance(value, int | float):
        raise TypeError(name)
    return value


def _settings(message: Message) -> Settings:
    limits, render = message.head["limits"], message.head["render"]
    if not isinstance(limits, dict) or not isinstance(render, dict):
        raise TypeError("settings")
    return Settings(
        Limits(**limits),
        RenderOptions(**render),
        int(_number(message.head, "memory")),
        int(_number(message.head, "nice")),
        bool(message.head["confined"]),
    )


def _hello() -> Head:
    """Load ImageMagick and try it; every coder is loaded when this returns.

    With it comes all that reads metadata: a confined worker can load no module.
    """
    # Here, since limits come before.
    from image_repo.transform import render, trial  # noqa: PLC0415

    for coder in _REFUSED:
        if trial.can_read(coder):
            raise DeriveError(f"ImageMagick's policy lets {coder} pass")
    kinds = [row.kind for row in FORMATS if row.served and trial.can_write(row)]
    for row in FORMATS:
        trial.load(row)
        if row.kind in kinds:
            render.holds_alpha(row)
    return {"kinds": [*kinds], "magick": trial.version()}


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End the process, whatever it is doing, if the block takes longer."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(
    head: Mapping[str, object], files: Sequence[int], settings: Settings
) -> bytes:
    """Return the answer to a job; every error becomes one."""
    try:
        data = _read(files, int(_number(head, "size")))
        job = Job(head, data, files[1] if len(files) > 1 else None)
        return _WORK[str(head["op"])](job, settings)
    except MemoryError:
        return _error(TooLargeError("the image needs more memory than is allowed"))
    except ImageRepoError as e:
        return _error(e)
    except Exception as e:  # noqa: BLE001 - the boundary: one job, not the worker
        traceback.print_exception(e)
        return _error(DeriveError("the worker failed"))
    finally:
        for file in files:
            os.close(file)


def _read(files: Sequence[int], size: int) -> bytes:
    """Return the first *size* bytes of the first of *files*."""
    if not files:
        raise DeriveError("the job came without a file")
    parts, at = [], 0
    while at < size:
        part = os.pread(files[0], size - at, at)
        if not part:
            raise DeriveError("the stored image is shorter than its size says")
        parts.append(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _error(error: ImageRepoError) -> bytes:
    known = (BadImageError, TooLargeError, BadRequestError)
    kind = next((k.__name__ for k in known if isinstance(error, k)), "DeriveError")
    return encode({"error": kind, "message": str(error)})


def _probe(job: Job, settings: Settings) -> bytes:
    from image_repo.transform import render  # noqa: PLC0415

    header = render.probe(job.data, settings.limits)
    return encode(
        {
            "kind": header.format.kind,
            "width": header.size.width,
            "height": header.size.height,
            "frames": header.frames,
            "orientation": header.orientation,
            "scans": header.scans,
            "graphic": header.graphic,
        }
    )


def _derive(job: Job, settings: Settings) -> bytes:
    from image_repo.transform import render  # noqa: PLC0415

    made = render.derive(
        render.Source(job.data, _reduced(job.head.get("reduced"))),
        render.Wanted(*read_job(str(job.head["text"]))),
        settings.limits,
        settings.render,
        job.keep,
    )
    if len(made.body) > MAX_BODY:
        raise TooLargeError(f"the derived image has more than {MAX_BODY} bytes")
    kept = None if made.reduced is None else made.reduced.as_text()
    return encode({"seconds": made.seconds, "reduced": kept}, made.body)


def _reduced(said: object) -> Reduced | None:
    """Return what the job's data are; None: an original."""
    if said is None:
        return None
    found = Reduced.read(said) if isinstance(said, dict) else None
    if found is None:
        raise DeriveError("the reduced picture is of a kind that is not known here")
    return found


def _metadata(job: Job, settings: Settings) -> bytes:
    from image_repo.transform import metadata, render  # noqa: PLC0415

    groups = job.head["groups"]
    if not isinstance(groups, list):
        raise TypeError("groups")
    header = render.probe(job.data, settings.limits)
    return encode({}, metadata.as_json(metadata.read(job.data, header, groups)))


_WORK: dict[str, Callable[[Job, Settings], bytes]] = {
    "probe": _probe,
    "derive": _derive,
    "metadata": _metadata,
}


def _give_back(memory: int) -> None:
    """Return free memory to the system if there is much; see `_KEPT`."""
    resident = int(os.pread(memory, 100, 0).split()[1]) * _PAGE
    if resident > _KEPT:
        ctypes.CDLL(None).malloc_trim(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
