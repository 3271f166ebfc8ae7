"""The way to Swift when what answers is slow, odd, or refuses every token."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import replace

import pytest
import pytest_asyncio
from cloud import between as faults
from cloud.between import Ask, Between, Said, between
from cloud.calls import ask, log_in
from cloud.cluster import Cloud
from multidict import CIMultiDict
from stores.conformance import body_of, keys, put
from stores.test_swift import HASTY, container, opened_account

from image_repo.errors import StoreError
from image_repo.stores.account import SwiftOptions
from image_repo.stores.tempurl import SwiftSigner


@pytest_asyncio.fixture
async def swift(cloud: Cloud) -> AsyncIterator[Between]:
    async with between(cloud.storage_url) as made:
        yield made


@pytest_asyncio.fixture
async def keystone(cloud: Cloud) -> AsyncIterator[Between]:
    async with between(cloud.auth_url) as made:
        yield made


@pytest.fixture
def environment(cloud: Cloud, swift: Between, keystone: Between) -> Mapping[str, str]:
    path = cloud.storage_url.partition("/v1/")[2]
    return {
        **cloud.environment,
        "OS_AUTH_URL": f"{keystone.url}/v3",
        "OS_STORAGE_URL": f"{swift.url}/v1/{path}",
    }


async def _page_of_a_gateway(*_: object) -> Said:
    return Said(200, CIMultiDict({"Content-Type": "text/html"}), b"<p>Welcome")


async def _undated(_: object, ask: Ask) -> Said:
    said = await ask()
    del said.headers["Last-Modified"]
    return said


# -- answers ---------------------------------------------------------------------------


async def test_metadata_of_other_tools_may_be_in_any_encoding(cloud: Cloud) -> None:
    async with (
        opened_account(cloud.environment) as account,
        container(account, "test-latin") as store,
    ):
        tool = await asyncio.to_thread(log_in, cloud.environment)
        made = await asyncio.to_thread(
            ask,
            f"{tool.storage_url}/test-latin/x",
            "PUT",
            {"X-Auth-Token": tool.token, "X-Object-Meta-Place": "caf\xe9 %E9%"},
            b"body",
        )
        assert made.status == 201

        assert await store.head("x") is not None
        assert await body_of(store, "x") == b"body"


@pytest.mark.parametrize(
    "fault",
    [_page_of_a_gateway, _undated, faults.headers(X_Delete_At="9" * 30)],
    ids=["page", "undated", "endless"],
)
async def test_an_answer_that_makes_no_sense_is_an_error_of_the_store(
    environment: Mapping[str, str], swift: Between, fault: faults.Fault
) -> None:
    async with (
        opened_account(environment, HASTY) as account,
        container(account) as store,
    ):
        await put(store, "x", b"body")
        calls: list[Coroutine[None, None, object]]
        calls = [put(store, "x"), store.head("x"), store.fetch("x")]
        if fault is _page_of_a_gateway:
            calls += [keys(store), SwiftSigner(account, "test").link("x", 2**31, "x")]
        for call in calls:
            swift.harm(fault, times=3)
            try:
                await call
            except StoreError:
                pass
            else:  # an answer to PUT may say what it likes of the object's end
                assert fault not in {_page_of_a_gateway, _undated}
            swift.spare()

        await put(store, "x", b"body")
        assert await body_of(store, "x") == b"body"


async def test_an_answer_that_trickles_has_an_end_too(
    environment: Mapping[str, str], swift: Between
) -> None:
    options = replace(HASTY, transfer_seconds=1, patience=1)
    async with (
        opened_account(environment, options) as account,
        container(account) as store,
    ):
        for number in range(20):
            await put(store, f"{number}")
        started = time.monotonic()
        swift.harm(faults.trickle(10, 0.2), times=10, method="GET")

        with pytest.raises(StoreError, match="too long to arrive"):
            await keys(store)

        assert time.monotonic() - started < 5
        swift.spare()
        assert len(await keys(store)) == 20


async def test_a_list_that_is_cut_off_is_asked_for_again(
    environment: Mapping[str, str], swift: Between
) -> None:
    async with (
        opened_account(environment, HASTY) as account,
        container(account) as store,
    ):
        await put(store, "x")
        swift.harm(faults.cut(2), method="GET")

        assert await keys(store) == ["x"]


async def test_a_cluster_that_does_not_say_what_it_can_do_gives_no_links(
    environment: Mapping[str, str], swift: Between
) -> None:
    async with opened_account(environment, HASTY) as account:
        swift.harm(faults.status(403), ends="/info")

        with pytest.raises(StoreError, match=r"what Swift can do: Swift answered 403$"):
            await SwiftSigner(account, "test").link("x", 2**31, "x")


# -- tokens ----------------------------------------------------------------------------


async def test_a_swift_that_refuses_all_tokens_is_not_given_one_for_each_question(
    environment: Mapping[str, str], swift: Between, keystone: Between
) -> None:
    async with opened_account(environment) as account, container(account) as store:
        before = keystone.count("POST", "/v3/auth/tokens")
        swift.harm(faults.status(401), times=10_000)
        started = time.monotonic()

        outcomes = await asyncio.gather(
            *(store.head("x") for _ in range(200)), return_exceptions=True
        )

        assert {str(outcome) for outcome in outcomes} == {
            "cannot read 'x': Swift answered 401"
        }
        least = keystone.count("POST", "/v3/auth/tokens") - before
        assert 1 <= least <= 2 + (time.monotonic() - started)


async def test_nobody_waits_for_keystone_who_has_a_token_that_swift_takes(
    environment: Mapping[str, str], keystone: Between
) -> None:
    options = SwiftOptions(read_seconds=2)
    async with (
        opened_account(environment, options) as account,
        container(account) as store,
    ):
        await put(store, "x")
        keystone.harm(faults.late(60), times=1000)
        account._session.invalidate()  # as if it were about to expire

        async def seconds() -> float:
            started = time.monotonic()
            assert await store.head("x") is not None
            return time.monotonic() - started

        took = sorted(await asyncio.gather(*(seconds() for _ in range(50))))

        assert took[-2] < 1.5  # one of them asks Keystone


# -- containers ------------------------------------------------------------------------


async def test_a_container_that_hangs_does_not_hold_up_another(
    environment: Mapping[str, str], swift: Between
) -> None:
    async with (
        opened_account(environment, HASTY) as account,
        container(account) as one,
        container(account) as other,
    ):
        swift.harm(faults.late(60), times=1000, method="HEAD", ends="/hangs")
        hanging = [asyncio.create_task(one.head("hangs")) for _ in range(40)]
        await asyncio.sleep(0.1)
        started = time.monotonic()

        await put(other, "x", b"body")

        assert time.monotonic() - started < 1
        outcomes = await asyncio.gather(*hanging, return_exceptions=True)
        assert all(isinstance(outcome, StoreError) for outcome in outcomes)
