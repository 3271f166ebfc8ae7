"""Server and nginx together in the foreground: what `scripts/serve` runs.

The server is a child on a Unix socket, nginx a child before it on a TCP port; both run
as the user who started this, with everything they write under the data directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence

PROGRAM = (sys.executable, "-m", "image_repo.cli")
LOOPBACK = ("127.0.0.1", "::1")
MARGIN = 5.0  # seconds above http.drain_seconds, in which a child should have ended
READY = 60.0  # seconds to the first answer; starting workers takes one or two
LOOK = 0.5  # seconds between two looks at the code
MAX_PORT = 2**16 - 1
SOCKET = "server.sock"
SOCKET_PATH = 100  # bytes; Linux allows 107, see unix(7)


@dataclass(frozen=True, slots=True)
class Plan:
    """What runs where.

    Attributes:
        command: The program with the words that choose its configuration.
        addresses: Where nginx listens, as `127.0.0.1` or `::1`.
        port: Its port.
        data: The directory that everything is kept in.
        run: The directory of the socket; short enough for its path.
    """

    command: tuple[str, ...]
    addresses: tuple[str, ...]
    port: int
    data: Path
    run: Path

    @property
    def socket(self) -> Path:
        """Where the server listens."""
        return self.run / SOCKET

    @property
    def nginx(self) -> Path:
        """The directory of nginx: its configuration, temporary files and cache."""
        return self.data / "nginx"

    @property
    def environment(self) -> Mapping[str, str]:
        """The options that server and nginx must agree on."""
        written = (f"[{a}]" if ":" in a else a for a in self.addresses)
        return os.environ | {
            "IMAGE_REPO_BEHIND_NGINX": "true",
            "IMAGE_REPO_DATA": str(self.data),
            "IMAGE_REPO_LISTEN": f"unix:{self.socket}",
            "IMAGE_REPO_NGINX_CACHE_PATH": str(self.nginx / "cache"),
            "IMAGE_REPO_NGINX_LISTEN": " ".join(f"{a}:{self.port}" for a in written),
        }


class Stop:
    """Signals to stop: the first asks, a second one hurries.

    Args:
        patience: Seconds in which requests under way may end.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.asked = asyncio.Event()
        self.hurry = asyncio.Event()

    def ask(self) -> None:
        """Take one signal."""
        (self.hurry if self.asked.is_set() else self.asked).set()


async def supervise(  # noqa: PLR0913 - the words of a command
    config_args: Sequence[str],
    port: int,
    data: Path,
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
        data: A directory, made if it is missing.
        reload: Whether the server restarts when the code changes.
        bind: The addresses on which nginx listens; those not had are left out.
        program: What serves, and writes the configuration of nginx.
        drain: Seconds that requests under way get at the end, as http.drain_seconds.

    Raises:
        ConfigError: An option is wrong, the port can't be had, nginx is not installed,
            or another server uses *data*.
    """
    stop = Stop(drain + MARGIN)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.ask)
    port, addresses = free_addresses(port, bind)
    with owned(data) as kept, short(kept) as run:
        plan = Plan((*program, *config_args), addresses, port, kept, run)
        log = str(plan.nginx / "error.log")  # the built-in one is not for all users
        front = (nginx_program(), "-e", log, "-c", write_configuration(plan))
        async with child(front, plan, stop) as nginx:
            return await serve(plan, nginx, stop, reload=reload)


async def serve(
    plan: Plan, nginx: asyncio.subprocess.Process, stop: Stop, *, reload: bool
) -> int:
    """Keep a server running behind *nginx*; return the exit code of the whole."""
    announced = asyncio.create_task(announce(plan))
    try:
        while True:
            change = Code.now().change if reload else forever
            async with child(plan.command, plan, stop) as server:
                event = await first(
                    stop=stop.asked.wait(),
                    server=server.wait(),
                    nginx=nginx.wait(),
                    silence=forever() if reload else silence(announced),
                    code=change(),
                )
                if event == "server" and reload:
                    tell("the server has ended; it starts again when its code changes")
                    event = await first(
                        stop=stop.asked.wait(), nginx=nginx.wait(), code=change()
                    )
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
    command: Sequence[str], plan: Plan, stop: Stop
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a child process; on leaving, `end` it.

    It has a session of its own, so that Ctrl-C reaches us alone and both can be stopped
    in order; should we be killed, it is told to end as well.
    """
    if shutil.which("setpriv"):
        command = ("setpriv", "--pdeathsig", "TERM", *command)
    process = await asyncio.create_subprocess_exec(
        *command, env=plan.environment, start_new_session=True
    )
    try:
        yield process
    finally:
        await end(process, signal.SIGTERM, stop)
        with contextlib.suppress(
            ProcessLookupError
        ):  # what a killed parent left behind
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


async def announce(plan: Plan) -> None:
    """Say that a request succeeds, once one did through nginx."""
    address = plan.addresses[0]
    while not (plan.socket.exists() and await answers(address, plan.port)):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    sys.stdout.write(f"ready: http://localhost:{plan.port}/images\n")
    sys.stdout.flush()


async def silence(announced: asyncio.Task[None]) -> None:
    """Return when nothing was announced in time; otherwise never."""
    await asyncio.wait([announced], timeout=READY)
    if announced.done():
        await forever()
    tell(f"no request succeeded within {READY:.0f} s; giving up")


async def forever() -> None:
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def answers(address: str, port: int) -> bool:
    """Return whether a list of the images comes back."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    try:
        reader, writer = await asyncio.open_connection(target, port)
        with contextlib.closing(writer):
            writer.write(b"GET /images HTTP/1.0\r\nHost: localhost\r\n\r\n")
            return b" 200 " in await reader.readline()
    except OSError:
        return False


def write_configuration(plan: Plan) -> str:
    """Write the configuration of nginx; return the path of the file.

    Raises:
        ConfigError: An option is wrong; the program has said which.
    """
    plan.nginx.mkdir(parents=True, exist_ok=True)
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
def owned(data: Path) -> Iterator[Path]:
    """Keep *data* to ourselves; the kernel gives it back however we end.

    Raises:
        ConfigError: It can't be written, or another server uses it.
    """
    with contextlib.ExitStack() as stack:
        try:
            data.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context((data / "lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            busy = isinstance(error, BlockingIOError)
            reason = "another server uses it" if busy else error.strerror
            raise ConfigError(f"data directory {data}: {reason}") from error
        yield data.absolute()


@contextlib.contextmanager
def short(data: Path) -> Iterator[Path]:
    """Give a directory for the socket: in *data* unless its path would be too long."""
    inside = data / "run"
    if len(os.fsencode(inside / SOCKET)) <= SOCKET_PATH:
        inside.mkdir(mode=0o700, exist_ok=True)
        yield inside
    else:
        with tempfile.TemporaryDirectory(prefix="image-repo.") as outside:
            yield Path(outside)


def tell(message: str) -> None:
    """Say something to whoever watches the terminal."""
    sys.stderr.write(f"image_repo: {message}\n")
