"""Makes Keystone's database, keys and users; run by `.venv-cloud` alone.

`identity.py DIRECTORY`: keystone.conf is there. The passwords and ids of what was made
go into facts.json. Endpoints have no port yet: `cluster.py` writes it at each start.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import uuid
from pathlib import Path

from keystone import server
from keystone.cmd.bootstrap import Bootstrapper
from keystone.common import provider_api
from keystone.common.sql import upgrades

REGION = "RegionOne"
NOWHERE = "http://127.0.0.1:0"
API = provider_api.ProviderAPIs


def main(directory: Path) -> None:
    for name in ("fernet-keys", "credential-keys"):
        write_keys(directory / name)
    server.configure(config_files=[str(directory / "keystone.conf")])
    upgrades.offline_sync_database_to_version()
    facts = populate(Bootstrapper())
    (directory / "facts.json").write_text(json.dumps(facts, indent=1))


def write_keys(repository: Path) -> None:
    """Write what `keystone-manage fernet_setup` does: a staged and a primary key."""
    repository.mkdir(mode=0o700)
    for name in ("0", "1"):
        (repository / name).write_bytes(base64.urlsafe_b64encode(os.urandom(32)))


def populate(made: Bootstrapper) -> dict[str, str]:
    """Make all users, roles and services; return what their clients need to know."""
    facts = {f"{user}_password": secrets.token_hex(16) for user in ("admin", "swift")}
    made.admin_username, made.admin_password = "admin", facts["admin_password"]
    made.project_name, made.admin_role_name = "admin", "admin"
    made.service_name, made.region_id = "keystone", REGION
    made.public_url = made.internal_url = made.admin_url = f"{NOWHERE}/v3"
    made.bootstrap()
    add_swift(made, facts["swift_password"])

    project = add_project("images")
    operator = uuid.uuid4().hex
    API.role_api.create_role(operator, {"id": operator, "name": "swiftoperator"})
    facts |= {"project_id": project, "salt": secrets.token_hex(16)}
    for user, roles in {
        "images": [operator, made.member_role_id],
        "reader": [made.reader_role_id],
    }.items():
        password = secrets.token_hex(16)
        facts[f"{user}_id"] = add_user(user, password, project, roles)
        facts[f"{user}_password"] = password
    return facts | add_application(facts["images_id"], project, operator)


def add_swift(made: Bootstrapper, password: str) -> None:
    """Add the user by whom Swift asks about tokens, and Swift to the catalog."""
    roles = [made.admin_role_id, made.service_role_id]
    add_user("swift", password, add_project("service"), roles)
    service = {"id": uuid.uuid4().hex, "name": "swift", "type": "object-store"}
    API.catalog_api.create_service(service["id"], {**service, "enabled": True})
    for interface in ("public", "internal", "admin"):
        endpoint = {
            "id": uuid.uuid4().hex,
            "interface": interface,
            "region_id": REGION,
            "service_id": service["id"],
            "url": NOWHERE,
            "enabled": True,
        }
        API.catalog_api.create_endpoint(endpoint["id"], endpoint)


def add_project(name: str) -> str:
    project = uuid.uuid4().hex
    about = {"id": project, "name": name, "domain_id": "default", "enabled": True}
    API.resource_api.create_project(project, about)
    return project


def add_user(name: str, password: str, project: str, roles: list[str]) -> str:
    about = {
        "name": name,
        "password": password,
        "domain_id": "default",
        "enabled": True,
    }
    user: str = API.identity_api.create_user(about)["id"]
    for role in roles:
        API.assignment_api.add_role_to_user_and_project(user, project, role)
    return user


def add_application(user: str, project: str, role: str) -> dict[str, str]:
    """Add an application credential of *user*; return its id and secret."""
    identifier, secret = uuid.uuid4().hex, secrets.token_hex(32)
    about = {
        "id": identifier,
        "name": "images",
        "secret": secret,
        "user_id": user,
        "project_id": project,
        "roles": [{"id": role}],
        "unrestricted": False,
    }
    API.application_credential_api.create_application_credential(about)
    return {"application_id": identifier, "application_secret": secret}


if __name__ == "__main__":
    main(Path(sys.argv.pop()))  # Keystone would read it, too
