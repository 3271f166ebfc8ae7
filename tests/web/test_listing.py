"""Lists of images, in each form, whole and in pages."""

from __future__ import annotations

import asyncio
import io
import json
import re
import socket
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from pictures import jpeg
from servers import Client, Start
from transfer.fakes import Endless
from yarl import URL

from image_repo.config import Config
from image_repo.originals import Originals
from image_repo.stores import layout
from image_repo.stores.disk import DirectoryStore
from image_repo.web.accept import preferred
from image_repo.web.handlers import ROOM
from image_repo.web.listing import PAGE_NAMES
from image_repo.web.streams import LOOKS

LINES = {"Accept": "application/x-ndjson"}
PAGE = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
NAMES = ["a", "a/b", "b", "plots/site-1", "plots/site-2", "\u00fc@2x +&<b>?#%"]


async def fill(config: Config, keys: Iterable[str]) -> None:
    async with DirectoryStore(Path(config.data) / "originals") as store:
        for key in keys:
            await store.put(key, io.BytesIO(key.encode()), media_type="image/png")


@pytest.fixture
async def some(start: Start, config: Config) -> Client:
    """A server with `NAMES`, one of them adopted."""
    await fill(config, [*NAMES[:-1], f"{NAMES[-1]}.jpg", "a/_/tag/full.jpg"])
    return await start(config)


async def listed(client: Client, url: str = "/images") -> list[str]:
    async with client.get(URL(url, encoded=True)) as answer:
        assert answer.status == 200, await answer.text()
        found: list[str] = await answer.json()
        return found


async def pages(client: Client, url: str, **headers: str) -> list[str]:
    """Return the body of each page, as the Links lead from one to the next."""
    bodies = []
    while url:
        async with client.get(URL(url, encoded=True), headers=headers) as answer:
            assert answer.status == 200
            bodies.append(await answer.text())
            link = answer.headers.get("Link", "")
        found = re.fullmatch(r'<(/images\?[!-;=?-~]+)>; rel="next"', link)
        assert found or not link
        url = found[1] if found else ""
    return bodies


class Links(HTMLParser):
    """Every link of a page, with its text, and whether all elements end properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[tuple[str, str]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.open.append(tag)
        for name, value in attrs:
            assert name in {"href", "rel", "lang", "charset"}
            if name == "href":
                self.links.append((value or "", ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "a":
            self.links[-1] = (self.links[-1][0], self.links[-1][1] + data)


# What is listed


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", NAMES),
        ("?prefix=plots/", NAMES[3:5]),
        ("?prefix=", NAMES),
        ("?prefix=plots/site-2", NAMES[4:5]),
        ("?prefix=nothing", []),
        ("?prefix=u%CC%88%40", NAMES[5:]),
        ("?marker=b", NAMES[3:]),
        ("?marker=a/bb&prefix=a", []),
        ("?limit=2", NAMES[:2]),
        ("?limit=2&marker=a", NAMES[1:3]),
        ("?limit=10000", NAMES),
        ("?regex=site-%5B2-9%5D", NAMES[4:5]),
        ("?regex=%5Ea", NAMES[:2]),
        ("?regex=%5Ea&prefix=a/", NAMES[1:2]),
        ("?regex=%5Ea/b&prefix=a", NAMES[1:2]),
        ("?regex=%5Ea&prefix=b", []),
        ("?regex=b&limit=1&marker=a/b", NAMES[2:3]),
        ("?regex=2x&prefix=%C3%BC", NAMES[5:]),
    ],
)
async def test_a_list_is_cut_by_prefix_regex_marker_and_limit(
    some: Client, query: str, expected: list[str]
) -> None:
    for path in ("/images", "/images/"):
        assert await listed(some, path + query) == expected


async def test_the_list_has_every_name_once_and_nothing_else(client: Client) -> None:
    for name in ("b", "a/b", "a", "\u00fc@2x +"):
        assert (await client.put(f"/images/{name}", data=jpeg(8, 8))).status == 201
    await client.get("/images/a/_/w_4.jpg")

    async with client.get("/images") as answer:
        assert answer.content_type == "application/json"
        assert await answer.json() == ["a", "a/b", "b", "\u00fc@2x +"]


@pytest.mark.parametrize("headers", [{}, LINES, PAGE])
async def test_an_empty_list_is_a_list(client: Client, headers: dict[str, str]) -> None:
    async with client.get("/images", headers=headers) as answer:
        text = await answer.text()

    assert answer.status == 200
    if headers is PAGE:
        assert Links(text).links == []
    else:
        assert text == ("" if headers else "[]\n")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "1 to 10000"),
        ("limit=10001", "1 to 10000"),
        ("limit=", "1 to 10000"),
        ("prefix=a//b", "beginning of a name"),
        ("prefix=/a", "beginning of a name"),
        ("prefix=%07", "beginning of a name"),
        ("marker=%00", "controls"),
        ("marker=" + "n" * 1025, "1024 bytes"),
        ("regex=(", "regex"),
        ("prefx=a", "did you mean 'prefix'"),
        ("w=4", "must be one of prefix, regex, limit, marker"),
    ],
)
async def test_a_list_that_makes_no_sense_is_a_400_that_says_why(
    some: Client, query: str, says: str
) -> None:
    async with some.get(URL(f"/images?{query}", encoded=True)) as answer:
        assert answer.status == 400
        assert says in (await answer.json())["detail"]


# Pages


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
async def test_the_links_lead_to_every_name_once(some: Client, limit: int) -> None:
    found = [json.loads(body) for body in await pages(some, f"/images?limit={limit}")]

    assert [name for page in found for name in page] == NAMES
    assert all(len(page) == limit for page in found[:-1])
    assert len(found[-1]) > 0


async def test_a_link_keeps_prefix_and_regex(some: Client) -> None:
    bodies = await pages(some, "/images?limit=1&prefix=%C3%BC%40&regex=%5C%2B%26")
    assert [json.loads(body) for body in bodies] == [NAMES[5:]]

    bodies = await pages(some, "/images?limit=1&prefix=plots/&regex=s.te-%5Cd%2B%24")
    assert [json.loads(body) for body in bodies] == [["plots/site-1"], ["plots/site-2"]]


async def test_lines_come_in_pages_too(some: Client) -> None:
    bodies = await pages(some, "/images?limit=4", **LINES)

    lines = [json.loads(line) for body in bodies for line in body.splitlines()]
    assert [line["name"] for line in lines] == NAMES
    assert [len(body.splitlines()) for body in bodies] == [4, 2]


async def test_a_list_without_a_limit_has_no_link(some: Client) -> None:
    async with some.get("/images") as answer:
        assert "Link" not in answer.headers


# Forms


async def test_lines_say_size_date_and_url(some: Client) -> None:
    async with some.get("/images", headers=LINES) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        assert answer.headers["Vary"] == "Accept"
        assert answer.headers["Cache-Control"] == "no-store"
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]

    assert [line["name"] for line in lines] == NAMES
    for line in lines:
        assert set(line) == {"name", "bytes", "modified", "url"}
        assert line["bytes"] in {len(line["name"].encode()) + n for n in (0, 4)}
        age = datetime.now(UTC) - datetime.fromisoformat(line["modified"])
        assert timedelta(0) <= age < timedelta(minutes=5)
        assert unquote(line["url"]) == f"/images/{line['name']}"


async def test_lines_have_the_url_of_clients_where_it_is_known(
    start: Start, config: Config
) -> None:
    await fill(config, ["x", "y.gif.png"])
    public = replace(config.http, public_url="https://img.example.org")
    client = await start(replace(config, http=public))

    async with client.get("/images", headers=LINES) as answer:
        lines = [json.loads(line) for line in (await answer.text()).splitlines()]

    assert [line["url"] for line in lines] == [
        "https://img.example.org/images/x",
        # Without more its extension would be taken for a kind.
        "https://img.example.org/images/y.gif/_/full.jpg",
    ]


async def test_a_browser_gets_a_page_of_links_and_nothing_that_runs(
    some: Client,
) -> None:
    async with some.get("/images", headers=PAGE) as answer:
        text = await answer.text()

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "<b>" not in text
    links = Links(text).links
    assert [text for _, text in links] == NAMES
    assert [unquote(href) for href, _ in links] == [f"/images/{name}" for name in NAMES]


async def test_a_page_shows_what_was_asked_for_as_text(some: Client) -> None:
    url = URL("/images?prefix=%3Cb%3E&regex=%3Cscript%3E%22%27", encoded=True)
    async with some.get(url, headers=PAGE) as answer:
        text = await answer.text()

    assert Links(text).links == []
    assert "<script" not in text
    assert "<script>\"'" in unescape(text)


async def test_the_pages_of_a_browser_lead_to_one_another(
    start: Start, config: Config
) -> None:
    names = [f"n&{n:04}" for n in range(PAGE_NAMES + 1)]
    await fill(config, names)
    client = await start(config)

    found, url = [], "/images?prefix=n%26"
    while url:
        async with client.get(URL(url, encoded=True), headers=PAGE) as answer:
            links = Links(await answer.text()).links
        more = [href for href, text in links if text == "More"]
        found.append([text for _, text in links if text != "More"])
        url = more[0] if more else ""

    assert found == [names[:PAGE_NAMES], names[PAGE_NAMES:]]


@pytest.mark.parametrize("headers", [{}, LINES, PAGE])
@pytest.mark.parametrize("query", ["", "?limit=2"])
async def test_head_is_get_without_a_body(
    some: Client, headers: dict[str, str], query: str
) -> None:
    async with (
        some.get("/images" + query, headers=headers) as get,
        some.head("/images" + query, headers=headers) as head,
    ):
        assert await head.read() == b""

    for name in ("Content-Type", "Link", "Vary", "Cache-Control"):
        assert head.headers.get(name) == get.headers.get(name)


ARRAY_TYPE, LINES_TYPE, PAGE_TYPE = OFFERS = (
    "application/json", "application/x-ndjson", "text/html"
)  # fmt: skip


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", ARRAY_TYPE),
        ("*/*", ARRAY_TYPE),
        ("application/*", ARRAY_TYPE),
        ("application/x-ndjson", LINES_TYPE),
        ("Application/X-NDJSON; charset=utf-8", LINES_TYPE),
        ("text/*", PAGE_TYPE),
        (PAGE["Accept"], PAGE_TYPE),
        ("text/html, application/json", ARRAY_TYPE),
        ("text/html;q=0.9, application/json;q=0.8", PAGE_TYPE),
        ("text/html;q=0.2, application/json;q=0.2", ARRAY_TYPE),
        ("application/json;q=0, */*", LINES_TYPE),
        (
            "application/*;q=0.1, application/x-ndjson;q=0.0, text/html;q=0.1",
            ARRAY_TYPE,
        ),
        ("text/html; level=1; q=0.3, */*;q=0.2", PAGE_TYPE),
        ("image/png", ARRAY_TYPE),
        ("application/json;q=0", ARRAY_TYPE),
        ("text/html;q=nan, application/x-ndjson;q=1e9", ARRAY_TYPE),
        ("text/html;q=, ;;, =, /", ARRAY_TYPE),
        ("text/html;Q=0.7,application/x-ndjson; q = 0.8", LINES_TYPE),
    ],
)
def test_the_form_is_the_one_that_the_client_likes_best(
    accept: str, expected: str
) -> None:
    assert preferred(accept, OFFERS) == expected


# Failures


async def test_a_store_that_fails_at_once_is_a_502(
    some: Client, config: Config
) -> None:
    originals = Path(config.data) / "originals" / "objects"
    originals.rename(originals.with_name("elsewhere"))
    originals.touch()

    for headers in ({}, LINES, PAGE):
        async with some.get("/images", headers=headers) as answer:
            assert answer.status == 502
            assert answer.content_type == "application/problem+json"


async def test_a_store_that_fails_later_cuts_the_list(
    start: Start, config: Config
) -> None:
    await fill(config, [f"a/{n:04}" for n in range(1001)])
    last = Path(config.data) / "originals" / "objects" / "b.d"
    last.touch()
    assert layout.place("b/x").startswith("b.d/")
    client = await start(config)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET /images HTTP/1.1\r\nHost: x\r\n\r\n")

    said = await reader.read()

    assert said.startswith(b"HTTP/1.1 200 OK")
    assert b'"a/0000"' in said
    assert not said.endswith(b"0\r\n\r\n")
    writer.close()


async def test_a_search_without_end_begins_at_once_and_ends_with_its_client(
    client: Client,
) -> None:
    endless = Endless()
    client.app[ROOM].service._originals = Originals(endless)
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(b"GET /images?regex=nothing HTTP/1.1\r\nHost: x\r\n\r\n")

    async with asyncio.timeout(2):
        await reader.readuntil(b"\r\n\r\n1\r\n[\r\n")
    await asyncio.sleep(0.2)
    seen = endless.listed[0]
    writer.close()
    await asyncio.sleep(LOOKS + 0.5)
    last = endless.listed[0]
    await asyncio.sleep(0.2)

    assert 0 < seen <= last == endless.listed[0]


async def test_a_client_that_does_not_read_holds_the_list_up(client: Client) -> None:
    endless = Endless()
    client.app[ROOM].service._originals = Originals(endless)
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    await loop.sock_connect(connection, (client.host, client.port))
    request = b"GET /images?regex=k HTTP/1.1\r\nHost: x\r\n\r\n"
    await loop.sock_sendall(connection, request)

    before = -1
    async with asyncio.timeout(30):
        while not endless.listed or endless.listed[0] != before:
            before = endless.listed[0] if endless.listed else -1
            await asyncio.sleep(0.3)
    connection.close()

    assert before > 0
