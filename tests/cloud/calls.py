"""Calls of Keystone and Swift as their documents say, without their clients."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(
    url: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    timeout: float = 30,
) -> Answer:
    """Ask by a connection of its own, whatever the environment says of proxies.

    Raises:
        OSError: There was no answer in time.
    """
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, target, body, headers or {})
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


@dataclass(frozen=True, slots=True)
class Login:
    """What Keystone gave for credentials.

    Attributes:
        token: For `X-Auth-Token`.
        storage_url: Where the catalog says that Swift is.
    """

    token: str
    storage_url: str

    def ask(self, path: str, method: str = "GET", body: bytes | None = None) -> Answer:
        headers = {"X-Auth-Token": self.token}
        return ask(self.storage_url + path, method, headers, body)


def log_in(exports: Mapping[str, str]) -> Login:
    """Log in by what an OpenStack user exports; a v2.0 address is taken for its v3."""
    base = re.sub(r"/v[23][.0-9]*/*$", "", exports["OS_AUTH_URL"])
    asked = json.dumps({"auth": _asked(exports)}).encode()
    answer = ask(
        f"{base}/v3/auth/tokens", "POST", {"Content-Type": "application/json"}, asked
    )
    if answer.status != 201:
        raise PermissionError(f"{answer.status}: {answer.body.decode()}")
    (found,) = (
        endpoint["url"]
        for service in json.loads(answer.body)["token"]["catalog"]
        for endpoint in service["endpoints"]
        if service["type"] == "object-store"
        and endpoint["interface"] == "public"
        and endpoint["region"] == exports["OS_REGION_NAME"]
    )
    return Login(answer.headers["X-Subject-Token"], found)


def _asked(exports: Mapping[str, str]) -> dict[str, object]:
    if "OS_APPLICATION_CREDENTIAL_ID" in exports:
        method = "application_credential"
        given: dict[str, object] = {
            "id": exports["OS_APPLICATION_CREDENTIAL_ID"],
            "secret": exports["OS_APPLICATION_CREDENTIAL_SECRET"],
        }
        return {"identity": {"methods": [method], method: given}}
    user = {
        "name": exports["OS_USERNAME"],
        "password": exports["OS_PASSWORD"],
        "domain": {"name": exports.get("OS_USER_DOMAIN_NAME", "Default")},
    }
    project: dict[str, object] = {
        "name": exports.get("OS_PROJECT_NAME") or exports["OS_TENANT_NAME"],
        "domain": {"name": exports.get("OS_PROJECT_DOMAIN_NAME", "Default")},
    }
    return {
        "identity": {"methods": ["password"], "password": {"user": user}},
        "scope": {"project": project},
    }
