"""The workers of a machine, and the queue before them.

The only way from the server to ImageMagick. A worker has one job at a time; whatever
becomes of it costs that one job: a crash or a deadline ends the worker, and another
takes its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from image_repo.errors import BusyError, ConfigError, CrashError, TooCostlyError
from image_repo.modifiers import RenderOptions
from image_repo.transform import policy
from image_repo.transform.answers import Rendered, error_of, header_of, rendered_of
from image_repo.transform.child import Worker
from image_repo.transform.frames import FrameError, Head, Message, send_with_files
from image_repo.transform.headers import Header, Limits
from image_repo.transform.reduced import Reduced
from image_repo.transform.taken import WorkerOptions

__all__ = ["Limits", "Pool", "Rendered", "WorkerOptions"]

T = TypeVar("T")

log = logging.getLogger(__name__)

_LONGEST_PAUSE = 30.0  # between attempts to start a worker


class Pool:
    """Workers that probe and derive.

    Args:
        options: How many, how long, how much.
        limits: How large an image may be.
        render: What steers pixels besides the names.
        confined: Whether workers lose the right to open files and connections; only
            tests that measure coverage inside workers say no.

    Attributes:
        derivations: Images made since the start.
        crashes: Workers that died at their work.
        timeouts: Derivations stopped at their deadline.
        kinds: The kinds that this ImageMagick really writes.
        magick: Its version and build.
    """

    def __init__(
        self,
        options: WorkerOptions,
        limits: Limits,
        render: RenderOptions,
        *,
        confined: bool = True,
    ) -> None:
        self.options = options
        self.count = options.count or len(os.sched_getaffinity(0))
        self.kinds: frozenset[str] = frozenset()
        self.magick = ""
        self.derivations = self.crashes = self.timeouts = 0
        self._limits = limits
        self._settings: Head = {
            "limits": asdict(limits),
            "render": asdict(render),
            "memory": options.memory,
            "nice": options.nice,
            "confined": confined,
        }
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._waiters: deque[asyncio.Future[Worker]] = deque()
        self._tasks: set[asyncio.Task[object]] = set()
        self._seconds = 0.1  # a job takes so long, by a moving average
        self._closed = False

    # -- life --------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Start every worker; each has shown what it can when this returns.

        Raises:
            ConfigError: A worker can't be started.
        """
        self._folder = await asyncio.to_thread(
            tempfile.TemporaryDirectory, prefix="image_repo-"
        )
        starts = [asyncio.ensure_future(self._start()) for _ in range(self.count)]
        try:
            workers = await asyncio.gather(*starts)
        except BaseException as e:
            await asyncio.gather(*starts, return_exceptions=True)
            await self._close()
            if isinstance(e, FrameError | OSError | TimeoutError):
                raise ConfigError(f"a worker can't be started: {e}") from e
            raise
        self._idle.extend(workers)
        log.info("%d workers started: %s", self.count, self.magick)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every worker; jobs that still run are lost."""
        await self._close()

    async def _close(self) -> None:
        self._closed = True
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_exception(BusyError("the server is stopping"))
        idle = set(self._idle)
        self._idle.clear()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        ends = [worker.end(kill=worker not in idle) for worker in self._all]
        await asyncio.gather(*ends)
        self._all.clear()
        await asyncio.to_thread(self._folder.cleanup)

    # -- work --------------------------------------------------------------------------

    async def probe(self, file: BinaryIO, size: int) -> Header:
        """Return the header of the image in the first *size* bytes of *file*.

        Raises:
            BadImageError: They are no complete image of a format that is read.
            TooLargeError: The image is beyond the limits.
            BusyError: The queue is full.
            CrashError: The worker died at it.
            DeriveError: The worker failed otherwise.
        """
        found, _ = await self._do({"op": "probe", "size": size}, (file,))
        return header_of(found.head)

    async def derive(
        self,
        file: BinaryIO,
        size: int,
        text: str,
        *,
        check: Callable[[], None] | None = None,
        reduced: Reduced | None = None,
        keep: BinaryIO | None = None,
    ) -> Rendered:
        """Return a derived image.

        Args:
            file: A real file; its first *size* bytes are the original, or the picture
                that *reduced* tells of. It may be closed as soon as this ends, even by
                cancellation.
            size: Bytes of that.
            text: The job: modifiers and kind of a canonical name.
            check: Called when a worker is free; what it raises ends the job unbegun.
            reduced: What the file is, if it is not the original. Whatever is wrong
                with it is a DeriveError: the original may do.
            keep: An empty file, unbuffered, for the picture that is decoded. It may be
                written to as long as the job runs, even after a cancellation.

        Raises:
            BadImageError: The original is no complete image.
            TooLargeError: The original, or the result, is beyond the limits.
            TooCostlyError: It took longer than the deadline.
            BusyError: The queue is full.
            CrashError: The worker died at it.
            DeriveError: The worker failed otherwise.
        """
        job: Head = {
            "op": "derive",
            "size": size,
            "text": text,
            "reduced": None if reduced is None else reduced.as_text(),
        }
        files = (file,) if keep is None else (file, keep)
        found, queued = await self._do(job, files, check)
        made = rendered_of(found.head, found.body, queued)
        self.derivations += 1
        return made

    async def metadata(
        self,
        file: BinaryIO,
        size: int,
        groups: Sequence[str],
        *,
        check: Callable[[], None] | None = None,
    ) -> bytes:
        """Return as JSON what is told of an original, *groups* too; as `derive`."""
        job: Head = {"op": "metadata", "size": size, "groups": [*groups]}
        found, _ = await self._do(job, (file,), check)
        return found.body

    @property
    def waiting(self) -> int:
        """How many jobs wait for a worker."""
        return sum(not waiter.done() for waiter in self._waiters)

    @property
    def idle(self) -> int:
        """How many workers wait for a job."""
        return len(self._idle)

    @property
    def expected(self) -> float:
        """Seconds that a new job would take with its wait, by the last ones."""
        return self._seconds * (self.waiting + self.count) / self.count

    def statistics(self) -> dict[str, int]:
        """Return the counters, by their names."""
        names = ("count", "idle", "waiting", "derivations", "crashes", "timeouts")
        return {name: getattr(self, name) for name in names}

    async def _do(
        self,
        job: Head,
        files: Sequence[BinaryIO],
        check: Callable[[], None] | None = None,
    ) -> tuple[Message, float]:
        """Return the answer to a job, and the seconds for which it was queued."""
        head: Head = {**job, "deadline": self.options.deadline}
        begun = time.perf_counter()
        worker = await self._send(head, files, check)
        queued = time.perf_counter() - begun
        # The job goes on when its caller leaves: the answer must be read before the
        # worker can have another.
        work = self._background(self._finish(worker))
        try:
            found = await asyncio.shield(work)
        except asyncio.CancelledError:
            if work.cancelled():  # by `_close`, not by the caller's leaving
                raise BusyError("the server is stopping") from None
            raise
        if isinstance(found, Exception):
            raise found
        return found, queued

    async def _send(
        self,
        head: Head,
        files: Sequence[BinaryIO],
        check: Callable[[], None] | None,
    ) -> Worker:
        """Give a job to a worker; one that has died idle costs the job nothing."""
        for _ in range(self.count + 1):
            worker = await self._acquire()
            try:
                if check is not None:
                    check()
                # Sent before anything can be cancelled, so that the caller's files are
                # needed no more.
                send_with_files(worker.sock, head, [file.fileno() for file in files])
            except FrameError:
                self.crashes += 1
                log.warning("worker %d died while idle", worker.process.pid)
                self._replace(worker)
            except BaseException:
                self._release(worker)
                raise
            else:
                return worker
        raise BusyError("no worker stays alive", self._retry_after())

    async def _finish(self, worker: Worker) -> Message | Exception:
        """Return a worker's answer, and make the worker free or replace it.

        Errors are returned, not raised: nobody may be left to hear of them.
        """
        begun = time.monotonic()
        try:
            async with asyncio.timeout(self.options.deadline):
                found = await worker.receive()
        except TimeoutError:
            self.timeouts += 1
            self._replace(worker)
            return TooCostlyError(
                f"the image took longer than {self.options.deadline:g} seconds"
            )
        except FrameError as e:
            self.crashes += 1
            log.warning("worker %d died: %s", worker.process.pid, e)
            self._replace(worker)
            return CrashError("the worker crashed")
        self._seconds += (time.monotonic() - begun - self._seconds) / 8
        self._release(worker)
        return error_of(found.head) or found

    # -- workers -----------------------------------------------------------------------

    async def _acquire(self) -> Worker:
        if self._closed:
            raise BusyError("the server is stopping")
        if self._idle:
            return self._idle.pop()
        if self.waiting >= self.options.queue:
            raise BusyError("too many derivations are waiting", self._retry_after())
        waiter: asyncio.Future[Worker] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self.options.deadline):
                return await waiter
        except TimeoutError as e:
            self._hand_on(waiter)
            raise BusyError("no worker became free", self._retry_after()) from e
        except asyncio.CancelledError:
            self._hand_on(waiter)
            raise

    def _hand_on(self, waiter: asyncio.Future[Worker]) -> None:
        """Forget a waiter that has left; a worker it was given goes to the next."""
        with contextlib.suppress(ValueError):
            self._waiters.remove(waiter)
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._release(waiter.result())

    def _release(self, worker: Worker) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(worker)
                return
        self._idle.append(worker)

    def _retry_after(self) -> int:
        return min(60, max(1, math.ceil(self.expected)))

    def _replace(self, worker: Worker) -> None:
        worker.process.kill()
        _ = self._background(self._renew(worker))

    async def _renew(self, old: Worker) -> None:
        await old.end()
        self._all.discard(old)
        pause = 0.5
        while True:
            try:
                self._release(await self._start())
            except (FrameError, OSError, TimeoutError) as e:
                log.error("a worker can't be started: %s", e)  # noqa: TRY400
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                return

    async def _start(self) -> Worker:
        folder = Path(self._folder.name)
        memory = self.options.memory
        environment = await asyncio.to_thread(
            policy.environment, self._limits, memory, folder, os.environ
        )
        worker = await Worker.start(environment, folder, self._settings)
        kinds = worker.hello.get("kinds")
        writes = frozenset(kinds if isinstance(kinds, list) else ())
        self.kinds = self.kinds & writes if self._all else writes
        self.magick = str(worker.hello.get("magick", ""))
        self._all.add(worker)
        return worker

    def _background(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
