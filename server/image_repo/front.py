"""What nginx does for the server: where it listens, what it keeps, whom it limits."""

from __future__ import annotations

from dataclasses import dataclass

from image_repo.options import option

_PATH = "unix:/[A-Za-z0-9._/-]+"
_FILE = "/[A-Za-z0-9._/-]+"
_PORT = "[0-9]{1,5}"
_LISTEN = rf"(?:(?:\*|[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?{_PORT}"
_SERVER = rf"(?:{_PATH}|(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\]):{_PORT})"
_LOOPBACK = rf"(?:{_PATH}|(?:127(?:\.[0-9]{{1,3}}){{3}}|\[::1\]):{_PORT})"
_NETWORK = r"(?:unix:|[0-9A-Fa-f]*[:.][0-9A-Fa-f:.]+(?:/[0-9]{1,3})?)"

MOST = 1_000_000
"""What no limit is above."""


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """Where nginx listens, what it may keep, and how much it lets through."""

    listen: str = option(
        "*:8080",
        "Where nginx listens: addresses with ports, separated by a space; * is every"
        " IPv4 address.",
        pattern=rf"{_LISTEN}(?: {_LISTEN})*",
    )
    server_name: str = option(
        "_",
        "Host names that nginx answers to, separated by a space; _ is any.",
        pattern=r"[A-Za-z0-9._*-]+(?: [A-Za-z0-9._*-]+)*",
    )
    servers: str = option(
        "",
        "Servers before which this nginx is: HOST:PORT or unix:PATH of each, separated"
        " by a space; all requests for an image go to the same one. Empty: the one that"
        " `listen` names.",
        pattern=rf"(?:{_SERVER}(?: {_SERVER})*)?",
    )
    include: str = option(
        "",
        "File that nginx includes where it serves clients: allow, deny, auth_basic,"
        " headers and locations of one's own. Empty: none.",
        pattern=rf"(?:{_FILE})?",
    )
    cache_path: str = option(
        "/var/cache/image_repo-nginx",
        "Directory in which nginx keeps answers; its parent must exist.",
        pattern=_FILE,
    )
    cache_size: int = option(
        10 * 2**30, "Disk space that nginx's cache may take.", low=2**20, size=True
    )
    cache_keys: int = option(
        128 * 2**20,
        "Memory for nginx's list of cached answers; 1 MiB lists about 8,000.",
        low=2**20,
        size=True,
    )
    cache_inactive: str = option(
        "30d",
        "Answers that nobody asked for during this time leave nginx's cache.",
        pattern=r"[1-9][0-9]{0,8}[smhdw]",
    )
    cold_listen: str = option(
        "",
        "Where nginx passes itself what it has not kept, so that limits meet nothing"
        " else: unix:PATH, or a port of 127.0.0.1 or [::1]. Empty: the socket"
        " /run/image_repo-nginx.sock, or one in the directory of an nginx of its own.",
        pattern=rf"(?:{_LOOPBACK})?",
    )
    cold_total: int = option(
        256,
        "Requests for what nginx has not kept that go on to the servers at once; more"
        " are refused. 0: any number.",
        low=0,
        high=MOST,
    )
    cold_per_client: int = option(
        48, "The same, of one client. 0: any number.", low=0, high=MOST
    )
    cold_rate: int = option(
        20,
        "Requests of one client for what nginx has not kept that go on in a second,"
        " once it has had cold_burst. 0: any number.",
        low=0,
        high=MOST,
    )
    cold_burst: int = option(
        32,
        "Such requests that a client may make at once; as many again wait their turn,"
        " more are refused.",
        low=1,
        high=MOST,
    )
    uploads_per_client: int = option(
        16,
        "Uploads of one client that may arrive at once; more are refused. 0: any"
        " number.",
        low=0,
        high=MOST,
    )
    archives_per_client: int = option(
        4,
        "Requests of one client for all images below a path (zips, metadata, links)"
        " that may be under way at once; more are refused. 0: any number.",
        low=0,
        high=MOST,
    )
    trusted_proxies: str = option(
        "",
        "Addresses or networks (10.0.0.0/8) of proxies before nginx, separated by a"
        " space; unix: is any that comes over a socket. What they say in"
        " X-Forwarded-For is the client's address. Empty: nobody is before nginx.",
        pattern=rf"(?:{_NETWORK}(?: {_NETWORK})*)?",
    )
