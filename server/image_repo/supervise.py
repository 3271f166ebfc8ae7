"""Server and nginx together in the foreground: what `scripts/serve` runs.

The server is a child on a Unix socket, nginx a child before it on a TCP port; both run
as the user who started this, and write below the work directory; images are kept where
the configuration says.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo import announce
from image_repo.announce import tell
from image_repo.errors import ConfigError
from image_repo.hangup import Hangup

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence

PROGRAM = (sys.executable, "-m", "image_repo.cli")
LOOPBACK = ("127.0.0.1", "::1")
MARGIN = 5.0  # seconds above http.drain_seconds, in which a child should have ended
LOOK = 0.5  # seconds between two looks at the code
MAX_PORT = 2**16 - 1
SOCKET, COLD = "server.sock", "nginx.sock"
SOCKET_PATH = 100  # bytes; Linux allows 107, see unix(7)
HARMLESS = re.compile("PATH|HOME|TZ|LANG|LC_[A-Z]+")
"""The only variables that nginx gets: it has no use for credentials."""


@dataclass(frozen=True, slots=True)
class Places:
    """Where things are kept.

    Attributes:
        images: Where the images are, in words.
        data: Their directory; None: they are in Swift.
        work: The directory of lock, socket, and all that nginx writes.
    """

    images: str
    data: Path | None
    work: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where.

    Attributes:
        command: The program with the words that choose its configuration.
        addresses: Where nginx listens, as `127.0.0.1` or `::1`.
        port: Its port.
        places: Where things are kept, as absolute paths.
        run: The directory of the sockets; short enough for their paths.
    """

    command: tuple[str, ...]
    addresses: tuple[str, ...]
    port: int
    places: Places
    run: Path

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.run / SOCKET

    @property
    def nginx(self) -> Path:
        """The directory of nginx: its configuration, temporary files and cache."""
        return self.places.work / "nginx"

    @property
    def environment(self) -> Mapping[str, str]:
        """The options that server and nginx must agree on."""
        written = (f"[{a}]" if ":" in a else a for a in self.addresses)
        data = self.places.data
        kept = (
            {"IMAGE_REPO_STORE": "swift"}
            if data is None
            else {"IMAGE_REPO_STORE": "directory", "IMAGE_REPO_DATA": str(data)}
        )
        return {
            **os.environ,
            **kept,
            "IMAGE_REPO_WORK": str(self.places.work),
            "IMAGE_REPO_BEHIND_NGINX": "true",
            "IMAGE_REPO_LISTEN": f"unix:{self.socket}",
            "IMAGE_REPO_NGINX_CACHE_PATH": str(self.nginx / "cache"),
            "IMAGE_REPO_NGINX_COLD_LISTEN": f"unix:{self.run / COLD}",
            "IMAGE_REPO_NGINX_LISTEN": " ".join(f"{a}:{self.port}" for a in written),
        }

    @property
    def front(self) -> announce.Front:
        """Where the server is seen through nginx."""
        return announce.Front(self.addresses[0], self.port, self.socket)


class Stop:
    """Signals to stop: the first asks, a second one hurries.

    Args:
        patience: Seconds in which requests under way may end.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()
        self.hangup = Hangup()

    def ask(self) -> None:
        """Take one signal."""
        (self.hurry if self.asked.is_set() else self.asked).set()


async def supervise(  # noqa: PLR0913 - the words of a command
    config_args: Sequence[str],
    port: int,
    places: Places,
    *,
    reload: bool,
    bind: Sequence[str] = LOOPBACK,
    program: Sequence[str] = PROGRAM,
    drain: float = 30.0,
) -> int:
    """Serve until SIGINT or SIGTERM, or until one of the two ends; return an exit code.

    Args:
        config_args: Words for the program that choose the configuration.
        port: The port of nginx; 0 takes a free one.
        places: Where things are kept; directories are made if they are missing.
        reload: Whether the server restarts when the code changes.
        bind: The addresses on which nginx listens; those not had are left out.
        program: What serves, and writes the configuration of nginx.
        drain: Seconds that requests under way get at the end, as http.drain_seconds.

    Raises:
        ConfigError: An option is wrong, the port can't be had, nginx is not installed,
            or another server uses one of the directories.
    """
    stop = Stop(drain + MARGIN)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.ask)
    port, addresses = free_addresses(port, bind)
    with kept(places) as held, short(held.work) as run:
        plan = Plan((*program, *config_args), addresses, port, held, run)
        log = str(plan.nginx / "error.log")  # the built-in one is not for all users
        front = (nginx_program(), "-e", log, "-c", write_configuration(plan))
        tell(places.images)
        plain = {k: v for k, v in os.environ.items() if HARMLESS.fullmatch(k)}
        async with child(front, plain, stop) as nginx:
            return await serve(plan, nginx, stop, reload=reload)


async def serve(
    plan: Plan, nginx: asyncio.subprocess.Process, stop: Stop, *, reload: bool
) -> int:
    """Keep a server running behind *nginx*; return the exit code of the whole."""
    alive = asyncio.Event()
    announced = asyncio.create_task(announce.ready(plan.front, alive))
    try:
        while True:
            change = Code.now().change if reload else forever
            async with child(plan.command, plan.environment, stop) as server:
                reread = partial(server.send_signal, signal.SIGHUP)
                stop.hangup.heed(reread, stop.ask)  # nginx keeps what it was told
                event = await first(
                    stop=stop.asked.wait(),
                    server=server.wait(),
                    nginx=nginx.wait(),
                    silence=forever() if reload else announce.silence(alive),
                    code=change(),
                )
                if event == "server" and reload:
                    tell("the server has ended; it starts again when its code changes")
                    event = await first(
                        stop=stop.asked.wait(), nginx=nginx.wait(), code=change()
                    )
                if event == "server":
                    tell(f"the server has ended with status {server.returncode}")
                if event == "nginx":
                    tell(f"nginx has ended; see {plan.nginx / 'error.log'}")
                if event != "code":  # requests in flight need the server to the end
                    await end(nginx, signal.SIGQUIT, stop)
                    return 0 if event == "stop" else (server.returncode or 1)
    finally:
        announced.cancel()


@dataclass(frozen=True, slots=True)
class Code:
    """The package's Python files as they were at one moment."""

    stamps: Mapping[Path, int]

    @classmethod
    def now(cls) -> Code:
        """Look at all files; one that vanishes meanwhile is left out."""
        stamps = {}
        for path in Path(__file__).parent.rglob("*.py"):
            with contextlib.suppress(FileNotFoundError):
                stamps[path] = path.stat().st_mtime_ns
        return cls(stamps)

    async def change(self) -> None:
        """Return once a file is new, gone or altered."""
        while await asyncio.to_thread(Code.now) == self:  # noqa: ASYNC110 - polls files
            await asyncio.sleep(LOOK)


@contextlib.asynccontextmanager
async def child(
    command: Sequence[str], environment: Mapping[str, str], stop: Stop
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a child process; on leaving, `end` it.

    It has a session of its own, so that Ctrl-C reaches us alone and both can be stopped
    in order; should we be killed, it is told to end as well.
    """
    if shutil.which("setpriv"):
        command = ("setpriv", "--pdeathsig", "TERM", *command)
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, start_new_session=True
    )
    try:
        yield process
    finally:
        await end(process, signal.SIGTERM, stop)
        with contextlib.suppress(ProcessLookupError):  # what a killed parent left
            os.killpg(process.pid, signal.SIGKILL)


async def end(
    process: asyncio.subprocess.Process, signal_number: signal.Signals, stop: Stop
) -> None:
    """Ask a child by the signal to finish, and wait; be harder on one that doesn't."""
    steps = (
        (process.send_signal, signal_number, stop.patience),
        (process.send_signal, signal.SIGTERM, 2.0),
        (partial(os.killpg, process.pid), signal.SIGKILL, MARGIN),
    )
    for send, number, patience in steps:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                send(number)
        waits: dict[str, Awaitable[object]] = {"late": asyncio.sleep(patience)}
        if number == signal_number:
            waits["hurry"] = stop.hurry.wait()
        if await first(ended=process.wait(), **waits) == "ended":
            return


async def first(**waits: Awaitable[object]) -> str:
    """Return the name of the wait that ends first; the others are cancelled."""
    tasks = {name: asyncio.ensure_future(wait) for name, wait in waits.items()}
    try:
        await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_COMPLETED)
        return next(name for name, task in tasks.items() if task.done())
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


def write_configuration(plan: Plan) -> str:
    """Write the configuration of nginx; return the path of the file.

    Raises:
        ConfigError: An option is wrong; the program has said which.
    """
    # Its error log names whole requests, the signatures of links included.
    plan.nginx.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = subprocess.run(  # noqa: S603 - our own program
        [*plan.command, "nginx-conf", "--standalone", str(plan.nginx)],
        env=plan.environment,
        capture_output=True,
        check=False,
    )
    if made.returncode != 0:
        raise ConfigError(made.stderr.decode().strip().removeprefix("image_repo: "))
    configuration = plan.nginx / "nginx.conf"
    configuration.write_bytes(made.stdout)
    return str(configuration)


def nginx_program() -> str:
    """Return where nginx is: an ordinary user's PATH lacks Debian's place."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"
    found = shutil.which("nginx", path=path)
    if found is None:
        raise ConfigError("nginx is not installed")
    return found


def free_addresses(port: int, bind: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Return the port and those of the addresses that this machine has.

    Raises:
        ConfigError: Another program has the port, we may not have it, or there is no
            such address.
    """
    if not 0 <= port <= MAX_PORT:
        raise ConfigError(
            f"port {port}: 0 to {MAX_PORT} are allowed; 0 is any free one"
        )
    found = []
    for address in bind:
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            with socket.socket(family) as attempt:
                attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                attempt.bind((address, port))
                port = attempt.getsockname()[1]
                found.append(address)
        except OSError as error:
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                used = error.errno == errno.EADDRINUSE
                reason = "is in use" if used else f"can't be had ({error.strerror})"
                raise ConfigError(
                    f"port {port} of {address} {reason}; choose another by --port"
                ) from error
    if not found:
        raise ConfigError(f"this machine has none of the addresses {', '.join(bind)}")
    return port, tuple(found)


@contextlib.contextmanager
def kept(places: Places) -> Iterator[Places]:
    """Own the directories of *places*, and give them as absolute paths.

    Raises:
        ConfigError: As `owned`.
    """
    with contextlib.ExitStack() as stack:
        work, data = stack.enter_context(owned(places.work)), places.data
        if data is not None:
            apart = data.resolve() != work.resolve()
            data = stack.enter_context(owned(data)) if apart else data.absolute()
        yield replace(places, work=work, data=data)


@contextlib.contextmanager
def owned(directory: Path) -> Iterator[Path]:
    """Keep *directory* to ourselves; the kernel gives it back however we end.

    Raises:
        ConfigError: It can't be written, or another server uses it.
    """
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((directory / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            reason = error.strerror
            if isinstance(error, BlockingIOError):
                reason = "another server uses it; the option `work` (IMAGE_REPO_WORK)"
                reason += " or --data chooses another"
            raise ConfigError(f"directory {directory}: {reason}") from error
        yield directory.absolute()


@contextlib.contextmanager
def short(work: Path) -> Iterator[Path]:
    """Give a directory for the socket: in *work* unless its path would be too long."""
    inside = work / "run"
    if len(os.fsencode(inside / SOCKET)) <= SOCKET_PATH:
        inside.mkdir(mode=0o700, exist_ok=True)
        (inside / COLD).unlink(missing_ok=True)  # nginx fails at one it left behind
        yield inside
    else:
        with tempfile.TemporaryDirectory(prefix="image-repo.") as outside:
            yield Path(outside)
