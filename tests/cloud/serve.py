"""Runs a real Swift and a real Keystone until Ctrl-C, for `scripts/swift-up`."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from pathlib import Path

from cloud import cluster
from cloud.processes import CloudError

RUN = Path(__file__).resolve().parents[2] / "data-swift"


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/swift-up", description=__doc__)
    parser.add_argument("--run", type=Path, default=RUN, metavar="DIR")
    below: Path = parser.parse_args().run
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit())
    try:
        with cluster.start(below) as cloud:
            announce(cloud)
            while running(cloud):
                time.sleep(0.5)
    except CloudError as error:
        sys.exit(f"swift-up: {error}")


def announce(cloud: cluster.Cloud) -> None:
    """Write what to export into a file of our own, and print it."""
    file = cloud.run / "openrc"
    lines = [f"export {n}={shlex.quote(v)}" for n, v in cloud.environment.items()]
    file.touch(mode=0o600)
    file.write_text("".join(f"{line}\n" for line in lines))
    name = shlex.quote(os.path.relpath(file))
    print(
        *lines, f"# in another terminal: . {name}; scripts/serve", sep="\n", flush=True
    )
    print(f"ready: {cloud.storage_url}; Ctrl-C ends it", file=sys.stderr)


def running(cloud: cluster.Cloud) -> bool:
    """Tell that all is well.

    Raises:
        CloudError: A process has ended, which nobody wanted.
    """
    for process in cloud.processes.values():
        if process.pid is None:
            raise CloudError(f"{process.name} has ended: see {process.log}")
    return True


if __name__ == "__main__":
    main()
