"""The description of the interface, and what a program makes of it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import jpeg
from servers import Client

from image_repo import listings, modifiers, urls
from image_repo.modifiers import ImageOptions
from image_repo.web.errors import STATUSES
from image_repo.words import Word

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

WORDS = [
    *[("/images/x", word) for word in (*modifiers.words_known(), *urls.DIRECTIVES)],
    *[("/images", word) for word in listings.LISTING],
]


@pytest.mark.timeout(180)
async def test_a_program_that_tries_all_it_describes_finds_no_fault(
    client: Client,
) -> None:
    for name in ("x", "0", "plots/site-7"):
        put = await client.put(f"/images/{name}", data=jpeg(60, 40))
        assert put.status == 201
    process = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("schemathesis"),
        *("run", str(client.make_url("/openapi.json")), "--checks", ",".join(CHECKS)),
        *("--max-examples", "12", "--seed", "7", "--no-color"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()

    assert process.returncode == 0, said.decode()
    assert b"generated" in said


async def test_every_word_and_every_status_is_described(client: Client) -> None:
    answer = await client.get("/openapi.json")
    document = await answer.json()

    assert document["openapi"] == "3.1.0"
    for path, described in (("/images/x", "/images/{name}"), ("/images", "/images")):
        get = document["paths"][described]["get"]
        told = {parameter["name"] for parameter in get["parameters"]}
        assert told == {
            spelling for at, word in WORDS if at == path for spelling in word.spellings
        }
        assert {str(row.derive) for row in STATUSES.values()} <= get["responses"].keys()
    put = document["paths"]["/images/{name}"]["put"]
    assert {str(row.upload) for row in STATUSES.values()} <= put["responses"].keys()


async def test_what_it_says_of_an_image_is_what_an_upload_answers(
    client: Client,
) -> None:
    schemas = (await (await client.get("/openapi.json")).json())["components"][
        "schemas"
    ]
    said = await (await client.put("/images/x", data=jpeg(60, 40))).json()

    assert schemas["Image"]["required"] == list(said)
    link = await (await client.get("/images/x?url=True")).json()
    assert schemas["Link"]["required"] == list(link)


@pytest.mark.parametrize(("path", "word"), WORDS, ids=[word.name for _, word in WORDS])
@given(data=st.data())
def test_what_a_pattern_matches_is_allowed(
    path: str, word: Word, data: st.DataObject
) -> None:
    if not word.pattern:
        return
    text = data.draw(st.from_regex(word.pattern, fullmatch=True))
    for spelling in word.spellings:
        urls.read(f"{path}?{spelling}={text}", "GET", ImageOptions())
