"""Who we are to Keystone: credentials as options, and the session they open."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from keystoneauth1.identity import generic, v3
from keystoneauth1.plugin import BaseAuthPlugin
from keystoneauth1.session import Session

from image_repo.errors import ConfigError
from image_repo.options import option
from image_repo.sources import Source, given

APPLICATION: Final = "image-repo"
"""Begins the User-Agent of requests to Keystone."""

DOMAIN: Final = "default"
"""Id of the domain that Keystone makes at its installation."""

INTERFACES: Final = ("public", "internal", "admin")
"""Which of a service's URLs is taken from the catalogue; old spellings end in URL."""

_VERSION_2 = re.compile(r"/v2\.0/*\Z")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What Keystone wants to know; each where the usual openrc file puts it."""

    auth_url: Source = option(Source("env", "OS_AUTH_URL"), "URL of Keystone.")
    username: Source = option(Source("env", "OS_USERNAME"), "Name of the user.")
    user_id: Source = option(
        Source("env", "OS_USER_ID"), "The user's id, in place of name and domain."
    )
    password: Source = option(
        Source("env", "OS_PASSWORD"), "The user's password.", secret=True
    )
    project_name: Source = option(
        Source("env", "OS_PROJECT_NAME"), "Name of the project that has the containers."
    )
    project_id: Source = option(
        Source("env", "OS_PROJECT_ID"), "The project's id, in place of name and domain."
    )
    tenant_name: Source = option(
        Source("env", "OS_TENANT_NAME"), "An older word for project_name."
    )
    tenant_id: Source = option(
        Source("env", "OS_TENANT_ID"), "An older word for project_id."
    )
    user_domain_name: Source = option(
        Source("env", "OS_USER_DOMAIN_NAME"), "Name of the user's domain."
    )
    user_domain_id: Source = option(
        Source("env", "OS_USER_DOMAIN_ID"),
        "Id of the user's domain; where neither is said it is default.",
    )
    project_domain_name: Source = option(
        Source("env", "OS_PROJECT_DOMAIN_NAME"), "Name of the project's domain."
    )
    project_domain_id: Source = option(
        Source("env", "OS_PROJECT_DOMAIN_ID"),
        "Id of the project's domain; where neither is said it is default.",
    )
    application_credential_id: Source = option(
        Source("env", "OS_APPLICATION_CREDENTIAL_ID"),
        "Id of an application credential, in place of user, password and project.",
    )
    application_credential_name: Source = option(
        Source("env", "OS_APPLICATION_CREDENTIAL_NAME"),
        "Its name, in place of its id; then the user is needed, too.",
    )
    application_credential_secret: Source = option(
        Source("env", "OS_APPLICATION_CREDENTIAL_SECRET"), "Its secret.", secret=True
    )
    region_name: Source = option(
        Source("env", "OS_REGION_NAME"), "Region of Swift; empty: the first there is."
    )
    interface: Source = option(
        Source("env", "OS_INTERFACE"),
        "Which of Swift's URLs is used: public (where nothing is said, here or by"
        " OS_ENDPOINT_TYPE), internal or admin.",
    )
    cacert: Source = option(
        Source("env", "OS_CACERT"),
        "File of the certificates that Keystone and Swift are checked by; empty: those"
        " of the system.",
    )
    storage_url: Source = option(
        Source("env", "OS_STORAGE_URL"),
        "URL of the Swift account, in place of the one that Keystone's catalogue has.",
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """Credentials as Keystone gets them; equal ones are the same user of one account.

    Empty texts are not used. Where an id is given, there are no name and no domain.
    """

    auth_url: str
    username: str = ""
    user_id: str = ""
    user_domain_name: str = ""
    user_domain_id: str = ""
    password: str = field(default="", repr=False)
    project_name: str = ""
    project_id: str = ""
    project_domain_name: str = ""
    project_domain_id: str = ""
    application_credential_id: str = ""
    application_credential_name: str = ""
    application_credential_secret: str = field(default="", repr=False)
    region_name: str = ""
    interface: str = INTERFACES[0]
    cacert: str = ""
    storage_url: str = ""

    @property
    def verify(self) -> str | bool:
        """A file of certificates; True: those of the system."""
        return self.cacert or True


def identity(
    credentials: Credentials, environ: Mapping[str, str], where: str
) -> Identity:
    """Return what the credentials are, once everything is looked up.

    An application credential is used where one is named, otherwise a password.

    Args:
        credentials: The options.
        environ: As `os.environ`.
        where: The path of their section, for messages.

    Raises:
        ConfigError: Something is missing, can't be read, or makes no sense; names the
            option, and where its value was looked for.
    """
    found = _Found(credentials, environ, where)
    auth_url = _VERSION_2.sub("/", found.url("auth_url", needed=True))
    interface = found["interface"]
    if not interface and credentials.interface == Credentials().interface:
        interface = environ.get("OS_ENDPOINT_TYPE", "")
    interface = interface.removesuffix("URL") or INTERFACES[0]
    if interface not in INTERFACES:
        raise found.wrong("interface", f"it must be one of {', '.join(INTERFACES)}")
    cacert = found["cacert"]
    if cacert and not Path(cacert).exists():
        raise found.wrong("cacert", f"there is no file {cacert!r}")
    return Identity(
        auth_url=auth_url,
        region_name=found["region_name"],
        interface=interface,
        cacert=cacert,
        storage_url=found.url("storage_url"),
        **_who(found),
    )


def make_session(who: Identity, *, timeout: float) -> Session:
    """Return a session that has tokens; its calls raise what keystoneauth1 raises.

    Nothing is asked of Keystone before the first token is wanted, and nothing twice.

    Args:
        who: Whose tokens.
        timeout: Seconds to connect, and seconds without a byte.
    """
    return Session(
        auth=_plugin(who),
        verify=who.verify,
        timeout=timeout,
        app_name=APPLICATION,
        connect_retries=0,
    )


def _plugin(who: Identity) -> BaseAuthPlugin:
    if who.application_credential_secret:
        return v3.ApplicationCredential(
            who.auth_url,
            application_credential_secret=who.application_credential_secret,
            application_credential_id=who.application_credential_id or None,
            application_credential_name=who.application_credential_name or None,
            username=who.username or None,
            user_id=who.user_id or None,
            user_domain_id=who.user_domain_id or None,
            user_domain_name=who.user_domain_name or None,
        )
    return generic.Password(
        who.auth_url,
        username=who.username or None,
        user_id=who.user_id or None,
        password=who.password,
        user_domain_id=who.user_domain_id or None,
        user_domain_name=who.user_domain_name or None,
        project_id=who.project_id or None,
        project_name=who.project_name or None,
        project_domain_id=who.project_domain_id or None,
        project_domain_name=who.project_domain_name or None,
    )


class _Found:
    """The texts of all credentials, by the names of their options."""

    def __init__(
        self, credentials: Credentials, environ: Mapping[str, str], where: str
    ) -> None:
        self._credentials = credentials
        self._where = where
        self._texts = {
            item.name: given(
                getattr(credentials, item.name), environ, f"{where}.{item.name}"
            )
            for item in fields(credentials)
        }

    def __getitem__(self, name: str) -> str:
        return self._texts[name]

    def wrong(self, name: str, reason: str) -> ConfigError:
        return ConfigError(f"option {self._where}.{name}: {reason}")

    def need(self, *names: str) -> None:
        """Refuse when none of *names* has a text; the first is the usual one."""
        if any(self._texts[name] for name in names):
            return
        usual: Source = getattr(self._credentials, names[0])
        others = f"; {' or '.join(names[1:])} would do as well" if names[1:] else ""
        raise self.wrong(names[0], usual.nothing + others)

    def only(self, *names: str) -> dict[str, str]:
        """Return these texts by their names; none of them may be empty.

        Raises:
            ConfigError: One is.
        """
        for name in names:
            self.need(name)
        return {name: self._texts[name] for name in names}

    def url(self, name: str, *, needed: bool = False) -> str:
        """Return a text that is the URL of a service; it may be none."""
        if needed:
            self.need(name)
        text = self._texts[name]
        try:
            parts = urlsplit(text)
            valid = bool(parts.hostname) and parts.port != 0 and "@" not in parts.netloc
        except ValueError:
            valid = False
        if text and not (valid and text.startswith(("http://", "https://"))):
            # It is not shown: it may hold a password.
            raise self.wrong(name, "it must be a URL such as https://example.org:5000")
        return text


def _who(found: _Found) -> dict[str, str]:
    """Return those parts of an `Identity` that say who we are.

    Raises:
        ConfigError: One of them is missing.
    """
    secret = "application_credential_secret"  # noqa: S105 - an option's name
    if found["application_credential_id"]:
        return found.only("application_credential_id", secret)
    if found["application_credential_name"]:
        return found.only("application_credential_name", secret) | _user(found)
    return _user(found) | found.only("password") | _project(found)


def _user(found: _Found) -> dict[str, str]:
    found.need("username", "user_id")
    if found["user_id"]:
        return found.only("user_id")
    return found.only("username") | _domain(found, "user")


def _project(found: _Found) -> dict[str, str]:
    found.need("project_name", "project_id", "tenant_name", "tenant_id")
    if by_id := found["project_id"] or found["tenant_id"]:
        return {"project_id": by_id}
    name = found["project_name"] or found["tenant_name"]
    return {"project_name": name} | _domain(found, "project")


def _domain(found: _Found, whose: str) -> dict[str, str]:
    by_id, by_name = f"{whose}_domain_id", f"{whose}_domain_name"
    if found[by_id] or not found[by_name]:
        return {by_id: found[by_id] or DOMAIN}
    return found.only(by_name)
