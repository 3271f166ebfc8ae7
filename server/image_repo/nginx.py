"""nginx's configuration, as text, made from the same options as the server."""

from __future__ import annotations

import math
import os
import pwd
import re
import textwrap
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from image_repo.assumptions import Assumptions
from image_repo.errors import ConfigError
from image_repo.formats import FORMATS
from image_repo.nginx_maps import CANONICAL, EXTENSIONS, NAMED, VARIES, maps
from image_repo.purge import NginxOptions
from image_repo.web.listing import POLICY

if TYPE_CHECKING:
    from image_repo.config import Config

_SLACK_BYTES = 2**20
"""By how much nginx's limit of a body lies above the server's: form fields, heads."""

_SLACK_SECONDS = 30
"""What the server may take besides: questions to the store, the first byte."""

LOG = "image_repo.access.log"
"""The file of its access log."""

LOGS = Path("/var/log/nginx")
"""Where an nginx that runs already has its logs, on Debian."""

_SOCKET = "image_repo-nginx.sock"
"""Of the cold hop, where the options name no other."""

_SOCKET_BYTES = 107
"""Longest path of a socket, see unix(7)."""

_RETRY_SECONDS = 1
"""After which one who was refused may try again: limits are those of a second."""

_SEVERAL = re.compile(r"^ *@@several\n(.*?)^ *@@end\n", re.DOTALL | re.MULTILINE)
"""What the template holds for several servers only."""

_PICTURES = tuple(dict.fromkeys(row.media_type for row in FORMATS if row.served))
"""Media types in which a browser runs nothing."""

_PLAIN = re.compile(r"[^\s;{}$\"'\\#@]+")
"""Text that means only itself in nginx's configuration."""

_SECRET = re.compile("(?:[A-Za-z0-9_-]{16,128})?")

_FRAME = """\
# A whole configuration for an ordinary user; run it with `nginx -c` and this file.
daemon off;
pcre_jit on;
worker_processes auto;
worker_rlimit_nofile 4096;
@@USER@@
pid @@DIRECTORY@@/nginx.pid;
error_log @@DIRECTORY@@/error.log warn;

events {
    worker_connections 2048;
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
        assumed: What URLs mean that do not say everything.
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
    assumed: Assumptions = field(default_factory=Assumptions)

    def __post_init__(self) -> None:
        texts = {"upstream": self.upstream, "recipe": self.recipe}
        if self.directory is not None:
            texts["directory"] = str(self.directory)
        if self.user:
            texts["user"] = self.user
        for what, text in texts.items():
            if not _PLAIN.fullmatch(text):
                raise ConfigError(f"nginx can't be given {text!r} as its {what}")
        if len(os.fsencode(self.cold.removeprefix("unix:"))) > _SOCKET_BYTES:
            raise ConfigError(
                f"{self.cold} is too long for the path of a socket: let the option"
                " nginx.cold_listen name another"
            )
        if not _SECRET.fullmatch(self.secret):
            raise ConfigError("nginx can't be given this text as its refresh secret")

    @property
    def servers(self) -> tuple[str, ...]:
        """Where the servers listen, one or several."""
        return tuple(self.options.servers.split()) or (self.upstream,)

    @property
    def cold(self) -> str:
        """Where the cold hop listens."""
        where = self.directory or Path("/run")
        return self.options.cold_listen or f"unix:{where / _SOCKET}"

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
        assumed=Assumptions.of(config, config.http.auto),
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
    logs = settings.directory or LOGS
    return {
        "EXTENSIONS": EXTENSIONS,
        "MAPS": maps(settings.assumed),
        "NAMED": NAMED,
        "VARIES": VARIES,
        "ASSUMES": str(settings.assumed),
        "SERVERS": "\n    ".join(f"server {s} max_fails=0;" for s in settings.servers),
        "RECIPE": settings.recipe,
        "CANONICAL": CANONICAL,
        "REFRESH": f'"~^{secret}\\z" {secret};' if secret else "",
        "LISTEN": "\n    ".join(f"listen {where};" for where in options.listen.split()),
        "SERVER_NAME": options.server_name,
        "ACCESS_LOG": str(logs / LOG),
        "CACHE_PATH": options.cache_path,
        "CACHE_KEYS": str(options.cache_keys),
        "CACHE_SIZE": str(options.cache_size),
        "CACHE_INACTIVE": options.cache_inactive,
        "BODY_BYTES": str(settings.upload_bytes + _SLACK_BYTES),
        "READ_TIMEOUT": str(settings.read_timeout),
        "LOCK_TIMEOUT": str(settings.read_timeout + _SLACK_SECONDS),
        "COLD_LISTEN": settings.cold,
        "POLICY": POLICY,
        "PICTURES": "\n    ".join(f'">{m}" "";' for m in _PICTURES),
        "RETRY": str(_RETRY_SECONDS),
        "INCLUDE": f"include {options.include}; # nginx.include\n"
        if options.include
        else "",
        **_limits(options),
    }


def _limits(options: NginxOptions) -> dict[str, str]:
    """Return the directives that limit clients, empty where an option says none."""
    total, client = options.cold_total, options.cold_per_client
    rate, burst = options.cold_rate, options.cold_burst
    uploads, archives = options.uploads_per_client, options.archives_per_client
    trusted = options.trusted_proxies.split()
    believed = [
        *(f"set_real_ip_from {proxy};" for proxy in trusted),
        "real_ip_header X-Forwarded-For;",
        "real_ip_recursive on;",
    ]
    return {
        "COLD_TOTAL": f"limit_conn image_repo_all {total};" if total else "",
        "COLD_CLIENT": f"limit_conn image_repo_clients {client};" if client else "",
        "RATE_ZONE": "limit_req_zone $image_repo_cold_client"
        f" zone=image_repo_rate:10m rate={rate}r/s;"
        if rate
        else "",
        "COLD_RATE": f"limit_req zone=image_repo_rate burst={2 * burst} delay={burst};"
        if rate
        else "",
        "UPLOADS": f"limit_conn image_repo_uploads {uploads};" if uploads else "",
        "ARCHIVES": f"limit_conn image_repo_archives {archives};" if archives else "",
        "TRUSTED": "\n    ".join(believed) if trusted else "",
    }


def _fill(template: str, words: dict[str, str]) -> str:
    """Put *words* in; a line that holds nothing but an empty word is left out."""
    lines = []
    for line in template.splitlines():
        if line and words.get(line.strip().strip("@"), line) == "":
            continue
        lines.append(re.sub("@@([A-Z_]+)@@", lambda m: words[m[1]], line))
    return "\n".join(lines) + "\n"
