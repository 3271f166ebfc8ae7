"""The one configuration: the options of every room, from YAML and environment."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_repo import former, modifiers, names, options, peers, yamlfile
from image_repo.errors import ConfigError, OptionError
from image_repo.levels import LocalOptions, MemoryOptions
from image_repo.modifiers import ImageOptions, RenderOptions
from image_repo.names import Recipe
from image_repo.options import option
from image_repo.peers import PeerOptions
from image_repo.purge import NginxOptions
from image_repo.service import ServiceOptions
from image_repo.sources import given
from image_repo.stores import containers
from image_repo.stores.account import SwiftOptions
from image_repo.stores.containers import PersistentStoreOptions, SwiftCacheOptions
from image_repo.transform.fields import MetadataOptions
from image_repo.transform.pool import Limits, WorkerOptions
from image_repo.web.answers import HttpOptions
from image_repo.yamlfile import Written

logger = logging.getLogger(__name__)

Store = Literal["directory", "swift"]
"""What keeps the images."""


@dataclass(frozen=True)  # no slots: only one base of a class may have them
class ServerOptions:
    """Where the server listens, and where it keeps things."""

    listen: str = option(
        "127.0.0.1:5000",
        "Where to listen: HOST:PORT, or unix:PATH.",
        pattern=r"unix:.+|(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):\d{1,5}",
    )
    store: str = option(
        "auto",
        "What keeps the images: a directory, swift, or auto, which is a directory where"
        " `data` is given, else swift where a URL of Keystone is (as by OS_AUTH_URL),"
        " else a directory.",
        choices=("auto", "directory", "swift"),
    )
    data: str = option("data", "Directory that keeps images, unless Swift does.")
    work: str = option(
        "",
        "Directory for uploads under way, and for the files of an nginx that is started"
        " together with the server; empty: that of `data`.",
    )
    behind_nginx: bool = option(
        False,
        "Whether the nginx of `image_repo nginx-conf` is in front and nobody else can"
        " reach this server.",
    )
    pid_file: str = option("", "File that gets the server's process id; empty: none.")


@dataclass(frozen=True)
class Config(ImageOptions, ServerOptions):
    """Every option; sections are named as in the YAML file."""

    render: RenderOptions = RenderOptions()
    limits: Limits = Limits()
    metadata: MetadataOptions = MetadataOptions()
    workers: WorkerOptions = WorkerOptions()
    memory_cache_configuration: MemoryOptions = MemoryOptions()
    local_cache_configuration: LocalOptions = LocalOptions()
    service: ServiceOptions = ServiceOptions()
    http: HttpOptions = HttpOptions()
    nginx: NginxOptions = NginxOptions()
    peers: PeerOptions = PeerOptions()
    persistent_store_configuration: PersistentStoreOptions = PersistentStoreOptions()
    swift_cache_configuration: SwiftCacheOptions = SwiftCacheOptions()
    swift: SwiftOptions = SwiftOptions()

    @property
    def work_directory(self) -> Path:
        """The directory for what need not be kept."""
        return Path(self.work or self.data)

    @property
    def cache_directory(self) -> Path:
        """The directory of the caches on disk."""
        said = self.local_cache_configuration.cache_path
        return Path(said) if said else self.work_directory / "cache"

    @property
    def settings_recipe(self) -> Recipe:
        """Hash of the settings that change pixels: the start of nginx's keys.

        The workers' ImageMagick is left out, so that the same configuration gives the
        same nginx configuration on every machine.
        """
        return names.recipe(modifiers.VERSION, options.pixels(self))

    def recipe(self, imagemagick: str) -> Recipe:
        """Hash of everything outside the URL that changes pixels."""
        return names.recipe(self.settings_recipe, imagemagick)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file and the environment say.

    Attributes:
        config: The options; those that are wrong have their defaults.
        faults: Why it can't be used, each a sentence with the place.
        warnings: What is not heeded, each a sentence with the place.
    """

    config: Config
    faults: tuple[str, ...]
    warnings: tuple[str, ...]


def examine(file: Path | None, environ: Mapping[str, str]) -> Loaded:
    """Return what a YAML file and the environment say, and all that is wrong with it.

    Args:
        file: None: no file. An option given by the environment wins over it.
        environ: As `os.environ`; names are those of `options.describe`.

    Raises:
        ConfigError: The file can't be read as a mapping.
    """
    told = Written({}, {}, ()) if file is None else yamlfile.read(file)
    today = former.translate(told.content)
    config, faults = options.examine(Config, today.content, environ)

    def place(path: tuple[str, ...]) -> str:
        line = told.line(today.former.get(path, path))
        return f" (line {line})" if line else ""

    def said(fault: OptionError) -> str:
        return (
            f"{fault}{f' ({fault.variable})' if fault.variable else place(fault.path)}"
        )

    wrong = [said(fault) for fault in (*told.faults, *today.faults, *faults)]
    if not wrong:
        wrong = list(_apart(config))
    warnings = [
        f"option {', '.join('.'.join(p) + place(p) for p in note.paths)}: {note.text}"
        for note in today.notes
    ]
    return Loaded(config, tuple(wrong), (*warnings, *_unknown_variables(environ)))


def load(file: Path | None, environ: Mapping[str, str]) -> Config:
    """Return what a YAML file, the environment and defaults say; log the warnings.

    Args:
        file: As `examine`.
        environ: As `examine`.

    Raises:
        ConfigError: The file can't be read, options are wrong, or do not go together;
            a line for each.
    """
    loaded = examine(file, environ)
    for warning in loaded.warnings:
        logger.warning("%s", warning)
    if loaded.faults:
        raise ConfigError("\n".join(loaded.faults))
    return loaded.config


def check_together(config: Config) -> None:
    """Refuse options that do not go together.

    Raises:
        ConfigError: Names them.
    """
    containers.check_lifetimes(
        config.swift_cache_configuration, config.http.held_seconds
    )
    peers.addresses(config.peers, config.http.refresh_secret)


def _apart(config: Config) -> Iterator[str]:
    try:
        check_together(config)
    except ConfigError as error:
        yield str(error)


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield a warning for each variable that looks like an option and is none."""
    known = [v for item in options.describe(Config) for v in item.variables]
    for name in sorted(environ.keys() - set(known)):
        if name.startswith(options.PREFIX):
            yield (
                f"{name} in the environment is no option{options.nearest(name, known)}"
            )


def chosen_store(config: Config, environ: Mapping[str, str]) -> Store:
    """Return what keeps the images, as the option *store* says.

    Raises:
        ConfigError: What should have the URL of Keystone can't be read.
    """
    match config.store:
        case "directory" | "swift" as said:
            return said
        case _ if config.data != ServerOptions.data:
            return "directory"
    url = config.persistent_store_configuration.credentials.auth_url
    where = f"{containers.PERSISTENT}.credentials.auth_url"
    return "swift" if given(url, environ, where) else "directory"


def described_store(config: Config, environ: Mapping[str, str]) -> str:
    """Return in words where the images are, once what that needs is looked up.

    Raises:
        ConfigError: A credential or the key for links is missing or wrong.
    """
    originals = config.persistent_store_configuration
    derived = config.swift_cache_configuration
    containers.url_key(derived, environ)
    if chosen_store(config, environ) == "directory":
        return f"images in the directory {Path(config.data).absolute()}"
    first, second = containers.identities(originals, derived, environ)
    names = f"{originals.container} and {derived.container}"
    if first == second:
        return f"images in Swift: containers {names} at {first.auth_url}"
    return (
        f"images in Swift: containers {names} at {first.auth_url} and {second.auth_url}"
    )
