"""Temporary URLs of a real Swift, followed by somebody without a token."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from secrets import token_hex
from urllib.parse import quote

import aiohttp
import pytest
import pytest_asyncio
from cloud.cluster import Cloud
from stores.test_swift import opened_account
from yarl import URL

from image_repo import links
from image_repo.errors import ConfigError, StoreError
from image_repo.stores import tempurl
from image_repo.stores.account import Account
from image_repo.stores.swift import SwiftStore
from image_repo.stores.tempurl import FORMER_KEY, KEY, SETTLING, SwiftSigner
from image_repo.stores.wire import Endpoint, Wire

OBJECT = 'plots/säge "7" ?#%25&\'+@/_/0123456789abcdef/w_400.webp'
OTHER = OBJECT.replace("400", "800")
BODY = b"an image"
OLD = "the key of another tool"


@pytest_asyncio.fixture(scope="module")
async def account(cloud: Cloud) -> AsyncIterator[Account]:
    async with opened_account(cloud.environment) as made:
        yield made


class Container:
    """A new container with two objects and a key, as the world sees it."""

    def __init__(self, account: Account, http: aiohttp.ClientSession) -> None:
        self.account = account
        self.http = http
        self.name = f"links {token_hex(8)}"

    def signer(self, key: str = "") -> SwiftSigner:
        return SwiftSigner(self.account, self.name, key)

    async def set(self, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}

        def work(wire: Wire, to: Endpoint) -> None:
            wire.post_container(to, self.name, named)

        await self.account.ask("test", work, changes=True)

    async def keys(self) -> tuple[str, str]:
        found = await self.headers()
        return found.get(KEY.lower(), ""), found.get(FORMER_KEY.lower(), "")

    async def headers(self) -> Mapping[str, str]:
        return await self.account.ask(
            "test", lambda wire, to: wire.head_container(to, self.name)
        )

    async def follow(self, url: str, method: str = "GET") -> aiohttp.ClientResponse:
        answer = await self.http.request(method, URL(url, encoded=True))
        await answer.read()  # lets the connection be used again
        return answer


@pytest_asyncio.fixture
async def container(account: Account) -> AsyncIterator[Container]:
    async with aiohttp.ClientSession() as http:
        made = Container(account, http)
        async with SwiftStore(account, made.name) as store:
            for key in (OBJECT, OTHER):
                await store.put(key, io.BytesIO(BODY), media_type="image/webp")
            await made.set(**{KEY: OLD})
            yield made


async def link(signer: SwiftSigner, seconds: int = 100, key: str = OBJECT) -> str:
    return await signer.link(key, int(time.time()) + seconds, 'säge "7".webp')


async def test_a_link_shows_the_object_to_somebody_without_a_token(
    container: Container,
) -> None:
    url = await link(container.signer())

    answer = await container.follow(url)

    assert (answer.status, await answer.read()) == (200, BODY)
    assert answer.content_type == "image/webp"
    said = answer.headers["Content-Disposition"]
    name = quote('säge "7".webp')
    assert (
        said
        == f"inline; filename=\"{name.replace('%20', ' ')}\"; filename*=UTF-8''{name}"
    )
    assert (await container.follow(url, "HEAD")).status == 200


async def test_a_link_is_for_one_object_and_method_until_it_ends(
    container: Container,
) -> None:
    signer = container.signer()
    url, other = await link(signer), await link(signer, key=OTHER)
    query = url.partition("?")[2]
    wrong = [
        await link(signer, -1),
        url.replace("temp_url_expires=1", "temp_url_expires=2"),
        url.replace("temp_url_sig=", "temp_url_sig=0"),
        f"{other.partition('?')[0]}?{query}",
        url.partition("?")[0],
    ]

    statuses = [(await container.follow(each)).status for each in wrong]
    statuses += [(await container.follow(url, m)).status for m in ("PUT", "DELETE")]

    assert set(statuses) == {401}
    assert (await container.follow(url)).status == 200


async def test_this_server_says_of_a_link_what_swift_says(container: Container) -> None:
    signed = (await link(container.signer())).partition("&inline")[0]
    called = OBJECT.rpartition("/")[2]

    for more in ({}, {"inline": ""}, {"filename": "ü \"'.jpg"}):
        query = "".join(f"&{word}={quote(text)}" for word, text in more.items())
        answer = await container.follow(signed + query)
        assert answer.headers["Content-Disposition"] == links.disposition(more, called)


async def test_signers_that_start_together_agree_on_one_key(
    container: Container,
) -> None:
    await container.set(**{KEY: ""})

    async def start(number: int) -> str:
        await asyncio.sleep(0.1 * number)
        return await link(container.signer())

    urls = await asyncio.gather(*map(start, range(8)))

    statuses = [(await container.follow(url)).status for url in urls]
    assert statuses == [200] * 8
    key, former = await container.keys()
    assert (len(key), former) == (43, "")
    assert SETTLING.lower() not in await container.headers()


async def test_a_key_that_nobody_saw_settle_is_waited_for(container: Container) -> None:
    await container.set(**{KEY: OLD, SETTLING: "yes"})
    asked = asyncio.create_task(link(container.signer()))
    await asyncio.sleep(tempurl.SETTLE_SECONDS / 2)

    await container.set(**{KEY: OLD * 2, SETTLING: "yes"})

    assert (await container.follow(await asked)).status == 200
    assert (await container.keys())[0] == OLD * 2


async def test_the_containers_own_key_is_used_at_once(container: Container) -> None:
    key = "100%41 é/ü=+ "[:-1] + "x" * 8
    await container.set(**{KEY: key})
    began = time.monotonic()

    url = await link(container.signer())

    assert time.monotonic() - began < tempurl.SETTLE_SECONDS
    assert (await container.follow(url)).status == 200


async def test_links_are_signed_without_asking_swift_each_time(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = container.signer()
    await link(signer)
    monkeypatch.setattr(signer, "_account", None)

    urls = [await link(signer, 100 + more) for more in range(5)]

    assert {(await container.follow(url)).status for url in urls} == {200}


async def test_a_new_key_is_followed_after_a_while_and_old_links_stay_valid(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer, other = container.signer(), container.signer()
    old = await link(signer)
    await link(other)
    await other.rotate()

    urls = [old, await link(signer), await link(other)]
    later = time.monotonic() + tempurl.KEY_SECONDS
    monkeypatch.setattr(signer._key._known, "_clock", lambda: later)
    urls.append(await link(signer))
    assert [(await container.follow(url)).status for url in urls] == [200] * 4
    key, former = await container.keys()
    assert key != OLD == former
    assert urls[3].partition("&")[0] == urls[2].partition("&")[0]


async def test_a_second_rotation_waits_until_nobody_signs_with_the_key_it_takes_away(
    container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = container.signer()
    await signer.rotate()
    url = await link(signer)
    keys = await container.keys()

    with pytest.raises(StoreError, match=r"try again in \d\d s$"):
        await container.signer().rotate()

    assert await container.keys() == keys
    assert (await container.follow(url)).status == 200
    monkeypatch.setattr(tempurl, "KEY_SECONDS", -tempurl.SETTLE_SECONDS)
    await container.signer().rotate()
    assert await container.keys() != keys


async def test_rotating_together_leaves_one_key_that_all_use(
    container: Container,
) -> None:
    signers = [container.signer() for _ in range(4)]

    done = await asyncio.gather(
        *(signer.rotate() for signer in signers), return_exceptions=True
    )

    assert None in done
    assert all(one is None or isinstance(one, StoreError) for one in done)
    urls = await asyncio.gather(*map(link, signers))
    assert {(await container.follow(url)).status for url in urls} == {200}
    key, former = await container.keys()
    assert key != OLD == former


async def test_a_configured_key_is_given_to_the_container(container: Container) -> None:
    signer = container.signer("a key: 100%41 éü=")

    url = await link(signer)

    assert (await container.follow(url)).status == 200
    assert (await container.headers())[FORMER_KEY.lower()] == OLD
    with pytest.raises(ConfigError, match="configuration"):
        await signer.rotate()


async def test_a_configured_key_that_is_the_second_one_is_left_there(
    container: Container,
) -> None:
    await container.set(**{KEY: OLD, FORMER_KEY: "a configured key"})

    url = await link(container.signer("a configured key"))

    assert (await container.follow(url)).status == 200
    assert await container.keys() == (OLD, "a configured key")


async def test_a_key_that_can_be_guessed_is_never_used(container: Container) -> None:
    await container.set(**{KEY: "123456789"})

    with pytest.raises(StoreError, match="url-key --rotate") as caught:
        await link(container.signer())
    assert "123456789" not in str(caught.value)
    await container.signer().rotate()

    assert (await container.follow(await link(container.signer()))).status == 200
    assert "123456789" not in await container.keys()


def test_a_configured_key_that_can_be_guessed_is_refused(account: Account) -> None:
    with pytest.raises(ConfigError, match="16 bytes"):
        SwiftSigner(account, "x", "123456789")


def test_keys_are_not_shown(account: Account) -> None:
    assert OLD not in repr(SwiftSigner(account, "x", OLD))
    assert OLD not in repr(tempurl._Keys(OLD, OLD, settling=False, changed=0))


async def test_who_may_not_change_the_container_is_told_so(
    cloud: Cloud, container: Container
) -> None:
    async with opened_account(cloud.limited) as reader:
        with pytest.raises(StoreError, match="403"):
            await link(SwiftSigner(reader, container.name))


@pytest.mark.parametrize(
    ("allowed", "chosen"),
    [
        (["sha1", "sha256", "sha512"], "sha256"),
        (["sha512", "sha1"], "sha512"),
    ],
)
async def test_the_best_digest_that_the_cluster_allows_is_used(
    container: Container, allowed: list[str], chosen: links.Digest
) -> None:
    digest = tempurl._digest({"tempurl": {"allowed_digests": allowed}})
    signer = container.signer()
    cluster = await signer._look()
    signer._cluster._known.put(None, replace(cluster, digest=digest))

    url = await link(signer)

    assert digest == chosen
    assert ("sha512%3A" in url) == (chosen == "sha512")
    assert (await container.follow(url)).status == 200


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ({}, "no temporary URLs"),
        ({"tempurl": {"allowed_digests": ["sha1", "md5"]}}, "sha256, sha512"),
        ({"tempurl": {"allowed_digests": "sha256"}}, "sha256, sha512"),
        ({"tempurl": {}}, "sha256, sha512"),
    ],
)
def test_a_cluster_that_signs_weakly_or_not_at_all_is_refused(
    info: Mapping[str, Mapping[str, object]], says: str
) -> None:
    with pytest.raises(StoreError, match=says):
        tempurl._digest(info)


async def test_a_link_begins_with_the_public_url_whichever_is_used(
    cloud: Cloud, container: Container
) -> None:
    environment = {**cloud.environment, "OS_INTERFACE": "internal"}
    async with opened_account(environment) as account:
        assert await account.public_url() == cloud.storage_url
    elsewhere = "https://swift.example.org/v1/AUTH_x"
    environment["OS_STORAGE_URL"] = f"{elsewhere}/"
    async with opened_account(environment) as account:
        assert await account.public_url() == elsewhere
    url = await link(container.signer())
    assert url.startswith(f"{cloud.storage_url}/{quote(container.name)}/plots/")
