"""What `image_repo` can do: for each command a function, and a row of the table."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo import accesslog, assemble, config, nginx, supervise
from image_repo.errors import ConfigError
from image_repo.originals import Originals
from image_repo.report import Report
from image_repo.storage import open_place, open_storage
from image_repo.transfer.copying import check_source, copy, read_place
from image_repo.transfer.importing import Folder, import_folder
from image_repo.transfer.moving import JOBS, Rules
from image_repo.transfer.progress import Progress, run
from image_repo.transform.pool import Pool

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from image_repo.config import Config

logger = logging.getLogger(__name__)

TELLTALES = ("keystoneauth", "requests", "stevedore", "swiftclient", "urllib3")
"""Loggers that write requests with all that is in them, such as tokens."""


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that `image_repo` can do.

    Attributes:
        name: Its word on the command line.
        help: What it does; goes on from the word.
        run: Does it, with what stands on the command line; returns the exit status.
        arguments: Adds those arguments that only this command has.
        events: Whether it logs events; otherwise only what is wrong is said.
    """

    name: str
    help: str
    run: Callable[[Namespace, Config], int]
    arguments: Callable[[ArgumentParser], None] = lambda _: None
    events: bool = False


def log(*, debug: bool, events: bool = True) -> None:
    """Write to stderr: our events and those of libraries, but never their requests.

    Args:
        debug: Whether events of interest to developers alone are written, too.
        events: Whether any are; otherwise only what is wrong.
    """
    level = logging.DEBUG if debug else logging.INFO if events else logging.WARNING
    timed = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    form = timed if debug or events else "image_repo: %(message)s"
    logging.basicConfig(level=level, format=form)
    for name in TELLTALES:
        logging.getLogger(name).setLevel(logging.CRITICAL)


# -- serve -----------------------------------------------------------------------------


def _serve(given: Namespace, chosen: Config) -> int:
    config.described_store(chosen, os.environ)  # says what is missing at once
    again = partial(config.load, given.config, given.environ)
    asyncio.run(assemble.serve(chosen, again), debug=given.debug)
    return 0


# -- nginx-conf ------------------------------------------------------------------------


def _nginx_conf_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--standalone",
        metavar="DIR",
        type=Path,
        help="a whole configuration, which keeps its files below DIR",
    )


def _nginx_conf(given: Namespace, chosen: Config) -> int:
    if not chosen.behind_nginx:
        logger.warning(
            "option behind_nginx is false: until it is true for the server, each new"
            " image is a 400 through this nginx"
        )
    sys.stdout.write(nginx.render(nginx.settings(chosen, given.standalone)))
    return 0


# -- with-nginx ------------------------------------------------------------------------


def _with_nginx_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=8080, help="nginx's port (8080)")
    parser.add_argument(
        "--bind",
        action="append",
        metavar="ADDRESS",
        help="where nginx listens (127.0.0.1 and ::1); may be repeated",
    )
    parser.add_argument(
        "--reload", action="store_true", help="restart the server when its code changes"
    )


def _with_nginx(given: Namespace, chosen: Config) -> int:
    words = [] if given.config is None else ["-y", str(given.config.absolute())]
    words += ["--debug"] if given.debug else []
    in_directory = config.chosen_store(chosen, os.environ) == "directory"
    places = supervise.Places(
        images=config.described_store(chosen, os.environ),
        data=Path(chosen.data) if in_directory else None,
        work=chosen.work_directory,
    )
    return asyncio.run(
        supervise.supervise(
            words,
            given.port,
            places,
            reload=given.reload,
            bind=given.bind or supervise.LOOPBACK,
            drain=chosen.http.drain_seconds,
        )
    )


# -- import and copy -------------------------------------------------------------------


def _moving_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", type=int, default=JOBS, metavar="N", help=f"how many at once ({JOBS})"
    )
    parser.add_argument(
        "--replace",
        action="store_true",
        help="overwrite what is different in the target; a running server may give the"
        " old image until service.revision_lifetime, and nginx until http.s_maxage, is"
        " over",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be done"
    )


def _rules(given: Namespace) -> Rules:
    return Rules(given.jobs, given.replace, given.dry_run)


def _import_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of images")
    parser.add_argument(
        "--prefix", default="", metavar="PATH", help="path that all names begin with"
    )
    _moving_arguments(parser)


def _import(given: Namespace, chosen: Config) -> int:
    limit = chosen.limits.upload_bytes
    folder = Folder(given.folder, given.prefix.strip("/"), limit)

    async def work(progress: Progress) -> None:
        async with (
            Pool(chosen.workers, chosen.limits, chosen.render) as pool,
            open_storage(chosen, os.environ) as kept,
        ):
            known = Originals(kept.originals).head
            rules = _rules(given)
            await import_folder(
                folder, kept.originals, pool, progress, rules, look=known
            )

    return run(work)


def _copy_arguments(parser: ArgumentParser) -> None:
    place = "disk:DIR (DIR as the option `data`), swift, or swift:CONTAINER"
    for word, name in (("--from", "source"), ("--to", "target")):
        parser.add_argument(word, dest=name, required=True, metavar="PLACE", help=place)
    _moving_arguments(parser)


def _copy(given: Namespace, chosen: Config) -> int:
    source, target = read_place(given.source), read_place(given.target)
    check_source(source)
    if source == target:
        raise ConfigError("--from and --to name the same place")

    async def work(progress: Progress) -> None:
        async with (
            open_place(source, chosen, os.environ, make=False) as one,
            open_place(target, chosen, os.environ, make=True) as other,
        ):
            await copy(one, other, progress, _rules(given))

    return run(work)


# -- url-key ---------------------------------------------------------------------------


def _url_key_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--rotate",
        action="store_true",
        required=True,
        help="sign with a new random key; what the old one has signed stays valid until"
        " the next time",
    )


def _url_key(_given: Namespace, chosen: Config) -> int:
    async def rotate() -> None:
        async with open_storage(chosen, os.environ) as kept:
            await kept.signer.rotate()

    asyncio.run(rotate())
    sys.stdout.write("temporary URLs are signed with a new key\n")
    return 0


# -- cache-report ----------------------------------------------------------------------


def _cache_report_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "logs",
        nargs="*",
        metavar="LOG",
        help="nginx's access log, also compressed by gzip; - is the standard input,"
        " which is also taken where none is named and it is a file or a pipe; else that"
        " of with-nginx, or /var/log/nginx/image_repo.access.log",
    )
    parser.add_argument(
        "--top", type=int, default=10, metavar="N", help="rows of long tables (10)"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, not as tables")


def _cache_report(given: Namespace, chosen: Config) -> int:
    report = Report(max(1, given.top))
    for log in given.logs or [_default_log(chosen)]:
        with accesslog.opened(log) as stream:
            for line in accesslog.lines(stream):
                report.add(line)
    sys.stdout.write(report.json() if given.json else report.text())
    return 0


def _default_log(chosen: Config) -> str:
    # cron and the like give /dev/null, which is a device as a terminal is
    if not stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode):
        return accesslog.STDIN
    own = chosen.work_directory / "nginx" / nginx.LOG
    return str(own if own.exists() else nginx.LOGS / nginx.LOG)


# -- the table -------------------------------------------------------------------------

COMMANDS = (
    Command("serve", "serve images; also without any command", _serve, events=True),
    Command(
        "nginx-conf", "write nginx's configuration", _nginx_conf, _nginx_conf_arguments
    ),
    Command(
        "with-nginx",
        "serve together with an nginx of its own",
        _with_nginx,
        _with_nginx_arguments,
    ),
    Command("import", "store the images of a folder", _import, _import_arguments),
    Command("copy", "copy all originals to another store", _copy, _copy_arguments),
    Command(
        "cache-report",
        "say what nginx's access log tells of its cache",
        _cache_report,
        _cache_report_arguments,
    ),
    Command(
        "url-key",
        "change what signs temporary URLs",
        _url_key,
        _url_key_arguments,
        events=True,
    ),
)
"""All of them; the first is done where none is named."""
