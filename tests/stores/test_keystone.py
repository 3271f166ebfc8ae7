from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cloud.cluster import Cloud
from keystoneauth1 import exceptions

from image_repo import options
from image_repo.errors import ConfigError
from image_repo.sources import Source
from image_repo.stores.containers import FROM_ENVIRONMENT
from image_repo.stores.keystone import Credentials, Identity, identity, make_session

PASSWORD = {
    "OS_AUTH_URL": "https://keystone.example.org:5000/v3",
    "OS_USERNAME": "me",
    "OS_PASSWORD": "Secret-1",
    "OS_PROJECT_NAME": "ours",
}
APPLICATION = {
    "OS_AUTH_URL": "https://keystone.example.org:5000/v3",
    "OS_APPLICATION_CREDENTIAL_ID": "app-id",
    "OS_APPLICATION_CREDENTIAL_SECRET": "Secret-2",
}
WHERE = "persistent_store_configuration.credentials"


def found(
    environ: Mapping[str, str], credentials: Credentials = FROM_ENVIRONMENT
) -> Identity:
    return identity(credentials, environ, WHERE)


def refused(
    environ: Mapping[str, str], credentials: Credentials = FROM_ENVIRONMENT
) -> str:
    with pytest.raises(ConfigError) as caught:
        found(environ, credentials)
    assert "Secret" not in str(caught.value)
    return str(caught.value)


def without(environ: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: text for name, text in environ.items() if name not in names}


# -- what is looked up -----------------------------------------------------------------


def test_a_user_without_domains_is_of_the_default_domain() -> None:
    assert found(PASSWORD) == Identity(
        auth_url="https://keystone.example.org:5000/v3",
        username="me",
        user_domain_id="default",
        password="Secret-1",
        project_name="ours",
        project_domain_id="default",
    )


def test_domains_are_taken_by_name_or_by_id() -> None:
    who = found(
        PASSWORD
        | {"OS_USER_DOMAIN_NAME": "Ours", "OS_PROJECT_DOMAIN_ID": "4f"}
        | {"OS_PROJECT_DOMAIN_NAME": "Theirs"}
    )

    assert (who.user_domain_name, who.user_domain_id) == ("Ours", "")
    assert (who.project_domain_name, who.project_domain_id) == ("", "4f")


def test_where_there_is_an_id_names_and_domains_do_not_matter() -> None:
    ids = {"OS_USER_ID": "u1", "OS_PROJECT_ID": "p1", "OS_USER_DOMAIN_NAME": "Ours"}

    assert found(PASSWORD | ids) == Identity(
        auth_url="https://keystone.example.org:5000/v3",
        user_id="u1",
        password="Secret-1",
        project_id="p1",
    )


def test_a_tenant_is_a_project() -> None:
    environ = without(PASSWORD, "OS_PROJECT_NAME") | {"OS_TENANT_NAME": "ours"}

    assert found(environ) == found(PASSWORD)
    assert found(environ | {"OS_TENANT_ID": "t1"}).project_id == "t1"


def test_an_application_credential_needs_no_user_and_no_project() -> None:
    who = found(APPLICATION)

    assert who == Identity(
        auth_url="https://keystone.example.org:5000/v3",
        application_credential_id="app-id",
        application_credential_secret="Secret-2",
    )
    assert found(APPLICATION | PASSWORD) == who


def test_the_name_of_an_application_credential_goes_with_its_user() -> None:
    environ = without(APPLICATION, "OS_APPLICATION_CREDENTIAL_ID")
    environ["OS_APPLICATION_CREDENTIAL_NAME"] = "app"

    assert refused(environ) == (
        f"option {WHERE}.username: the environment has no OS_USERNAME;"
        " user_id would do as well"
    )
    assert found(environ | PASSWORD) == Identity(
        auth_url="https://keystone.example.org:5000/v3",
        username="me",
        user_domain_id="default",
        application_credential_name="app",
        application_credential_secret="Secret-2",
    )


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://a.example:5000/v2.0/", "https://a.example:5000/"),
        ("https://a.example:5000/v2.0", "https://a.example:5000/"),
        ("https://a.example/identity/v2.0/", "https://a.example/identity/"),
        ("https://a.example:5000/v3/", "https://a.example:5000/v3/"),
        ("http://[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_version_2_of_keystone_is_never_asked_for(url: str, taken: str) -> None:
    assert found(PASSWORD | {"OS_AUTH_URL": url}).auth_url == taken


@pytest.mark.parametrize(
    ("environ", "interface"),
    [
        ({}, "public"),
        ({"OS_INTERFACE": "internal"}, "internal"),
        ({"OS_ENDPOINT_TYPE": "publicURL"}, "public"),
        ({"OS_ENDPOINT_TYPE": "adminURL"}, "admin"),
        ({"OS_INTERFACE": "internal", "OS_ENDPOINT_TYPE": "publicURL"}, "internal"),
    ],
)
def test_the_interface_is_public_unless_said(
    environ: dict[str, str], interface: str
) -> None:
    assert found(PASSWORD | environ).interface == interface


def test_a_value_comes_from_wherever_its_source_says(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("Secret-3\n")
    credentials = options.load(
        Credentials,
        {"password": ["file", str(tmp_path / "password")], "username": "you"},
    )

    who = found(PASSWORD, credentials)

    assert (who.username, who.password) == ("you", "Secret-3")


def test_equal_credentials_are_one_identity() -> None:
    explicit = replace(Credentials(), username=Source("explicit", "me"))

    assert len({found(PASSWORD), found(PASSWORD, explicit)}) == 1
    assert found(PASSWORD | {"OS_PASSWORD": "other"}) != found(PASSWORD)


def test_an_identity_shows_no_secret() -> None:
    assert "me" in repr(found(PASSWORD))
    assert "Secret" not in repr(found(PASSWORD)) + repr(found(APPLICATION))


# -- what is refused -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "lacks", "says"),
    [
        (PASSWORD, "OS_AUTH_URL", "auth_url: the environment has no OS_AUTH_URL"),
        (PASSWORD, "OS_PASSWORD", "password: the environment has no OS_PASSWORD"),
        (PASSWORD, "OS_USERNAME", "username: the environment has no OS_USERNAME;"),
        (
            PASSWORD,
            "OS_PROJECT_NAME",
            "project_name: the environment has no OS_PROJECT_NAME; project_id or ten",
        ),
        (
            APPLICATION,
            "OS_APPLICATION_CREDENTIAL_SECRET",
            "application_credential_secret: the environment has no OS_APPLICATION_CRED",
        ),
    ],
)
def test_what_is_missing_is_named_by_option_and_variable(
    environ: dict[str, str], lacks: str, says: str
) -> None:
    assert refused(without(environ, lacks)).startswith(f"option {WHERE}.{says}")
    assert refused(environ | {lacks: ""}).startswith(f"option {WHERE}.{says}")


def test_an_empty_file_or_text_is_missing(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("\n")
    path = str(tmp_path / "password")
    in_file = replace(Credentials(), password=Source("file", path))
    explicit = replace(Credentials(), password=Source("explicit", ""))

    assert refused(PASSWORD, in_file) == (
        f"option {WHERE}.password: the file '{path}' is empty"
    )
    assert refused(PASSWORD, explicit) == f"option {WHERE}.password: it is empty"


def test_a_file_that_is_not_there_is_named_with_its_option() -> None:
    credentials = replace(Credentials(), password=Source("file", "/nowhere/password"))

    assert refused(PASSWORD, credentials) == (
        f"option {WHERE}.password: cannot read '/nowhere/password':"
        " No such file or directory"
    )


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("OS_AUTH_URL", "keystone:5000", "auth_url: it must be a URL such as"),
        ("OS_AUTH_URL", "https://", "auth_url: it must be a URL"),
        ("OS_AUTH_URL", "https://a:Secret@b/", "auth_url: it must be a URL"),
        ("OS_AUTH_URL", "https://a:port/", "auth_url: it must be a URL"),
        ("OS_STORAGE_URL", "file:///v1/AUTH_1", "storage_url: it must be a URL"),
        ("OS_INTERFACE", "open", "interface: it must be one of public, internal,"),
        ("OS_CACERT", "/nowhere/ca.pem", "cacert: there is no file '/nowhere/ca.pem'"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, text: str, says: str) -> None:
    assert refused(PASSWORD | {name: text}).startswith(f"option {WHERE}.{says}")


# -- a real Keystone -------------------------------------------------------------------


@pytest.mark.parametrize("how", ["environment", "classic", "application"])
def test_a_real_keystone_gives_a_token_and_the_place_of_swift(
    cloud: Cloud, how: str
) -> None:
    session = make_session(found(getattr(cloud, how)), timeout=10)

    assert session.get_token()
    where = session.get_endpoint(
        service_type="object-store", interface="public", region_name="RegionOne"
    )
    assert where == cloud.storage_url


def test_an_address_without_a_version_serves_both_ways_to_log_in(cloud: Cloud) -> None:
    for environ in (cloud.environment, cloud.application):
        url = environ["OS_AUTH_URL"].removesuffix("v3")

        session = make_session(found(environ | {"OS_AUTH_URL": url}), timeout=10)

        assert session.get_token()


def test_a_real_keystone_takes_an_application_credential_by_name(cloud: Cloud) -> None:
    environ = cloud.classic | {
        "OS_APPLICATION_CREDENTIAL_NAME": "images",
        "OS_APPLICATION_CREDENTIAL_SECRET": cloud.application[
            "OS_APPLICATION_CREDENTIAL_SECRET"
        ],
    }

    assert make_session(found(environ), timeout=10).get_token()


def test_a_real_keystone_refuses_a_wrong_password(cloud: Cloud) -> None:
    session = make_session(
        found(cloud.environment | {"OS_PASSWORD": "wrong"}), timeout=10
    )

    with pytest.raises(exceptions.Unauthorized):
        session.get_token()
