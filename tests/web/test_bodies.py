"""Requests and bodies that are not as they should be, byte for byte."""

from __future__ import annotations

import gzip
import json
import logging
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest
from nginx.harness import Answer, ask, ask_bytes
from pictures import jpeg
from servers import Client

from image_repo.errors import StoreError
from image_repo.names import ImageName
from image_repo.originals import Named, Originals

FILE = 'Content-Disposition: form-data; name="file"; filename="a.jpg"'
BLANK = "Content-Type: multipart/form-data; boundary=b"


async def send(client: Client, *lines: str, body: bytes = b"") -> Answer:
    """Send a PUT with header *lines* and *body*, as they are."""
    head = ["PUT /images/x HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]
    assert client.port
    return await ask_bytes(client.port, "\r\n".join(head).encode() + body)


async def send_part(client: Client, *lines: str, body: bytes = b"x") -> Answer:
    head = "\r\n".join(["--b", *lines, "", ""]).encode()
    whole = head + body + b"\r\n--b--\r\n"
    return await send(client, BLANK, f"Content-Length: {len(whole)}", body=whole)


def refused(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert json.loads(answer.body)["status"] == status


async def drain(content: aiohttp.StreamReader, got: list[bytes]) -> None:
    async for piece in content.iter_any():
        got.append(piece)  # noqa: PERF401 - what came before it breaks off is wanted


async def names(client: Client) -> list[str]:
    found: list[str] = await (await client.get("/images")).json()
    return found


@pytest.mark.parametrize("line", [": y", "foo", "X: " + "y" * 20_000, "\x01: y"])
async def test_a_malformed_header_of_a_part_is_a_400(client: Client, line: str) -> None:
    refused(await send_part(client, FILE, line), 400)


async def test_more_headers_than_a_part_may_have_are_a_400(client: Client) -> None:
    refused(await send_part(client, FILE, *["X: y"] * 3000), 400)


async def test_an_overlong_default_charset_of_a_form_is_a_400(client: Client) -> None:
    charset = 'Content-Disposition: form-data; name="_charset_"'

    refused(await send_part(client, charset, body=b"x" * 99), 400)


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "x", "identity, gzip"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "junk"])
async def test_a_body_that_had_to_be_decoded_is_a_415(
    client: Client, coding: str, packed: bool
) -> None:
    body = gzip.compress(jpeg()) if packed else b"\xff\xfe junk"
    length = f"Content-Length: {len(body)}"

    answer = await send(client, length, f"Content-Encoding: {coding}", body=body)

    refused(answer, 415)
    assert await names(client) == []


@pytest.mark.parametrize(
    "line",
    [
        "Content-Transfer-Encoding: base64",
        "Content-Transfer-Encoding: quoted-printable",
        "Content-Encoding: gzip",
    ],
)
async def test_a_part_that_had_to_be_decoded_is_a_415(
    client: Client, line: str
) -> None:
    refused(await send_part(client, FILE, line, body=jpeg()), 415)
    assert await names(client) == []


async def test_codings_that_change_nothing_are_taken(client: Client) -> None:
    body = jpeg()
    length = f"Content-Length: {len(body)}"

    raw = await send(client, length, "Content-Encoding: identity", body=body)
    parts = [
        await send_part(client, FILE, f"Content-Transfer-Encoding: {coding}", body=body)
        for coding in ("binary", "7bit", "8BIT", "identity")
    ]

    assert [answer.status for answer in (raw, *parts)] == [201] + [200] * 4


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        ([], b"", 411),
        (["Content-Length: 0"], b"", 415),
        (["Transfer-Encoding: chunked"], b"0\r\n\r\n", 415),
    ],
)
async def test_an_empty_body_has_no_image_and_none_has_no_length(
    client: Client, lines: list[str], body: bytes, status: int
) -> None:
    refused(await send(client, *lines, body=body), status)


@pytest.mark.parametrize("length", [8200, 16_000, 60_000])
@pytest.mark.parametrize(
    "beginning", ["/images/", "/images/x?w="], ids=["name", "query"]
)
async def test_a_target_longer_than_any_that_means_something_is_a_414(
    client: Client, beginning: str, length: int
) -> None:
    assert client.port

    refused(await ask(client.port, beginning + "9" * length), 414)


async def test_a_header_that_nginx_lets_pass_is_read(client: Client) -> None:
    assert client.port

    answer = await ask(client.port, "/images", headers={"X-Y": "y" * 16_000})

    assert answer.status == 200


async def test_a_list_whose_store_fails_is_cut_off_and_nothing_follows(
    client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def two(_: Originals, _prefix: str, _after: str) -> AsyncIterator[Named]:
        yield Named(ImageName("a"), "a")
        yield Named(ImageName("b"), "b.jpg")
        raise StoreError("the disk is gone")

    monkeypatch.setattr(Originals, "named", two)

    async with client.get("/images") as answer:
        got: list[bytes] = []
        with pytest.raises(aiohttp.ClientPayloadError):
            await drain(answer.content, got)

    assert answer.status == 200
    assert b"HTTP/" not in b"".join(got)
    assert "the disk is gone" in caplog.text
    assert "cut off" in caplog.text
    assert (await client.get("/healthz")).status == 200


async def test_only_failures_are_warned_of(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    await client.put("/images/x", data=jpeg())

    with caplog.at_level(logging.WARNING, "image_repo"):
        assert (await client.get("/images?regex=(")).status == 400

    assert not re.search("regex", caplog.text)
    assert [r for r in caplog.records if r.name == "image_repo.web.errors"] == []
