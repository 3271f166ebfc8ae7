"""The one configuration: the options of every room, from YAML and environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from image_repo import modifiers, names, options
from image_repo.cache import MemoryOptions
from image_repo.errors import ConfigError
from image_repo.modifiers import ImageOptions, RenderOptions
from image_repo.names import Recipe
from image_repo.options import option
from image_repo.purge import NginxOptions
from image_repo.service import ServiceOptions
from image_repo.sources import given
from image_repo.stores import containers
from image_repo.stores.account import SwiftOptions
from image_repo.stores.containers import PersistentStoreOptions, SwiftCacheOptions
from image_repo.transform.pool import Limits, WorkerOptions
from image_repo.web.answers import HttpOptions

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
    workers: WorkerOptions = WorkerOptions()
    memory_cache_configuration: MemoryOptions = MemoryOptions()
    service: ServiceOptions = ServiceOptions()
    http: HttpOptions = HttpOptions()
    nginx: NginxOptions = NginxOptions()
    persistent_store_configuration: PersistentStoreOptions = PersistentStoreOptions()
    swift_cache_configuration: SwiftCacheOptions = SwiftCacheOptions()
    swift: SwiftOptions = SwiftOptions()

    @property
    def work_directory(self) -> Path:
        """The directory for what need not be kept."""
        return Path(self.work or self.data)

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


def load(file: Path | None, environment: Mapping[str, str]) -> Config:
    """Return the configuration of a YAML file, the environment, and defaults.

    Args:
        file: None: no file. An option given by the environment wins over it.
        environment: As `os.environ`; names are those of `options.describe`.

    Raises:
        ConfigError: The file can't be read, an option is wrong, or two do not go
            together.
    """
    loaded = options.load(Config, {} if file is None else _read(file), environment)
    containers.check_lifetimes(loaded.swift_cache_configuration, loaded.http.s_maxage)
    return loaded


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


def _read(file: Path) -> Mapping[str, object]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {str(file)!r}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" in line {place.line + 1}" if place is not None else ""
        raise ConfigError(f"{str(file)!r} is not YAML{line}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(
            f"{str(file)!r} must hold options: a mapping of names to values"
        )
    return content
