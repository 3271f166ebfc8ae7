"""The `image_repo` command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo import assemble, config, nginx, options, supervise
from image_repo.errors import ConfigError, ImageRepoError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from image_repo.config import Config

WRONG = 2
"""Exit status of a wrong option, as argparse uses it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = _parser().parse_args(arguments)
    if given.template:
        sys.stdout.write(options.template(config.Config))
        return 0
    try:
        chosen = config.load(given.config, os.environ)
        if given.data is not None:
            chosen = replace(chosen, data=given.data)
        return COMMANDS[given.command](given, chosen)
    except ConfigError as error:
        sys.stderr.write(f"image_repo: {error}\n")
        return WRONG
    except ImageRepoError as error:
        sys.stderr.write(f"image_repo: {error}\n")
        return 1


def _serve(given: argparse.Namespace, chosen: Config) -> int:
    logging.basicConfig(
        level=logging.DEBUG if given.debug else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    asyncio.run(assemble.serve(chosen), debug=given.debug)
    return 0


def _nginx_conf(given: argparse.Namespace, chosen: Config) -> int:
    sys.stdout.write(nginx.render(nginx.settings(chosen, given.standalone)))
    return 0


def _with_nginx(given: argparse.Namespace, chosen: Config) -> int:
    words = [] if given.config is None else ["-y", str(given.config.absolute())]
    words += ["--debug"] if given.debug else []
    data = Path(chosen.data)
    return asyncio.run(
        supervise.supervise(
            words,
            given.port,
            data,
            reload=given.reload,
            bind=given.bind or supervise.LOOPBACK,
            drain=chosen.http.drain_seconds,
        )
    )


COMMANDS: dict[str, Callable[[argparse.Namespace, Config], int]] = {
    "serve": _serve,
    "nginx-conf": _nginx_conf,
    "with-nginx": _with_nginx,
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="image_repo",
        description="Serve images in any size and format from originals kept once.",
        epilog="Every option of the configuration can also be given in the environment:"
        " http.max_age as IMAGE_REPO_HTTP_MAX_AGE.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=tuple(COMMANDS),
        default="serve",
        help="serve (the default); write the nginx configuration and exit; or serve"
        " together with an nginx of its own",
    )
    parser.add_argument(
        "-y", "--config", type=Path, metavar="FILE", help="YAML configuration"
    )
    parser.add_argument(
        "-Y",
        dest="template",
        nargs="?",
        const="t",
        choices=("t",),
        help="print the commented configuration with all defaults, and exit",
    )
    parser.add_argument("--data", metavar="DIR", help="directory that keeps images")
    parser.add_argument(
        "--standalone",
        metavar="DIR",
        type=Path,
        help="nginx-conf: a whole configuration, which keeps its files below DIR",
    )
    parser.add_argument(
        "--port", type=int, default=8080, help="with-nginx: nginx's port (8080)"
    )
    parser.add_argument(
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="with-nginx: where nginx listens (127.0.0.1 and ::1); may be repeated",
    )
    parser.add_argument(
        "--reload",
        action="store_true",
        help="with-nginx: restart the server when its code changes",
    )
    parser.add_argument("--debug", action="store_true", help="log everything")
    parser.add_argument("--version", action="version", version=version("image-repo"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
