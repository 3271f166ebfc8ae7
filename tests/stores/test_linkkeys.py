"""Keys of links in a file that several servers share."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from blockbuster import blockbuster_ctx

from image_repo.errors import ConfigError, StoreError, UnauthorisedError
from image_repo.stores.linkkeys import LinkKeys

KEY = "a configured key"
OBJECT = "plots/site-7/_/0123456789abcdef/w_400.webp"


@pytest.fixture(autouse=True)
def event_loop_that_must_not_block() -> Iterator[None]:
    with blockbuster_ctx("image_repo"):
        yield


async def link(keys: LinkKeys) -> str:
    return await keys.link(OBJECT, 1000, "site-7.webp")


async def check(keys: LinkKeys, url: str, key: str = OBJECT) -> int:
    words = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    return await keys.verify("GET", key, words, 0)


async def test_a_link_begins_with_the_public_url_or_a_path(tmp_path: Path) -> None:
    there = await link(LinkKeys(tmp_path, "https://img.example.org"))
    here = await link(LinkKeys(tmp_path))

    assert here.startswith(f"/links/{OBJECT}?temp_url_sig=")
    assert there == f"https://img.example.org{here}"


async def test_a_link_is_valid_for_its_object_alone(tmp_path: Path) -> None:
    keys = LinkKeys(tmp_path)
    url = await link(keys)

    assert await check(keys, url) == 1000
    with pytest.raises(UnauthorisedError):
        await check(keys, url, OBJECT.replace("400", "800"))


async def test_servers_that_start_together_have_the_same_key(tmp_path: Path) -> None:
    servers = [LinkKeys(tmp_path / "new") for _ in range(8)]

    urls = await asyncio.gather(*map(link, servers))

    assert len(set(urls)) == 1


async def test_a_restarted_server_still_takes_its_links(tmp_path: Path) -> None:
    url = await link(LinkKeys(tmp_path))

    assert await check(LinkKeys(tmp_path), url)


async def test_only_its_owner_may_read_the_file(tmp_path: Path) -> None:
    keys = LinkKeys(tmp_path)
    await link(keys)
    await keys.rotate()

    modes = {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()}
    assert modes == {0o600}


async def test_a_new_key_signs_at_once_everywhere_and_old_links_stay_valid(
    tmp_path: Path,
) -> None:
    keys, other = LinkKeys(tmp_path), LinkKeys(tmp_path)
    old = await link(keys)
    assert await link(other) == old

    await other.rotate()

    new = await link(keys)
    assert new == await link(other) != old
    for url in (old, new):
        assert await check(keys, url)
        assert await check(other, url)


async def test_links_end_when_the_key_changes_twice(tmp_path: Path) -> None:
    keys = LinkKeys(tmp_path)
    url = await link(keys)

    await keys.rotate()
    await keys.rotate()

    with pytest.raises(UnauthorisedError):
        await check(keys, url)


async def test_servers_that_change_the_key_together_end_with_one(
    tmp_path: Path,
) -> None:
    servers = [LinkKeys(tmp_path) for _ in range(8)]

    await asyncio.gather(*(server.rotate() for server in servers))

    assert len(set(await asyncio.gather(*map(link, servers)))) == 1


async def test_a_configured_key_signs_and_no_file_is_made(tmp_path: Path) -> None:
    url = await link(LinkKeys(tmp_path, key=KEY))

    assert await check(LinkKeys(tmp_path / "elsewhere", key=KEY), url)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UnauthorisedError):
        await check(LinkKeys(tmp_path), url)


async def test_a_configured_key_is_changed_in_the_configuration(
    tmp_path: Path,
) -> None:
    with pytest.raises(ConfigError, match="configuration"):
        await LinkKeys(tmp_path, key=KEY).rotate()


def test_a_short_configured_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="16 bytes") as caught:
        LinkKeys(tmp_path, key="123456789")
    assert "123456789" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"keys": []}', '{"keys": ["123456789"]}', '{"keys": [1]}', "é"],
)
async def test_a_damaged_file_is_an_error_that_shows_neither_key_nor_path(
    tmp_path: Path, content: str
) -> None:
    (tmp_path / "link_keys").write_text(content, encoding="latin-1")

    for call in (link, LinkKeys.rotate):
        with pytest.raises(StoreError, match="link_keys is damaged") as caught:
            await call(LinkKeys(tmp_path))
        assert "123456789" not in str(caught.value)
        assert str(tmp_path) not in str(caught.value)


async def test_a_directory_that_cannot_be_written_is_an_error_of_the_store(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreError, match="link_keys"):
        await link(LinkKeys(tmp_path / "file"))


def test_keys_are_not_shown(tmp_path: Path) -> None:
    assert KEY not in repr(LinkKeys(tmp_path, key=KEY))
