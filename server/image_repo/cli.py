"""The `image_repo` command: what stands on its line, and how it ends."""

from __future__ import annotations

import argparse
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo import commands, config, template
from image_repo.checks import run
from image_repo.commands import COMMANDS
from image_repo.errors import ConfigError, ImageRepoError

if TYPE_CHECKING:
    from collections.abc import Sequence

WRONG = 2
"""Exit status of a wrong option, as argparse uses it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    # A default of a command's own parser would hide what stands before the command.
    unsaid = argparse.Namespace(
        config=None, template=None, data=None, check=False, debug=False
    )
    given = _parser().parse_args(arguments, unsaid)
    given.environ = os.environ | _said(given.data)
    if given.template:
        sys.stdout.write(template.render(config.Config))
        return 0
    if given.check:
        return run.main(given.config, given.environ)
    commands.log(debug=given.debug, events=given.command.events)
    try:
        chosen = config.load(given.config, given.environ)
        status: int = given.command.run(given, chosen)
    except ImageRepoError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"image_repo: {line}\n")
        return WRONG if isinstance(error, ConfigError) else 1
    return status


def _said(data: str | None) -> dict[str, str]:
    """Return the options that the command line gives, as the environment does."""
    if data is None:
        return {}
    return {"IMAGE_REPO_STORE": "directory", "IMAGE_REPO_DATA": data}


def _parser() -> argparse.ArgumentParser:
    common = _common()
    parser = argparse.ArgumentParser(
        prog="image_repo",
        description="Serve images in any size and format from originals kept once.",
        epilog="Every option of the configuration can also be given in the environment:"
        " http.max_age as IMAGE_REPO_HTTP_MAX_AGE.",
        parents=[common],
    )
    parser.add_argument("--version", action="version", version=version("image-repo"))
    parser.set_defaults(command=COMMANDS[0])
    known = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        own = known.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            parents=[common],
        )
        own.set_defaults(command=command)
        command.arguments(own)
    return parser


def _common() -> argparse.ArgumentParser:
    """Return those arguments that may stand before a command and after it."""
    common = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument(
        "-y", "--config", type=Path, metavar="FILE", help="YAML configuration"
    )
    common.add_argument(
        "-Y",
        dest="template",
        nargs="?",
        const="t",
        choices=("t",),
        help="print the commented configuration with all defaults, and exit",
    )
    common.add_argument(
        "--data", metavar="DIR", help="keep images in this directory, not in Swift"
    )
    common.add_argument(
        "--check",
        action="store_true",
        help="check the configuration and what it names, say what is wrong, and exit:"
        " 0 nothing, 1 something that it names, 2 the configuration; run it as the"
        " server's user, since root may do more",
    )
    common.add_argument("--debug", action="store_true", help="log everything")
    return common


if __name__ == "__main__":
    sys.exit(main())
