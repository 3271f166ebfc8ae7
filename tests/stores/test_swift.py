"""The store in a container of a real Swift, as a user of a real Keystone."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from secrets import token_hex

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from cloud import between as faults
from cloud.between import Ask, Between, Said, between
from cloud.cluster import Cloud
from multidict import CIMultiDict
from stores.conformance import OpenStore, StoreSuite, body_of, keys, put

from image_repo.errors import ConfigError, StoreError
from image_repo.stores.account import Account, SwiftOptions
from image_repo.stores.keystone import Credentials, identity
from image_repo.stores.store import Store
from image_repo.stores.swift import SwiftStore

HASTY = SwiftOptions(connect_seconds=1, read_seconds=1.5, patience=5)
"""For tests of what fails: so that they need not wait long."""

PATIENT = SwiftOptions(patience=60)
"""For a thousand requests at once to a Swift on two cores."""


@asynccontextmanager
async def opened_account(
    environment: Mapping[str, str], options: SwiftOptions = PATIENT
) -> AsyncIterator[Account]:
    async with Account(identity(Credentials(), environment, "test"), options) as made:
        yield made


@asynccontextmanager
async def container(account: Account, name: str = "") -> AsyncIterator[SwiftStore]:
    async with SwiftStore(account, name or f"test-{token_hex(8)}") as store:
        yield store


@pytest_asyncio.fixture(scope="module")
async def account(cloud: Cloud) -> AsyncIterator[Account]:
    async with opened_account(cloud.environment) as made:
        yield made


@pytest_asyncio.fixture
async def store(account: Account) -> AsyncIterator[SwiftStore]:
    async with container(account) as made:
        yield made


@pytest_asyncio.fixture
async def middle(cloud: Cloud) -> AsyncIterator[Between]:
    async with between(cloud.storage_url) as made:
        yield made


@pytest_asyncio.fixture
async def harmed(cloud: Cloud, middle: Between) -> AsyncIterator[SwiftStore]:
    """A store behind a proxy that does harm when it is told to."""
    path = cloud.storage_url.partition("/v1/")[2]
    environment = {**cloud.environment, "OS_STORAGE_URL": f"{middle.url}/v1/{path}"}
    async with (
        opened_account(environment, HASTY) as account,
        container(account) as made,
    ):
        yield made


class TestSwiftStore(StoreSuite):
    @pytest.fixture
    def opened(self, account: Account) -> OpenStore:
        return lambda: container(account)


@asynccontextmanager
async def raw(cloud: Cloud) -> AsyncIterator[aiohttp.ClientSession]:
    """Speak to Swift as another tool would."""
    async with opened_account(cloud.environment) as account:
        token = await account.ask("cannot ask", lambda _, to: to.token)
        async with aiohttp.ClientSession(headers={"X-Auth-Token": token}) as session:
            yield session


# -- what other tools have put ---------------------------------------------------------


async def test_an_object_of_another_tool_has_no_metadata_of_ours(cloud: Cloud) -> None:
    name = f"foreign-{token_hex(4)}"
    url = f"{cloud.storage_url}/{name}"
    async with (
        raw(cloud) as tool,
        opened_account(cloud.environment) as account,
        container(account, name) as store,
    ):
        await tool.put(
            f"{url}/deep/tree/%C3%A9.JPG",
            data=b"bytes",
            headers={"X-Object-Meta-Colour": "red", "Content-Type": "image/jpeg"},
        )

        found = await store.head("deep/tree/\u00e9.JPG")

    assert found is not None
    assert (found.size, found.metadata, found.media_type) == (5, {}, "image/jpeg")
    assert found.revision == hashlib.md5(b"bytes").hexdigest()


async def test_a_large_object_in_segments_is_read_as_one(cloud: Cloud) -> None:
    name = f"large-{token_hex(4)}"
    url = f"{cloud.storage_url}/{name}"
    async with (
        raw(cloud) as tool,
        opened_account(cloud.environment) as account,
        container(account, name) as store,
    ):
        for part in (b"one", b"two"):
            await tool.put(f"{url}/parts/{part.decode()}", data=part)
        manifest = [{"path": f"/{name}/parts/{part}"} for part in ("one", "two")]
        made = await tool.put(
            f"{url}/whole.jpg?multipart-manifest=put", data=json.dumps(manifest)
        )
        assert made.status == 201, await made.text()

        assert await body_of(store, "whole.jpg") == b"onetwo"
        seen, found = await store.head("whole.jpg"), await store.fetch("whole.jpg")

    assert seen is not None
    assert found is not None
    with found:
        assert found.stored == seen
    assert '"' not in seen.revision


# -- paths -----------------------------------------------------------------------------


async def test_a_path_is_asked_for_exactly_as_it_is(
    harmed: SwiftStore, middle: Between
) -> None:
    for key in ("../other/x", "..", "./x", "a/../../b", "a//b"):
        await put(harmed, key, key.encode())
        assert await body_of(harmed, key) == key.encode()

    base = middle.asked[0][1]
    assert base.rpartition("/")[2].startswith("test-")
    assert all(path.startswith(base) for _, path in middle.asked)


# -- containers and lifetimes ----------------------------------------------------------


async def test_a_container_that_has_vanished_is_made_again(
    cloud: Cloud, account: Account
) -> None:
    name = f"vanishing-{token_hex(4)}"
    async with raw(cloud) as tool, container(account, name) as store:
        await tool.delete(f"{cloud.storage_url}/{name}")

        assert await store.head("x") is None
        assert await keys(store) == []
        assert await store.delete("x") is False
        await put(store, "x", b"body")

        assert await body_of(store, "x") == b"body"


async def test_who_may_not_make_a_missing_container_is_told_at_once(
    cloud: Cloud,
) -> None:
    async with opened_account(cloud.limited) as account:
        with pytest.raises(ConfigError, match=r"^cannot open container 'test-.*403$"):
            async with container(account):
                pass


async def test_an_object_is_gone_after_its_lifetime(store: SwiftStore) -> None:
    await store.put("x", io.BytesIO(b"body"), media_type="image/png", lifetime=1)
    await store.put("y", io.BytesIO(b"body"), media_type="image/png", lifetime=60)

    await asyncio.sleep(2.1)

    assert await store.head("x") is None
    assert await store.fetch("x") is None
    assert await body_of(store, "y") == b"body"


# -- faults ----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [408, 429, 498, 500, 502, 503, 504])
async def test_what_swift_refuses_for_a_moment_is_asked_again(
    harmed: SwiftStore, middle: Between, number: int
) -> None:
    for method in ("PUT", "HEAD", "GET", "DELETE"):
        middle.harm(faults.status(number), times=2, method=method, ends="/x")

    await put(harmed, "x", b"body")

    assert await harmed.head("x") is not None
    assert await body_of(harmed, "x") == b"body"
    assert await harmed.delete("x") is True
    middle.harm(faults.status(number), times=2, method="GET")
    assert await keys(harmed) == []


@pytest.mark.parametrize("number", [400, 403, 413, 507, 503, 401])
async def test_what_swift_goes_on_refusing_is_an_error_of_the_store(
    harmed: SwiftStore, middle: Between, number: int
) -> None:
    await put(harmed, "x", b"body")
    middle.harm(faults.status(number), times=100)

    for call, doing in (
        (harmed.head("x"), "read 'x'"),
        (harmed.fetch("x"), "read 'x'"),
        (harmed.delete("x"), "delete 'x'"),
        (put(harmed, "x", b"other"), "write 'x'"),
        (keys(harmed, "x/"), "list 'x/'"),
    ):
        with pytest.raises(StoreError) as raised:
            await call
        assert str(raised.value) == f"cannot {doing}: Swift answered {number}"

    middle.spare()
    assert await body_of(harmed, "x") == b"body"


@pytest.mark.parametrize(
    "fault",
    [
        faults.garbled(),
        faults.headers(Etag="0" * 32),
        faults.cut(100_000),
        faults.cut(0),
        faults.lost(passed_on=False),
        faults.late(2.5),
        faults.cut(10, pause=2.5),
        faults.headers(Last_Modified="yesterday"),
    ],
    ids=["garbled", "etag", "cut", "begun", "lost", "late", "stalled", "undated"],
)
async def test_bytes_that_are_not_whole_or_not_right_are_asked_for_again(
    harmed: SwiftStore, middle: Between, fault: faults.Fault
) -> None:
    body = os.urandom(300_000)
    await put(harmed, "x", body)
    middle.harm(fault, method="GET")

    assert await body_of(harmed, "x") == body
    assert middle.count("GET", "/x") == 2

    middle.harm(fault, times=100, method="GET")
    with pytest.raises(StoreError, match=r"^cannot read 'x': "):
        await harmed.fetch("x")


async def test_a_body_that_trickles_does_not_hold_a_connection_for_ever(
    cloud: Cloud, middle: Between
) -> None:
    path = cloud.storage_url.partition("/v1/")[2]
    environment = {**cloud.environment, "OS_STORAGE_URL": f"{middle.url}/v1/{path}"}
    options = replace(HASTY, transfer_seconds=1, patience=1)
    async with (
        opened_account(environment, options) as account,
        container(account) as store,
    ):
        await put(store, "x", bytes(300_000))
        middle.harm(faults.trickle(1000, 0.1), times=10, method="GET")
        started = time.monotonic()

        with pytest.raises(StoreError, match="too long to arrive"):
            await store.fetch("x")

    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "fault",
    [
        faults.lost(passed_on=True),
        faults.lost(passed_on=False),
        faults.status(503, passed_on=True),
        faults.late(2.5),
        faults.headers(Etag="0" * 32),
    ],
    ids=["answer lost", "lost", "503", "late", "etag"],
)
async def test_a_write_that_may_have_failed_is_made_sure_of(
    harmed: SwiftStore, middle: Between, fault: faults.Fault
) -> None:
    middle.harm(fault, method="PUT", ends="/x")
    stored = await put(harmed, "x", b"body", colour="red")

    assert await body_of(harmed, "x") == b"body"
    assert await harmed.head("x") == stored

    middle.harm(fault, times=100, method="PUT", ends="/x")
    with pytest.raises(StoreError, match=r"^cannot write 'x': "):
        await put(harmed, "x", b"other")


async def test_a_delete_whose_answer_was_lost_did_delete(
    harmed: SwiftStore, middle: Between
) -> None:
    await put(harmed, "x")
    middle.harm(faults.lost(passed_on=True), method="DELETE", ends="/x")

    assert await harmed.delete("x") is True
    assert await harmed.delete("x") is False


async def test_more_questions_than_connections_wait_for_their_turn_in_bounded_time(
    harmed: SwiftStore, middle: Between
) -> None:
    await put(harmed, "x")
    middle.harm(faults.late(60), times=1000, method="HEAD", ends="/x")
    started = time.monotonic()

    outcomes = await asyncio.gather(
        *(harmed.head("x") for _ in range(60)), return_exceptions=True
    )

    assert all(isinstance(outcome, StoreError) for outcome in outcomes)
    assert time.monotonic() - started < HASTY.patience + 3 * HASTY.read_seconds


async def test_a_caller_that_leaves_does_not_wait_for_a_slow_answer(
    harmed: SwiftStore, middle: Between
) -> None:
    await put(harmed, "x")
    middle.harm(faults.late(1.5), method="HEAD", ends="/x")
    started = time.monotonic()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await harmed.head("x")

    assert time.monotonic() - started < 1
    assert await harmed.head("x") is not None


async def test_a_disk_without_room_is_an_error_of_the_store(
    account: Account, tmp_path: Path
) -> None:
    store: Store = SwiftStore(account, "test-spool", spool=tmp_path / "not")
    async with store:
        await put(store, "x")

        with pytest.raises(StoreError, match=r"^cannot read 'x': No such file"):
            await store.fetch("x")


# -- tokens ----------------------------------------------------------------------------


@pytest_asyncio.fixture
async def keystone(cloud: Cloud) -> AsyncIterator[Between]:
    async with between(cloud.auth_url) as made:
        yield made


async def test_a_refused_token_is_renewed_once_for_all_who_ask(
    cloud: Cloud, middle: Between, keystone: Between
) -> None:
    path = cloud.storage_url.partition("/v1/")[2]
    environment = {
        **cloud.environment,
        "OS_AUTH_URL": f"{keystone.url}/v3",
        "OS_STORAGE_URL": f"{middle.url}/v1/{path}",
    }
    async with opened_account(environment) as account, container(account) as store:
        await put(store, "x", b"body")
        assert keystone.count("POST", "/v3/auth/tokens") == 1
        token = await account.ask("cannot ask", lambda _, to: to.token)

        async def refuse_old(request: web.Request, ask: Ask) -> Said:
            if request.headers.get("X-Auth-Token") == token:
                return Said(401, CIMultiDict(), b"")
            return await ask()

        middle.harm(refuse_old, times=10_000)
        async with asyncio.timeout(50):
            seen = await asyncio.gather(*(store.head("x") for _ in range(500)))

    assert all(found is not None for found in seen)
    assert keystone.count("POST", "/v3/auth/tokens") == 2


async def test_a_store_opens_without_keystone_and_works_once_it_is_there(
    cloud: Cloud, keystone: Between
) -> None:
    environment = {**cloud.environment, "OS_AUTH_URL": f"{keystone.url}/v3"}
    keystone.harm(faults.status(503), times=1000)
    async with opened_account(environment) as account, container(account) as store:
        with pytest.raises(
            StoreError, match=r"^cannot read 'x': Keystone gives no token$"
        ):
            await store.head("x")

        keystone.spare()
        await asyncio.sleep(1.1)

        assert await store.head("x") is None
        await put(store, "x", b"body")
        assert await body_of(store, "x") == b"body"


async def test_credentials_that_keystone_refuses_are_an_error_at_the_start(
    cloud: Cloud,
) -> None:
    environment = {**cloud.environment, "OS_PASSWORD": "not the password"}

    with pytest.raises(ConfigError, match="refuses the credentials") as raised:
        async with opened_account(environment):
            pass

    assert "not the password" not in str(raised.value)


async def test_a_region_without_swift_is_an_error_at_the_start(cloud: Cloud) -> None:
    environment = {**cloud.environment, "OS_REGION_NAME": "Elsewhere"}

    with pytest.raises(ConfigError, match=r"in Elsewhere region not found$"):
        async with opened_account(environment):
            pass


async def test_a_keystone_that_hangs_does_not_keep_a_store_from_opening(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("image_repo.stores.account.START_SECONDS", 0.3)
    monkeypatch.setattr("image_repo.stores.swift.START_SECONDS", 0.3)
    started = time.monotonic()
    try:
        await asyncio.to_thread(cloud.processes["keystone"].pause)
        async with (
            opened_account(cloud.environment, HASTY) as account,
            container(account) as store,
        ):
            assert time.monotonic() - started < 3
            with pytest.raises(StoreError, match="Keystone gives no token"):
                await store.head("x")
            await asyncio.to_thread(cloud.heal)
            await asyncio.sleep(1.1)

            await put(store, "x", b"body")
            assert await body_of(store, "x") == b"body"
    finally:
        await asyncio.to_thread(cloud.heal)


async def test_a_server_of_swift_that_dies_leaves_no_half_object(
    cloud: Cloud, store: SwiftStore
) -> None:
    old, new = os.urandom(8_000_000), os.urandom(8_000_000)
    await put(store, "x", old)
    server = cloud.processes["object"]
    try:
        for pause in (0.02, 0.06):
            work = [
                asyncio.create_task(put(store, "x", new)),
                asyncio.create_task(body_of(store, "x")),
            ]
            await asyncio.sleep(pause)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(cloud.heal)
            stored, seen = await asyncio.gather(*work, return_exceptions=True)

            assert isinstance(seen, StoreError) or seen in (old, new)
            now = await body_of(store, "x")
            assert (
                now == new if not isinstance(stored, Exception) else now in (old, new)
            )
    finally:
        await asyncio.to_thread(cloud.heal)


@pytest.mark.slow
async def test_all_of_it_may_be_killed_and_comes_back(
    cloud: Cloud, store: SwiftStore
) -> None:
    await put(store, "x", b"body")
    for process in cloud.processes.values():
        await asyncio.to_thread(process.kill)
    with pytest.raises(StoreError):
        await store.head("x")

    await asyncio.to_thread(cloud.heal)

    assert await body_of(store, "x") == b"body"
    assert await keys(store) == ["x"]


async def test_a_token_that_cannot_be_renewed_early_is_used_while_swift_takes_it(
    cloud: Cloud, keystone: Between
) -> None:
    environment = {**cloud.environment, "OS_AUTH_URL": f"{keystone.url}/v3"}
    async with opened_account(environment) as account, container(account) as store:
        await put(store, "x")
        keystone.harm(faults.status(503), times=1000)
        account._session.invalidate()  # as if it were about to expire

        assert await store.head("x") is not None
