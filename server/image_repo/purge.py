"""Making nginx forget: two ways to drop its entries.

nginx keeps the answer to a canonical path in the file ``md5(recipe + path)``. Where
that directory is ours the files are removed, and the next request is a miss. Where
nginx runs as another user each path is asked for once with a secret header, and the
server's answer to that replaces the entry by one that has expired already.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote_to_bytes

import aiohttp
from yarl import URL

from image_repo import names
from image_repo.answered import Answered
from image_repo.errors import ConfigError
from image_repo.front import FrontOptions
from image_repo.options import option

if TYPE_CHECKING:
    from image_repo.names import ImageName, Tag

logger = logging.getLogger(__name__)

REFRESH_HEADER = "X-Image-Repo-Refresh"
"""Carries the secret on a refresh request, from here to nginx and on to the server."""

RECIPE_HEADER = "X-Image-Repo-Recipe"
"""Carries the recipe with which nginx's keys begin to the server, which sends it back
to whoever refreshes."""

REFRESHES = 16
"""How many refreshes run at once."""

REFRESH_SECONDS = 5.0
"""How long one refresh may take; a tombstone costs the server one look at a store."""


@dataclass(frozen=True, slots=True)
class NginxOptions(FrontOptions):
    """Section *nginx*: all of nginx, and how it forgets."""

    purge: str = option(
        "auto",
        "How nginx forgets a replaced or deleted image: unlink removes its cache files,"
        " refresh asks it for each path with http.refresh_secret, none waits until they"
        " expire; auto is unlink where the files are ours, else refresh.",
        choices=("auto", "unlink", "refresh", "none"),
    )
    refresh_url: str = option(
        "",
        "Scheme, host and port at which a refresh reaches nginx; empty: the first of"
        " nginx.listen.",
        pattern=r"(?:https?://[A-Za-z0-9.:\[\]_-]+)?",
    )


class Purge(Protocol):
    """A way to make nginx forget what it holds for canonical paths."""

    async def forget(self, paths: Collection[str]) -> tuple[str, ...]:
        """Make nginx ask again for *paths*, which are canonical and quoted.

        After the return no request is answered with what nginx held before, but for
        the paths that are returned: those that it may still give. Never raises for
        what nginx does; that it failed is logged.
        """
        ...


class NoPurge:
    """Leaves nginx alone, because there is none or it may keep what it has."""

    async def forget(self, paths: Collection[str]) -> tuple[str, ...]:
        return tuple(paths)


class UnlinkPurge:
    """Removes cache files; nginx finds them gone and asks again.

    Args:
        cache_path: The directory of `proxy_cache_path`, with `levels=1:2`.
        recipe: The text with which nginx's keys begin.
        otherwise: Gets the paths whose files we have no right to remove; None: those
            are left.
    """

    def __init__(
        self, cache_path: Path, recipe: str, otherwise: Purge | None = None
    ) -> None:
        self._cache_path = cache_path
        self._recipe = recipe
        self._otherwise = otherwise

    async def forget(self, paths: Collection[str]) -> tuple[str, ...]:
        left, refused = await asyncio.to_thread(self._remove, paths)
        if self._otherwise is not None and refused:
            return (*left, *await self._otherwise.forget(refused))
        return (*left, *refused)

    def _remove(self, paths: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return what is left, and what we have no right to remove."""
        left: list[str] = []
        refused: list[str] = []
        for path in paths:
            try:
                cache_file(self._cache_path, self._recipe, path).unlink(missing_ok=True)
            except OSError as e:
                no_right = isinstance(e, PermissionError)
                (refused if no_right else left).append(path)
                if not (no_right and self._otherwise):
                    logger.warning("cannot purge %s from nginx: %s", path, e)
        return left, refused


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What comes back to a refresh.

    Attributes:
        status: That of the server, or of nginx where the server is away.
        cache: What nginx says that it did; empty: no nginx of ours has answered.
        recipe: With what nginx's keys begin; empty: the server does not say.
    """

    status: int
    cache: str
    recipe: str

    @property
    def taken(self) -> bool:
        """Whether nginx took the secret; the server can't tell."""
        return self.cache == "BYPASS"

    @property
    def fault(self) -> str:
        """Why the entry was not replaced; empty: it was, by a 302 or a 404."""
        if not self.taken:
            return "nginx did not take the secret"
        return f"status {self.status}" if self.status >= 500 else ""  # noqa: PLR2004


class RefreshPurge:
    """Asks for each path with the secret header; the answer replaces the entry.

    Args:
        url: Scheme, host and port of nginx.
        secret: As in nginx's configuration.
        session: Made and closed by the caller.
        host: What to say as Host, by which nginx chooses among its sites; empty: what
            the URL says.
        seconds: How long one refresh may take.
    """

    def __init__(
        self,
        url: str,
        secret: str,
        session: aiohttp.ClientSession,
        host: str = "",
        seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._url = url.rstrip("/")
        self._headers = {REFRESH_HEADER: secret} | ({"Host": host} if host else {})
        self._session = session
        self._seconds = seconds
        self._places = asyncio.Semaphore(REFRESHES)

    async def forget(self, paths: Collection[str]) -> tuple[str, ...]:
        every = tuple(paths)
        faults = await asyncio.gather(*(self._refresh(path) for path in every))
        return tuple(path for path, fault in zip(every, faults, strict=True) if fault)

    async def _refresh(self, path: str) -> bool:
        """Return whether it failed."""
        try:
            answer = await self.ask(path)
        except (aiohttp.ClientError, TimeoutError) as e:
            said = f"{type(e).__name__} {e}"
        else:
            said = answer.fault
        if said:
            logger.warning("cannot purge %s from nginx: %s", path, said)
        return bool(said)

    async def ask(self, path: str) -> Refreshed:
        """Refresh one path, and return what came back.

        Raises:
            aiohttp.ClientError: There was no answer.
            TimeoutError: None came in time.
        """
        # encoded: yarl would otherwise requote, and the canonical text is the key
        url = URL(self._url + path, encoded=True)
        async with (
            self._places,
            asyncio.timeout(self._seconds),
            self._session.get(
                url, headers=self._headers, allow_redirects=False
            ) as answer,
        ):
            given = answer.headers
            return Refreshed(
                answer.status, given.get("X-Cache", ""), given.get(RECIPE_HEADER, "")
            )


def cache_file(cache_path: Path, recipe: str, path: str) -> Path:
    """Return the file in which nginx keeps its answer to a quoted canonical *path*."""
    # the key ends in nginx's $uri, which is the decoded path as bytes
    key = recipe.encode() + unquote_to_bytes(path)
    name = hashlib.md5(key, usedforsecurity=False).hexdigest()
    return cache_path / name[-1] / name[-3:-1] / name


def first_url(listen: str) -> str:
    """Return how a process of the same machine reaches the first of *listen*."""
    address, _, port = listen.split(maxsplit=1)[0].rpartition(":")
    loopback = {"": "127.0.0.1", "*": "127.0.0.1", "0.0.0.0": "127.0.0.1"}  # noqa: S104 - read, not bound
    loopback["[::]"] = "[::1]"
    return f"http://{loopback.get(address, address)}:{port}"


def first_host(server_name: str, url: str) -> str:
    """Return a Host that makes a request to *url* this nginx's; empty: any does.

    Another site on the same port gets all that comes under no name of *server_name*.
    """
    known = [name for name in server_name.split() if re.search("[A-Za-z0-9]", name)]
    if not known:
        return ""
    name = min(known, key=lambda name: "*" in name or name.startswith("."))
    name = name.removeprefix(".").replace("*", "image-repo")
    to = URL(url)
    return name if to.is_default_port() else f"{name}:{to.port}"


def is_ours(cache_path: Path) -> bool:
    """Return whether this user may remove what nginx keeps under *cache_path*.

    A directory that nginx has still to make is ours if its parent is: then nginx,
    which could make it too, is taken for the same user.
    """
    try:
        if not cache_path.exists():
            return os.access(cache_path.parent, os.W_OK | os.X_OK)
        # nginx makes the levels below as its own user, closed to all others
        levels = [cache_path, *(p for p in cache_path.iterdir() if p.is_dir())]
    except PermissionError:
        return False
    return all(os.access(p, os.W_OK | os.X_OK) for p in levels)


class Purger:
    """Purges images: knows which paths of each nginx may hold.

    Args:
        way: How nginx is made to forget.
        recent: What has been answered of late.
    """

    def __init__(self, way: Purge, recent: Answered) -> None:
        self._way = way
        self._recent = recent

    def keep_for(self, lifetime: float) -> None:
        """Say that nginx may hold answers for *lifetime* seconds from now on."""
        self._recent.keep_for(lifetime)

    def answered(self, image: ImageName, path: str) -> None:
        """Say that nginx gets an answer for *path*, canonical and quoted."""
        self._recent.note(image, path)

    async def purge(
        self, image: ImageName, made: Iterable[str], tag: Tag | None = None
    ) -> tuple[str, ...]:
        """Make nginx forget all of *image*; return what it may still give.

        Args:
            image: Replaced or deleted.
            made: What the caches held of it: stored keys, canonical names, or their
                last parts. Of a stored key the versioned path is purged as well.
            tag: The image's present tag; what is versioned by it is kept.
        """
        paths = dict.fromkeys(self._recent.paths(image))
        base = f"{names.BASE}/{names.quoted(image)}/{names.MARK}"
        for item in made:
            *tags, text = item.rpartition(f"/{names.MARK}/")[2].split("/")
            if names.is_metadata(text):  # no path leads to it
                continue
            paths[f"{base}/{text}"] = None
            paths.update((f"{base}/v_{t}/{text}", None) for t in tags)
        present = f"{base}/v_{tag}/"
        gone = [path for path in paths if not path.startswith(present)]
        return await self._way.forget(gone) if gone else ()


@asynccontextmanager
async def make_purger(
    options: NginxOptions, *, behind: bool, recipe: str, secret: str, lifetime: float
) -> AsyncIterator[Purger]:
    """Open the purger that *options* name, or that works here if they say auto.

    Args:
        options: Section *nginx* of the configuration.
        behind: Whether there is an nginx in front at all.
        recipe: With what nginx's keys begin.
        secret: Of refresh requests; empty: there are none.
        lifetime: Seconds for which nginx may hold an answer.

    Raises:
        ConfigError: A refresh is needed, but there is no secret for it.
    """
    recent = Answered(lifetime)
    chosen = chosen_way(options, secret) if behind else "none"
    async with AsyncExitStack() as stack:
        refresh = None
        if secret and chosen != "none" and options.purge != "unlink":
            refresh = await stack.enter_async_context(open_refresh(options, secret))
        if chosen == "unlink":
            files = Path(options.cache_path)
            yield Purger(UnlinkPurge(files, recipe, refresh), recent)
        else:
            yield Purger(refresh or NoPurge(), recent)


@asynccontextmanager
async def open_refresh(
    options: NginxOptions, secret: str
) -> AsyncIterator[RefreshPurge]:
    """Open what refreshes the nginx that *options* describe."""
    url = options.refresh_url or first_url(options.listen)
    host = first_host(options.server_name, url)
    # one connection more than this would only wait for a place
    connector = aiohttp.TCPConnector(limit=REFRESHES)
    async with aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        yield RefreshPurge(url, secret, session, host)


def chosen_way(options: NginxOptions, secret: str) -> str:
    """Return how nginx is made to forget: *unlink*, *refresh* or *none*.

    Raises:
        ConfigError: There is no way, or no secret for the one that is said.
    """
    if options.purge == "refresh" and not secret:
        raise ConfigError("option nginx.purge is 'refresh', but there is no secret")
    if options.purge != "auto":
        return options.purge
    files = Path(options.cache_path)
    # Of what nginx has still to make nobody knows the user; a refresh works for any.
    if is_ours(files) and (files.exists() or not secret):
        return "unlink"
    if secret:
        return "refresh"
    raise ConfigError(
        "option nginx.purge is 'auto', and there is no way to make nginx forget: its"
        f" cache {options.cache_path!r} is not ours, and http.refresh_secret is empty"
    )
