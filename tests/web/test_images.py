"""Asking for images, on a server that answers directly."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from pictures import BLUE, GREEN, RED, WHITE, colour, decode, encode, jpeg, quarters
from PIL import Image
from servers import Client, Start
from yarl import URL

from image_repo import names
from image_repo.config import Config
from image_repo.formats import FORMATS
from image_repo.stores.disk import DirectoryStore
from image_repo.transform.pool import Pool
from image_repo.web.answers import LEVEL_HEADER
from image_repo.web.handlers import ROOM

Colour = tuple[int, ...]

SERVED = [row.kind for row in FORMATS if row.served]


async def put(
    client: Client, name: str = "plots/site-7", body: bytes | None = None
) -> None:
    answer = await client.put(f"/images/{name}", data=body or jpeg(600, 400))
    assert answer.status in {200, 201}


def near(colour: Iterable[int], expected: Colour, tolerance: int = 12) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(colour, expected, strict=True))


async def test_an_image_comes_out_in_the_size_and_kind_of_its_canonical_url(
    client: Client,
) -> None:
    await put(client)

    answer = await client.get("/images/plots/site-7/_/w_300.png")

    assert (answer.status, answer.content_type) == (200, "image/png")
    picture = decode(await answer.read())
    assert picture.format == "PNG"
    assert picture.size == (300, 200)
    ats = ((9, 9), (290, 9), (9, 190), (290, 190))
    corners = [colour(picture, at) for at in ats]
    assert all(map(near, corners, (RED, GREEN, BLUE, WHITE)))


@pytest.mark.parametrize("kind", SERVED)
async def test_every_kind_comes_as_what_it_says(client: Client, kind: str) -> None:
    await put(client)

    answer = await client.get(f"/images/plots/site-7.{kind}?w=90")

    row = next(row for row in FORMATS if row.kind == kind)
    assert answer.content_type == row.media_type
    assert decode(await answer.read()).size == (90, 60)


@pytest.mark.parametrize(
    "alias",
    [
        "plots/site-7.webp?xsize=120&ysize=90",
        "plots/site-7?kind=webp&h=90&w=120",
        "plots/site-7/_/h_90-w_120.WEBP",
        "plots/%73ite-7/_/w_120-h_90.webp",
        "plots/site-7/_/w_0120-h_90.webp",
    ],
)
async def test_every_spelling_names_the_same_image(client: Client, alias: str) -> None:
    await put(client)
    canonical = await client.get("/images/plots/site-7/_/w_120-h_90.webp")

    answer = await client.get("/images/" + alias)

    assert answer.headers["ETag"] == canonical.headers["ETag"]
    assert answer.headers["Content-Location"] == (
        "/images/plots/site-7/_/w_120-h_90.webp"
    )
    assert "canonical" in answer.headers["Link"]
    assert await answer.read() == await canonical.read()


async def test_a_thumbnail_is_fitted_in_the_configured_box(client: Client) -> None:
    await put(client)

    answer = await client.get("/images/plots/site-7?thumbnail=True")

    assert answer.content_type == "image/jpeg"
    assert decode(await answer.read()).size == (50, 33)
    assert answer.headers["Content-Location"].endswith("/_/w_50-h_50-thumb_els.jpg")


async def test_quality_is_heeded_where_a_kind_has_one_and_dropped_elsewhere(
    client: Client,
) -> None:
    await put(client)

    low, high = [
        await (await client.get(f"/images/plots/site-7/_/w_300-q_{q}.jpg")).read()
        for q in (10, 95)
    ]
    png = await client.get("/images/plots/site-7.png?w=300&quality=10")

    assert len(low) < len(high)
    assert png.headers["Content-Location"] == "/images/plots/site-7/_/w_300.png"


async def test_head_is_get_without_a_body(client: Client) -> None:
    await put(client)
    get = await client.get("/images/plots/site-7/_/w_90.jpg")

    head = await client.head("/images/plots/site-7/_/w_90.jpg")

    assert head.headers["Content-Length"] == str(len(await get.read()))
    assert head.headers["ETag"] == get.headers["ETag"]
    assert await head.read() == b""


async def test_a_known_etag_is_answered_without_rendering(
    client: Client, pool: Pool
) -> None:
    await put(client)
    first = await client.get("/images/plots/site-7/_/w_91.jpg")
    derivations = pool.derivations

    again = await client.get(
        "/images/plots/site-7/_/w_91.jpg",
        headers={"If-None-Match": first.headers["ETag"]},
    )
    other = await client.get(
        "/images/plots/site-7/_/w_92.jpg", headers={"If-None-Match": '"x"'}
    )

    assert (again.status, await again.read()) == (304, b"")
    assert again.headers["Cache-Control"] == first.headers["Cache-Control"]
    assert other.status == 200
    assert pool.derivations == derivations + 1


async def test_answers_say_how_long_they_may_be_cached(
    start: Start, config: Config
) -> None:
    http = replace(config.http, max_age=7, s_maxage=11, stale_while_revalidate=3)
    client = await start(replace(config, http=http))
    await put(client)

    answer = await client.get("/images/plots/site-7/_/full.jpg")

    assert answer.headers["Cache-Control"] == (
        "public, max-age=7, s-maxage=11, stale-while-revalidate=3"
    )
    assert not answer.headers["ETag"].startswith("W/")


async def test_answers_say_where_they_came_from_and_what_each_step_took(
    client: Client,
) -> None:
    await put(client)

    answers = [await client.get("/images/plots/site-7/_/w_90.jpg") for _ in range(2)]

    assert [answer.headers[LEVEL_HEADER] for answer in answers] == ["derived", "memory"]
    made, kept = [answer.headers["Server-Timing"] for answer in answers]
    assert made.startswith('cache;desc="derived", revision;dur=')
    assert "fetch;dur=" in made
    assert kept.startswith('cache;desc="memory", revision;dur=')
    assert "fetch" not in kept


@pytest.mark.parametrize(
    ("said", "headers"),
    [(None, {"Cache-Tag", "Surrogate-Key"}), ("X-Key", {"X-Key"}), ("", set())],
)
async def test_every_answer_about_an_image_has_its_tag_for_caches_further_out(
    start: Start, config: Config, said: str | None, headers: set[str]
) -> None:
    if said is not None:
        config = replace(config, http=replace(config.http, cache_tag_headers=said))
    client = await start(config)
    await put(client)
    tag = names.cache_tag(names.image_name("plots/site-7"))

    for url in ("_/w_90.jpg", "_/w_90.png"):
        answer = await client.get(f"/images/plots/site-7/{url}")
        etag = {"If-None-Match": answer.headers["ETag"]}
        same = await client.get(f"/images/plots/site-7/{url}", headers=etag)
        for one in (answer, same):
            assert {name for name, value in one.headers.items() if value == tag} == (
                headers
            )


async def test_an_answer_says_that_the_store_is_away_and_is_kept_for_seconds_only(
    start: Start, config: Config
) -> None:
    service = replace(config.service, revision_lifetime=0)
    client = await start(replace(config, service=service))
    await put(client)
    tag = await client.app[ROOM].service.tag(names.image_name("plots/site-7"))
    urls = [f"/images/plots/site-7/_/{v}w_90.jpg" for v in ("", f"v_{tag}/")]
    there = [await client.get(url) for url in urls]

    originals = Path(config.data) / "originals"
    originals.rename(originals.with_name("gone"))
    originals.symlink_to(originals)  # whatever is opened below it is an error
    away = [await client.get(url) for url in urls]
    etag = {"If-None-Match": there[0].headers["ETag"]}
    same = [await client.get(url, headers=etag) for url in urls]
    told = await (await client.get("/images/plots/site-7/_/explain.json?w=90")).json()

    control = "public, max-age=10, s-maxage=10"
    # nginx would keep the headers of what it may revalidate, when the store is back.
    assert [answer.status for answer in (*away, *same)] == [200, 200, 200, 200]
    assert not any("ETag" in answer.headers for answer in (*away, *same))
    assert {one.headers["Cache-Control"] for one in (*away, *same)} == {control}
    assert {one.headers[LEVEL_HEADER] for one in away} == {"memory; store=away"}
    assert all("store" not in answer.headers[LEVEL_HEADER] for answer in there)
    assert (told["assumed"], told["original"]) == (True, None)


async def test_a_versioned_url_is_immutable_while_its_tag_is_current(
    client: Client,
) -> None:
    await put(client)
    plain = await client.get("/images/plots/site-7/_/w_90.jpg")
    found = await client.get(
        "/images/plots/site-7/_/v_0123456789abcdef/w_90.jpg", allow_redirects=False
    )

    assert (found.status, found.headers["Cache-Control"]) == (302, "no-store")
    assert found.headers["Location"] == plain.headers["Content-Location"]

    tag = await client.app[ROOM].service.tag(names.image_name("plots/site-7"))
    current = await client.get(f"/images/plots/site-7/_/v_{tag}/w_90.jpg")

    assert current.status == 200
    assert "immutable" in current.headers["Cache-Control"]
    assert current.headers["ETag"] == plain.headers["ETag"]


async def test_a_thousand_first_requests_cause_one_derivation(
    client: Client, pool: Pool
) -> None:
    await put(client, body=jpeg(1600, 1200))
    derivations = pool.derivations

    async def get() -> tuple[int, bytes]:
        answer = await client.get("/images/plots/site-7/_/w_800.webp")
        return answer.status, await answer.read()

    answers = await asyncio.gather(*(get() for _ in range(1000)))

    assert len(set(answers)) == 1
    assert answers[0][0] == 200
    assert pool.derivations == derivations + 1


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("/images/x?size=4", "xsize"),
        ("/images/x?w=0", "1 to"),
        ("/images/x?w=4&xsize=4", "twice"),
        ("/images/x.png?kind=jpg", "twice"),
        ("/images/x?kind=webb", "webp"),
        ("/images/x/_/w_4", "kind"),
        ("/images/x/_/full.json", "json"),
        ("/images//x", "segment"),
        ("/images/%00", "control"),
        ("/images/%ff", "UTF-8"),
    ],
)
async def test_a_url_without_meaning_is_a_400_that_says_why(
    client: Client, url: str, says: str
) -> None:
    answer = await client.get(URL(url, encoded=True))

    assert answer.status == 400
    assert answer.content_type == "application/problem+json"
    problem = await answer.json()
    assert problem["status"] == 400
    assert says in problem["detail"]


@pytest.mark.parametrize(
    "target",
    [
        "/images/a/../x",
        "/images/a/%2e%2e/x",
        "/images/a%2Fx",
        "/images/a#b",
        "/images/%",
    ],
)
async def test_a_raw_target_that_clients_would_tidy_is_a_400_too(
    client: Client, target: str
) -> None:
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())

    assert b" 400 " in await reader.readline()
    writer.close()


async def test_an_unknown_image_is_a_404(client: Client) -> None:
    answer = await client.get("/images/nowhere/_/w_9.jpg")

    assert answer.status == 404
    assert answer.headers["Cache-Control"] == "no-store"
    assert (await answer.json())["title"] == "Not Found"


@pytest.mark.parametrize("method", ["PATCH", "OPTIONS", "PROPFIND"])
async def test_a_method_that_means_nothing_is_a_405_that_names_others(
    client: Client, method: str
) -> None:
    answer = await client.request(method, "/images/x")

    assert answer.status == 405
    assert "GET" in answer.headers["Allow"]


async def test_images_that_other_tools_have_put_are_adopted(
    start: Start, config: Config
) -> None:
    async with DirectoryStore(Path(config.data) / "originals") as store:
        for key in ("plots/a.JPG", "cafe\u0301.png", "plots/", "plots/a/_/x/full.jpg"):
            await store.put(key, io.BytesIO(jpeg(60, 40)), media_type="x/y")
        client = await start(config)

        assert await (await client.get("/images")).json() == ["caf\u00e9", "plots/a"]
        for url in ("plots/a/_/w_30.png", "plots/a.jpg?w=30", "caf%C3%A9/_/w_30.png"):
            answer = await client.get(f"/images/{url}")
            assert decode(await answer.read()).size == (30, 20)
        assert (await client.post("/images/plots/a", data=jpeg(9, 9))).status == 409

        await put(client, "plots/a", jpeg(80, 40))

        info = await (await client.get("/images/plots/a/_/info.json")).json()
        assert info["width"] == 80
        assert await (await client.get("/images")).json() == ["caf\u00e9", "plots/a"]
        assert (await client.delete("/images/plots/a")).status == 204
        assert (await client.get("/images/plots/a/_/w_30.png")).status == 404
        assert [key async for key in store.list("plots/a.")] == []


async def test_info_says_size_and_format(client: Client) -> None:
    await put(client, "x", encode(quarters(30, 20), "PNG"))

    info = await (await client.get("/images/x/_/info.json")).json()

    assert (info["width"], info["height"], info["format"]) == (30, 20, "png")
    assert (await client.get(info["urls"]["w_400"])).status == 200


async def test_health_lists_the_kinds_that_work(client: Client, pool: Pool) -> None:
    health = await (await client.get("/healthz")).json()
    ready = await client.get("/readyz")

    assert set(health["kinds"]) == set(pool.kinds)
    assert {"jpg", "png", "webp", "gif", "tif", "bmp"} <= set(health["kinds"])
    assert ready.status == 200


async def test_transparency_lies_on_the_background_where_a_kind_has_none(
    client: Client,
) -> None:
    clear = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    await put(client, "x", encode(clear, "PNG"))

    jpg = decode(await (await client.get("/images/x/_/full.jpg")).read())
    png = decode(await (await client.get("/images/x/_/full.png")).read())

    assert near(colour(jpg, (9, 9)), WHITE)
    assert png.convert("RGBA").getchannel("A").getextrema() == (0, 0)
