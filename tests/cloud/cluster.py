"""A real OpenStack Swift and a real Keystone on loopback, for tests and for trying.

Both run in a virtual environment of their own, `.venv-cloud`, which `scripts/setup`
makes. Nothing here imports them: each is a process, and dies with this one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import socket
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from string import Template
from typing import Self

from cloud.calls import ask, log_in
from cloud.processes import HERE, VENV, CloudError, Process, run_script

LOOPBACK = "127.0.0.1"
REGION = "RegionOne"
SCRATCH = "image-repo-cloud."


@dataclass(frozen=True, slots=True)
class Ports:
    keystone: int
    proxy: int
    account: int
    container: int
    object: int


@dataclass(frozen=True)
class Cloud:
    """A real Swift and a real Keystone; leaving it as a context stops them.

    Attributes:
        run: Everything is written below it; logs are `run/*.log`.
        processes: keystone, proxy, account, container, object.
    """

    run: Path
    ports: Ports
    processes: Mapping[str, Process]
    _facts: Mapping[str, str] = field(repr=False)
    _held: ExitStack = field(repr=False)

    @property
    def auth_url(self) -> str:
        return f"{self._identity}/v3"

    @property
    def storage_url(self) -> str:
        return _storage(self.ports, self._facts["project_id"])

    @property
    def environment(self) -> dict[str, str]:
        """What a user exports who may do everything in the project."""
        return self._password("images")

    @property
    def limited(self) -> dict[str, str]:
        """What a user exports who may read in the project and write nothing."""
        return self._password("reader")

    @property
    def classic(self) -> dict[str, str]:
        """The user of `environment` as exported in the days of Keystone's v2.0.

        The address is no more: today's Keystone has v3 alone.
        """
        return {
            "OS_AUTH_URL": f"{self._identity}/v2.0/",
            "OS_TENANT_NAME": "images",
            "OS_TENANT_ID": self._facts["project_id"],
            "OS_USERNAME": "images",
            "OS_PASSWORD": self._facts["images_password"],
            "OS_REGION_NAME": REGION,
        }

    @property
    def application(self) -> dict[str, str]:
        """An application credential of the user of `environment`."""
        return {
            "OS_AUTH_URL": self.auth_url,
            "OS_APPLICATION_CREDENTIAL_ID": self._facts["application_id"],
            "OS_APPLICATION_CREDENTIAL_SECRET": self._facts["application_secret"],
            "OS_REGION_NAME": REGION,
        }

    @property
    def _identity(self) -> str:
        return f"http://{LOOPBACK}:{self.ports.keystone}"

    def _password(self, user: str, project: str = "images") -> dict[str, str]:
        return {
            "OS_AUTH_URL": self.auth_url,
            "OS_IDENTITY_API_VERSION": "3",
            "OS_USERNAME": user,
            "OS_PASSWORD": self._facts[f"{user}_password"],
            "OS_PROJECT_NAME": project,
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
            "OS_REGION_NAME": REGION,
        }

    def heal(self) -> None:
        """Let every process run and answer again, whatever was done to it."""
        for process in self.processes.values():
            process.resume()
            process.start()
        for process in self.processes.values():
            process.wait_ready()

    def stop(self) -> None:
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(run: Path, *, token_seconds: int = 3600, token_cache: int = 300) -> Cloud:
    """Start a cloud below a directory; what an earlier one left there is kept.

    Args:
        run: Is made if missing; its file system has to keep extended attributes.
        token_seconds: How long a token is valid.
        token_cache: For how many seconds Swift takes a token that it knows for valid
            without asking Keystone; -1 is none, and 0 is for ever.

    Raises:
        CloudError: A process has not started, or the directory is in use or not fit.
    """
    run = run.resolve()
    for name in (".", "etc", "recon", "srv", "srv/d1"):
        (run / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    held = ExitStack()
    try:
        _lock(run, held)
        _check_attributes(run)
        for log in run.glob("*.log"):
            log.unlink()
        ports = _reserve(run, held)
        facts = _prepare_identity(run / "keystone", ports, token_seconds)
        _configure(run, ports, facts, token_cache)
        cloud = Cloud(run, ports, _processes(run, ports), facts, held)
        for process in cloud.processes.values():
            held.callback(process.stop)
        cloud.processes["keystone"].start()  # takes the longest
        devices = (ports.account, ports.container, ports.object)
        run_script(run / "rings.log", "rings.py", run / "etc", *devices)
        cloud.heal()
    except BaseException:
        held.close()
        raise
    return cloud


def expire(cloud: Cloud) -> None:
    """Do now what Swift does in the background from time to time.

    Listings get what was written while the container server was away, accounts get
    their totals, and expired objects vanish from listings.
    """
    run_script(cloud.run / "passes.log", "passes.py", cloud.run / "etc")


def revoke_tokens(cloud: Cloud) -> None:
    """Revoke all tokens of the user of `environment`, by setting its password again.

    Swift notices when it next asks: see `token_cache`. What is got afterwards is valid.
    """
    admin = log_in(cloud._password("admin", "admin"))
    body = {"user": {"password": cloud._facts["images_password"]}}
    answer = ask(
        f"{cloud.auth_url}/users/{cloud._facts['images_id']}",
        "PATCH",
        {"X-Auth-Token": admin.token, "Content-Type": "application/json"},
        json.dumps(body).encode(),
    )
    if answer.status != 200:
        raise CloudError(f"{answer.status}: {answer.body.decode()}")
    time.sleep(1.01 - time.time() % 1)  # in this second new ones would be revoked, too


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a directory fit for a cloud, and remove it.

    In memory if possible: ext4 keeps no more than 3 KB of an object's metadata.
    """
    memory = Path("/dev/shm")
    _remove_left(memory)
    parent = memory if _roomy(memory) else None
    prefix = f"{SCRATCH}{os.getpid()}."
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent) as name:
        yield Path(name)


def _remove_left(parent: Path) -> None:
    """Remove what was left by processes that were killed."""
    for left in parent.glob(f"{SCRATCH}*"):
        if not Path("/proc", left.name.removeprefix(SCRATCH).split(".")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)


def _roomy(parent: Path) -> bool:
    try:
        with tempfile.TemporaryDirectory(dir=parent) as name:
            _check_attributes(Path(name))
        return shutil.disk_usage(parent).free > 2**30
    except (OSError, CloudError):
        return False


# What start does


def _lock(run: Path, held: ExitStack) -> None:
    lock = held.enter_context((run / "lock").open("w"))
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise CloudError(f"a cloud runs in {run} already") from error


def _check_attributes(directory: Path) -> None:
    with tempfile.NamedTemporaryFile(dir=directory) as file:
        try:
            os.setxattr(file.name, "user.swift.metadata", b"x" * 1024)
        except OSError as error:
            raise CloudError(f"{directory} keeps no attributes: {error}") from error


def _reserve(run: Path, held: ExitStack) -> Ports:
    """Take the ports of the last time if they are free, otherwise any."""
    file = run / "ports.json"
    wanted = json.loads(file.read_text()) if file.exists() else {}
    found = {f.name: _hold(wanted.get(f.name, 0), held) for f in fields(Ports)}
    file.write_text(json.dumps(found))
    return Ports(**found)


def _hold(port: int, held: ExitStack) -> int:
    """Bind a port, which until the end nobody but servers started here can share.

    They do so with SO_REUSEPORT, as all eventlet does: without a look whether the port
    is free, one would take part in that of another Swift.
    """
    with socket.socket() as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            alone.bind((LOOPBACK, port))
        except OSError:
            port = 0
    bound = held.enter_context(socket.socket())
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.bind((LOOPBACK, port))
    found: int = bound.getsockname()[1]
    return found


def _prepare_identity(
    directory: Path, ports: Ports, token_seconds: int
) -> dict[str, str]:
    """Copy Keystone's template, unless it was; tell it our ports; return its facts."""
    made = _template()
    if not directory.exists():
        copy = directory.with_suffix(".new")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(made, copy).rename(directory)
    if (directory / "of").read_text() != made.name:
        raise CloudError(f"{directory.parent} is of another version; move it away")
    _write_keystone_conf(directory, token_seconds)
    facts: dict[str, str] = json.loads((directory / "facts.json").read_text())
    urls = {
        "identity": f"http://{LOOPBACK}:{ports.keystone}/v3",
        "object-store": _storage(ports, "%(project_id)s"),
    }
    with closing(sqlite3.connect(directory / "keystone.db")) as database, database:
        database.executemany(
            "UPDATE endpoint SET url = ?"
            " WHERE service_id IN (SELECT id FROM service WHERE type = ?)",
            [(url, kind) for kind, url in urls.items()],
        )
    return facts


def _template() -> Path:
    """Return Keystone's prepared database and keys, made at the first start."""
    sources = ("constraints.txt", "identity.py", "conf/keystone.conf")
    text = b"".join((HERE / name).read_bytes() for name in sources)
    found = VENV / "template" / hashlib.sha256(text).hexdigest()[:16]
    if found.exists():
        return found
    found.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="new.", dir=found.parent) as name:
        new = Path(name, found.name)
        new.mkdir(mode=0o700)
        _write_keystone_conf(new, 3600)
        run_script(found.parent / "identity.log", "identity.py", new)
        (new / "of").write_text(found.name)
        with suppress(OSError):  # another has made it in the meantime
            new.rename(found)
    return found


def _write_keystone_conf(directory: Path, token_seconds: int) -> None:
    values = {"directory": directory, "token_seconds": token_seconds}
    _fill("keystone.conf", directory / "keystone.conf", values)


def _configure(
    run: Path, ports: Ports, facts: Mapping[str, str], token_cache: int
) -> None:
    common = {
        "run": run,
        "user": pwd.getpwuid(os.getuid()).pw_name,
        "salt": facts["salt"],
        "identity": f"http://{LOOPBACK}:{ports.keystone}",
        "password": facts["swift_password"],
        "token_cache": token_cache,
    }
    for name in ("swift", "expirer"):
        _fill(f"{name}.conf", run / f"etc/{name}.conf", common)
    for name in ("proxy", "account", "container", "object"):
        source = "proxy.conf" if name == "proxy" else "storage.conf"
        values = {**common, "name": name, "port": getattr(ports, name)}
        _fill(source, run / f"etc/{name}.conf", values)


def _fill(source: str, target: Path, values: Mapping[str, object]) -> None:
    text = (HERE / "conf" / source).read_text()
    target.write_text(Template(text).substitute(values))


def _processes(run: Path, ports: Ports) -> dict[str, Process]:
    conf = run / "keystone/keystone.conf"
    commands: dict[str, tuple[object, ...]] = {
        "keystone": ("identity_server.py", conf, ports.keystone)
    }
    for name in ("proxy", "account", "container", "object"):
        commands[name] = ("daemon.py", run / "etc", name)
    found = {}
    for name, command in commands.items():
        path = "v3" if name == "keystone" else "healthcheck"
        health = f"http://{LOOPBACK}:{getattr(ports, name)}/{path}"
        found[name] = Process(name, run / f"{name}.log", health, *command)
    return found


def _storage(ports: Ports, project: str) -> str:
    return f"http://{LOOPBACK}:{ports.proxy}/v1/AUTH_{project}"
