"""The processes of `.venv-cloud`: each dies with this one, and logs into a file."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from cloud.calls import ask

HERE = Path(__file__).resolve().parent
VENV = HERE.parents[1] / ".venv-cloud"
PATIENCE = 60
"""Seconds in which a process has to be ready, or to be done."""


class CloudError(Exception):
    """Swift or Keystone doesn't run; the message has the end of its log."""


_SPAWNER = ThreadPoolExecutor(1, "spawner")
"""Starts all processes, for they die with the thread that started them."""


def _spawn(log: Path, script: str, *arguments: object) -> subprocess.Popen[bytes]:
    command = ["setpriv", "--pdeathsig", "KILL", str(VENV / "bin/python")]
    command += ["-W", "ignore", str(HERE / script), *map(str, arguments)]
    # Nothing of ours goes on: coverage, OS_*, PYTHON*. A session of its own, as Swift
    # signals its whole group when it ends.
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "HOME": "/nowhere"}

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                start_new_session=True,
            )

    if not (VENV / "bin/python").exists():
        raise CloudError(f"there is no {VENV}: run scripts/setup")
    return _SPAWNER.submit(start).result()


def run_script(log: Path, script: str, *arguments: object) -> None:
    """Run a script of this directory to its end.

    Raises:
        CloudError: It has failed, or took too long.
    """
    child = _spawn(log, script, *arguments)
    status: int | None = None
    try:
        with suppress(subprocess.TimeoutExpired):
            status = child.wait(PATIENCE)
    finally:
        child.kill()
        child.wait()
    if status != 0:
        raise CloudError(f"{script} has failed:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-20:])


class Process:
    """One server, which can be stopped and started as often as a test wants."""

    def __init__(self, name: str, log: Path, health: str, *command: object) -> None:
        self.name = name
        self.log = log
        self._health = health
        self._command = command
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """None: it doesn't run."""
        if self._child is None or self._child.poll() is not None:
            return None
        return self._child.pid

    def start(self) -> None:
        """Start it if it doesn't run; `wait_ready` then waits until it answers."""
        if self.pid is None:
            script, *arguments = self._command
            self._child = _spawn(self.log, str(script), *arguments)

    def wait_ready(self) -> None:
        """Wait until it answers.

        Raises:
            CloudError: It has ended, or said nothing for too long.
        """
        deadline = time.monotonic() + PATIENCE
        while not self._healthy():
            if self.pid is None or time.monotonic() > deadline:
                raise CloudError(f"{self.name} has not started:\n{_tail(self.log)}")
            time.sleep(0.02)

    def _healthy(self) -> bool:
        try:
            return ask(self._health, timeout=1).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def stop(self) -> None:
        """End it as an administrator would; kill it if that takes more than 5 s."""
        self._signal(signal.SIGTERM, signal.SIGCONT)
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(5)
        self.kill()

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self._signal(signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def pause(self) -> None:
        """Let it hang: connections are accepted, and never answered."""
        self._signal(signal.SIGSTOP)
        if self.pid is not None:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            if self._child is not None:
                self._child.send_signal(number)
