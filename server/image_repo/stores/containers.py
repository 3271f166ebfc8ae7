"""The two Swift containers as options: their names, who opens them, what links need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from image_repo.errors import ConfigError
from image_repo.options import option
from image_repo.sources import Source, given
from image_repo.stores.keystone import Credentials, Identity, identity

PERSISTENT: Final = "persistent_store_configuration"
CACHE: Final = "swift_cache_configuration"
"""Names of the two sections, in the words of the first release."""

DAY: Final = 24 * 60 * 60
"""Seconds."""

NAME: Final = r"(?!\.\.?$)[^/]+"
"""A container's name in a URL; HTTP clients take dots alone for folders."""

NAME_BYTES: Final = 256
"""Swift's max_container_name_length."""

KEY_BYTES: Final = range(16, 257)
"""Lengths of a key: what can't be guessed, and Swift's max_meta_value_length."""

FROM_ENVIRONMENT: Final = Credentials()
"""Credentials where nothing is said."""


@dataclass(frozen=True, slots=True)
class PersistentStoreOptions:
    """Where Swift keeps originals."""

    container: str = option(
        "test_image_repo",
        "Container of the originals.",
        pattern=NAME,
        most_bytes=NAME_BYTES,
        alias="SWIFT_P",
    )
    credentials: Credentials = FROM_ENVIRONMENT


@dataclass(frozen=True, slots=True)
class SwiftCacheOptions:
    """Where Swift keeps derived images; no credentials of its own: those above."""

    container: str = option(
        "test_image_repo_cache",
        "Container of derived images; it may be that of the originals.",
        pattern=NAME,
        most_bytes=NAME_BYTES,
        alias="SWIFT_C",
    )
    credentials: Credentials = FROM_ENVIRONMENT
    lifetime: int = option(
        30 * DAY,
        "Seconds after which Swift deletes a derived image; 0: never.",
        low=0,
        high=3650 * DAY,
    )
    url_key: Source = option(
        Source("explicit", ""),
        "Key that signs temporary URLs, 16 to 256 bytes; empty: the one that the"
        " container has.",
        secret=True,
    )
    url_lifetime: int = option(
        3600, "Seconds for which a temporary URL is valid.", low=1, high=7 * DAY
    )
    url_lifetime_slack: int = option(
        600,
        "Seconds for which it may be valid longer, so that a URL can be given again.",
        low=0,
        high=7 * DAY,
    )


def identities(
    originals: PersistentStoreOptions,
    derived: SwiftCacheOptions,
    environ: Mapping[str, str],
) -> tuple[Identity, Identity]:
    """Return who opens the container of the originals, and that of derived images.

    Where the second section says nothing of credentials, both are the same.

    Raises:
        ConfigError: A credential is missing or wrong; names the option.
    """
    first = identity(originals.credentials, environ, f"{PERSISTENT}.credentials")
    if derived.credentials == FROM_ENVIRONMENT:
        return first, first
    return first, identity(derived.credentials, environ, f"{CACHE}.credentials")


def url_key(options: SwiftCacheOptions, environ: Mapping[str, str]) -> str:
    """Return the key that signs temporary URLs; empty: none is configured.

    Raises:
        ConfigError: It is not where the option says, or too short or long.
    """
    where, source = f"{CACHE}.url_key", options.url_key
    key = given(source, environ, where)
    if not key and source.kind != "explicit":
        raise ConfigError(f"option {where}: {source.nothing}")
    if key and len(key.encode()) not in KEY_BYTES:
        raise ConfigError(
            f"option {where}: it must have {KEY_BYTES[0]} to {KEY_BYTES[-1]} bytes;"
            " leave it out, and the container's own key signs, or a new one"
        )
    return key


def check_lifetimes(options: SwiftCacheOptions, held: int) -> None:
    """Refuse a lifetime that ends while something still leads to the object.

    Args:
        options: Lifetimes of objects and of temporary URLs.
        held: As `HttpOptions.held_seconds`.

    Raises:
        ConfigError: Names the options that do not go together.
    """
    bounds = {
        "http.s_maxage and http.stale_while_revalidate together": held,
        f"{CACHE}.url_lifetime and {CACHE}.url_lifetime_slack together": (
            options.url_lifetime + options.url_lifetime_slack
        ),
    }
    for name, least in bounds.items():
        if 0 < options.lifetime < least:
            raise ConfigError(
                f"option {CACHE}.lifetime is {options.lifetime}: it must be 0, or at"
                f" least {name}, which is {least}"
            )
