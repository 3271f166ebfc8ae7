"""nginx's configuration, as text, made from the same options as the server."""

from __future__ import annotations

import math
import os
import pwd
import re
import textwrap
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo.errors import ConfigError
from image_repo.formats import FORMATS
from image_repo.purge import NginxOptions

if TYPE_CHECKING:
    from image_repo.config import Config

_SLACK_BYTES = 2**20
"""By how much nginx's limit of a body lies above the server's: form fields, heads."""

_SLACK_SECONDS = 30
"""What the server may take besides: questions to the store, the first byte."""

# What quote() leaves and what it makes; and the marks that a URL's path may hold as
# they are (RFC 3986, pchar). Letters, digits, dots and slashes are never quoted.
_CHARACTER = (
    r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]"
    r"|%(?:2[0-9A-C]|3[A-F]|40|5[B-E]|60|7[B-D]|[89A-F][0-9A-F]))"
)
_SEGMENT = rf"(?!\.{{1,2}}/|_/){_CHARACTER}+/"
_TOKEN = r"[a-z]+_[a-z0-9._]+"  # noqa: S105 - a modifier in a canonical name
_KINDS = "|".join(row.kind for row in FORMATS if row.served)

CANONICAL = (
    rf"/images/(?:{_SEGMENT})+_/(?:v_[0-9a-f]{{16}}/)?"
    rf"(?:full|{_TOKEN}(?:-{_TOKEN})*)\.(?:{_KINDS})"
)
"""Matches every canonical path as raw text, and no text that nginx would normalise."""

_EXTENSIONS = "|".join(word for row in FORMATS for word in row.extensions)

_SEVERAL = re.compile(r"^ *@@several\n(.*?)^ *@@end\n", re.DOTALL | re.MULTILINE)
"""What the template holds for several servers only."""

_PLAIN = re.compile(r"[^\s;{}$\"'\\#@]+")
"""Text that means only itself in nginx's configuration."""

_SECRET = re.compile("(?:[A-Za-z0-9_-]{16,128})?")

_FRAME = """\
# A whole configuration for an ordinary user; run it with `nginx -c` and this file.
daemon off;
worker_processes auto;
worker_rlimit_nofile 4096;
@@USER@@
pid @@DIRECTORY@@/nginx.pid;
error_log @@DIRECTORY@@/error.log warn;

events {
    worker_connections 1024;
}

http {
    default_type application/octet-stream;
    sendfile on;
    client_body_temp_path @@DIRECTORY@@/body;
    proxy_temp_path @@DIRECTORY@@/proxy;
    fastcgi_temp_path @@DIRECTORY@@/fastcgi;
    uwsgi_temp_path @@DIRECTORY@@/uwsgi;
    scgi_temp_path @@DIRECTORY@@/scgi;

@@BODY@@
}
"""


@dataclass(frozen=True, slots=True)
class NginxSettings:
    """All that nginx's configuration is made from.

    Attributes:
        options: Section *nginx* of the configuration.
        upstream: Where the server listens, if the options name none: host:port, or
            unix: and a path.
        recipe: With what every key begins; the purge must know the same.
        upload_bytes: The largest upload that the server accepts.
        deadline: Seconds after which a derivation is stopped.
        store: Seconds that an original may take to come from its store.
        secret: By which a refresh is known; empty: there is none.
        directory: Existing directory for pid, logs and temporary files of an nginx
            of its own; None: a fragment for the `http` of an nginx that runs already.
        user: As whom an nginx of its own works if root starts it.
    """

    options: NginxOptions
    upstream: str
    recipe: str
    upload_bytes: int
    deadline: float
    store: float
    secret: str = ""
    directory: Path | None = None
    user: str = ""

    def __post_init__(self) -> None:
        texts = {"upstream": self.upstream, "recipe": self.recipe}
        if self.directory is not None:
            texts["directory"] = str(self.directory)
        if self.user:
            texts["user"] = self.user
        for what, text in texts.items():
            if not _PLAIN.fullmatch(text):
                raise ConfigError(f"nginx can't be given {text!r} as its {what}")
        if not _SECRET.fullmatch(self.secret):
            raise ConfigError("nginx can't be given this text as its refresh secret")

    @property
    def servers(self) -> tuple[str, ...]:
        """Where the servers listen, one or several."""
        return tuple(self.options.servers.split()) or (self.upstream,)

    @property
    def read_timeout(self) -> int:
        """Seconds after which the server has surely answered or refused.

        A derivation waits for a worker for no longer than it may run.
        """
        return math.ceil(2 * self.deadline + self.store) + _SLACK_SECONDS


def settings(config: Config, standalone: Path | None) -> NginxSettings:
    """Return what the configuration says of nginx.

    Args:
        config: The same that the server runs with.
        standalone: As `NginxSettings.directory`.
    """
    root = standalone is not None and os.geteuid() == 0
    return NginxSettings(
        options=config.nginx,
        upstream=config.listen,
        recipe=config.settings_recipe,
        upload_bytes=config.limits.upload_bytes,
        deadline=config.workers.deadline,
        store=config.swift.patience + config.swift.transfer_seconds,
        secret=config.http.refresh_secret,
        directory=None if standalone is None else standalone.absolute(),
        user=pwd.getpwuid(0).pw_name if root else "",
    )


def render(settings: NginxSettings) -> str:
    """Return nginx's configuration: a fragment for `http`, or a whole one."""
    template = resources.files("image_repo").joinpath("nginx.conf.template")
    several = r"\1" if len(settings.servers) > 1 else ""
    text = _SEVERAL.sub(several, template.read_text("utf-8"))
    body = _fill(text, _words(settings))
    if settings.directory is None:
        return body
    words = {
        "DIRECTORY": str(settings.directory),
        "USER": f"user {settings.user};" if settings.user else "",
        "BODY": textwrap.indent(body.rstrip("\n"), "    "),
    }
    return _fill(_FRAME, words)


def _words(settings: NginxSettings) -> dict[str, str]:
    options, secret = settings.options, settings.secret
    logs = settings.directory or Path("/var/log/nginx")
    return {
        "EXTENSIONS": _EXTENSIONS,
        "SERVERS": "\n    ".join(f"server {s} max_fails=0;" for s in settings.servers),
        "RECIPE": settings.recipe,
        "CANONICAL": CANONICAL,
        "REFRESH": f'"~^{secret}\\z" {secret};' if secret else "",
        "LISTEN": "\n    ".join(f"listen {where};" for where in options.listen.split()),
        "SERVER_NAME": options.server_name,
        "ACCESS_LOG": str(logs / "image_repo.access.log"),
        "CACHE_PATH": options.cache_path,
        "CACHE_KEYS": str(options.cache_keys),
        "CACHE_SIZE": str(options.cache_size),
        "CACHE_INACTIVE": options.cache_inactive,
        "BODY_BYTES": str(settings.upload_bytes + _SLACK_BYTES),
        "READ_TIMEOUT": str(settings.read_timeout),
        "LOCK_TIMEOUT": str(settings.read_timeout + _SLACK_SECONDS),
    }


def _fill(template: str, words: dict[str, str]) -> str:
    """Put *words* in; a line that holds nothing but an empty word is left out."""
    lines = []
    for line in template.splitlines():
        if words.get(line.strip().strip("@"), line) == "":
            continue
        lines.append(re.sub("@@([A-Z_]+)@@", lambda m: words[m[1]], line))
    return "\n".join(lines) + "\n"
