"""Images in the kind that suits client and image, on a server that answers directly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import decode, encode, jpeg
from PIL import Image
from servers import Client, Start

from image_repo.config import Config
from image_repo.transform.pool import Pool
from image_repo.web.accept import outright

AUTO = "/images/x/_/w_40.auto"
AVIF, WEBP = "image/avif", "image/webp"
BROWSERS = {
    "chrome": "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
    "chrome 84": "image/webp,image/apng,image/*,*/*;q=0.8",
    "chrome 31": "image/webp,*/*;q=0.8",
    "firefox 128": (
        "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
    ),
    "firefox 92": "image/avif,image/webp,*/*",
    "firefox 65": "image/webp,*/*",
    "firefox 47": "image/png,image/*;q=0.8,*/*;q=0.5",
    "safari 17": (
        "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,"
        "image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5"
    ),
    "safari 14": (
        "image/webp,image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"
    ),
    "safari 12": "image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5",
    "edge 18": "image/png, image/svg+xml, image/*; q=0.8, */*; q=0.5",
    "a page in chrome": (
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
        "image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"
    ),
    "curl and wget": "*/*",
    "googlebot-image": "image/*,*/*;q=0.8",
}
"""What browsers and others send with a request for an image."""


async def put(client: Client, body: bytes = b"", name: str = "x") -> None:
    answer = await client.put(f"/images/{name}", data=body or jpeg(60, 40))
    assert answer.status in {200, 201}


async def kind(client: Client, accept: str | None, target: str = AUTO) -> str:
    # aiohttp would send one of its own
    headers = {} if accept is None else {"Accept": accept}
    answer = await client.get(target, headers=headers, skip_auto_headers=["Accept"])
    assert answer.status == 200
    assert answer.headers["Vary"] == "Accept"
    return answer.content_type.removeprefix("image/")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (AVIF, "avif"),
        (WEBP, "webp"),
        ("image/AVIF , text/html", "avif"),
        ("image/webp,image/avif", "avif"),
        ("image/avif;q=0.8,image/webp", "webp"),
        ("image/avif;q=0.8,image/webp;q=0.8", "avif"),
        ("image/avif;q=0,image/webp;q=0.001", "webp"),
        ("image/webp;q=0", "jpeg"),
        ("image/webp;q=0.0, */*", "jpeg"),
        ("image/webp;q=x", "jpeg"),
        ("image/*", "jpeg"),
        ("*/*", "jpeg"),
        ("image/png", "jpeg"),
        ("", "jpeg"),
        (None, "jpeg"),
    ],
)
async def test_the_kind_is_the_one_that_a_client_names_and_likes_best(
    client: Client, accept: str | None, chosen: str
) -> None:
    await put(client)

    assert await kind(client, accept) == chosen


@pytest.mark.parametrize(
    ("target", "size"),
    [
        ("/images/x?kind=auto", (60, 40)),
        ("/images/x?kind=AUTO&w=40", (40, 27)),
        ("/images/x/_/w_40.auto", (40, 27)),
        ("/images/x/_/full.Auto", (60, 40)),
        ("/images/x?thumbnail=1&kind=auto", (50, 33)),
    ],
)
async def test_every_spelling_leaves_the_kind_open(
    client: Client, target: str, size: tuple[int, int]
) -> None:
    await put(client)

    answer = await client.get(target, headers={"Accept": WEBP})

    picture = decode(await answer.read())
    assert (picture.format, picture.size) == ("WEBP", size)
    path = answer.headers["Content-Location"]
    assert path.endswith(".webp")
    assert answer.headers["Link"] == f'<{path}>; rel="canonical"'
    direct = await client.get(path)
    assert direct.headers["ETag"] == answer.headers["ETag"]
    assert "Vary" not in direct.headers


async def test_an_image_may_have_the_word_as_its_extension(client: Client) -> None:
    await put(client, name="x.auto")

    answer = await client.get("/images/x.auto", headers={"Accept": WEBP})

    assert (answer.status, answer.content_type) == (200, "image/jpeg")
    assert "Vary" not in answer.headers


async def test_a_head_is_as_its_get_and_what_is_known_is_not_sent(
    client: Client,
) -> None:
    await put(client)
    accept = {"Accept": WEBP}
    got = await client.get(AUTO, headers=accept)
    etag = {"If-None-Match": got.headers["ETag"]}

    head = await client.head(AUTO, headers=accept)
    known = await client.get(AUTO, headers=accept | etag)
    other = await client.get(AUTO, headers={"Accept": AVIF} | etag)

    assert head.headers["ETag"] == got.headers["ETag"]
    assert (known.status, other.status) == (304, 200)
    assert {answer.headers["Vary"] for answer in (got, head, known, other)} == {
        "Accept"
    }


async def test_a_versioned_url_may_leave_the_kind_open(client: Client) -> None:
    await put(client)
    told = await (await client.get("/images/x/_/info.json")).json()

    answer = await client.get(told["versioned"]["auto"], headers={"Accept": WEBP})
    stale = await client.get(
        "/images/x/_/v_0123456789abcdef/w_40.auto",
        headers={"Accept": WEBP},
        allow_redirects=False,
    )

    assert "immutable" in answer.headers["Cache-Control"]
    assert (answer.content_type, answer.headers["Vary"]) == (WEBP, "Accept")
    assert stale.headers["Location"] == "/images/x/_/w_40.webp"
    assert (stale.status, stale.headers["Vary"]) == (302, "Accept")


async def test_an_upload_is_answered_with_such_a_url(client: Client) -> None:
    told = await (await client.put("/images/a b", data=jpeg(60, 40))).json()

    assert told["urls"]["auto"] == "/images/a%20b/_/w_400.auto"
    assert await kind(client, WEBP, told["urls"]["auto"]) == "webp"


# Within what everybody can show


def picture(mode: str, kind: str, **options: object) -> bytes:
    return encode(Image.new(mode, (60, 40), 0), kind, **options)


@pytest.mark.parametrize(
    ("body", "chosen"),
    [
        (jpeg(60, 40), "jpeg"),
        (picture("RGB", "PNG"), "jpeg"),
        (picture("L", "PNG"), "jpeg"),
        (picture("RGBA", "PNG"), "png"),
        (picture("LA", "PNG"), "png"),
        (picture("P", "PNG"), "png"),
        (picture("RGB", "PNG", transparency=(0, 0, 0)), "png"),
        (picture("P", "GIF"), "png"),
        (picture("RGB", "WEBP"), "jpeg"),
        (picture("RGBA", "WEBP"), "png"),
        (picture("RGB", "WEBP", lossless=True), "png"),
        (picture("RGB", "TIFF"), "jpeg"),
        (picture("RGBA", "TIFF"), "png"),
        (picture("P", "TIFF"), "png"),
        (picture("RGB", "BMP"), "jpeg"),
        (picture("P", "BMP"), "png"),
        (picture("RGB", "AVIF"), "jpeg"),
        (picture("RGBA", "AVIF"), "png"),
    ],
)
async def test_a_graphic_comes_as_png_and_a_photograph_as_jpg(
    client: Client, body: bytes, chosen: str
) -> None:
    await put(client, body)

    assert await kind(client, "*/*") == chosen
    assert await kind(client, WEBP) == "webp"


async def test_an_original_is_read_once_for_that(
    client: Client, monkeypatch: pytest.MonkeyPatch, pool: Pool
) -> None:
    await put(client, picture("RGBA", "PNG"))
    probe, probed = pool.probe, 0

    async def count(*given: object) -> object:
        nonlocal probed
        probed += 1
        return await probe(*given)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(pool, "probe", count)
    for width in (10, 11, 12):
        assert await kind(client, "*/*", f"/images/x/_/w_{width}.auto") == "png"

    assert probed == 1


async def test_a_replaced_original_is_looked_at_again(client: Client) -> None:
    await put(client, picture("RGBA", "PNG"))
    assert await kind(client, "*/*") == "png"

    await put(client, jpeg(60, 40))

    assert await kind(client, "*/*") == "jpeg"


async def test_an_image_that_is_not_there_is_missed_in_every_kind(
    client: Client,
) -> None:
    for accept in (WEBP, "*/*"):
        assert (await client.get(AUTO, headers={"Accept": accept})).status == 404


# What is offered


@pytest.mark.parametrize(
    ("kinds", "accept", "chosen"),
    [
        ("webp", f"{AVIF},{WEBP}", "webp"),
        ("webp avif", f"{AVIF},{WEBP}", "webp"),
        ("avif", WEBP, "jpeg"),
        ("", f"{AVIF},{WEBP}", "jpeg"),
    ],
)
async def test_kinds_are_offered_as_configured(
    start: Start, config: Config, kinds: str, accept: str, chosen: str
) -> None:
    client = await start(replace(config, http=replace(config.http, auto_kinds=kinds)))
    await put(client)

    assert await kind(client, accept) == chosen


@contextmanager
def writing(pool: Pool, *kinds: str) -> Iterator[None]:
    """Have workers whose ImageMagick can write these kinds alone."""
    before, pool.kinds = pool.kinds, frozenset(kinds)
    try:
        yield
    finally:
        pool.kinds = before


async def test_a_kind_that_cannot_be_written_is_never_chosen(
    start: Start, config: Config, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    with writing(pool, "jpg", "png", "webp"):
        client = await start(config)
        await put(client)

        assert await kind(client, f"{AVIF},{WEBP}") == "webp"
        assert await kind(client, AVIF) == "jpeg"
        assert (await client.get("/images/x.avif")).status == 400
    assert "can't write avif, which http.auto_kinds names" in caplog.text


# What leaves no kind open


@pytest.mark.parametrize(
    "target",
    [
        "/images/x/?kind=auto",
        "/images/x?regex=x&kind=auto",
        "/images/x/_/explain.json?kind=auto",
    ],
)
async def test_a_kind_must_be_named_for_many_images_and_explanations(
    client: Client, target: str
) -> None:
    await put(client)

    answer = await client.get(target)

    assert answer.status == 400
    assert "kind 'auto' is chosen for one image" in (await answer.json())["detail"]


@pytest.mark.parametrize(
    "target", ["/images/x.png?kind=auto", "/images/x?kind=auto&meta=1", AUTO + "?w=3"]
)
async def test_what_contradicts_itself_is_refused(client: Client, target: str) -> None:
    assert (await client.get(target)).status == 400


async def test_a_temporary_url_leads_to_the_kind_that_was_chosen(
    client: Client,
) -> None:
    await put(client)

    answer = await client.get(AUTO + "?url=True", headers={"Accept": WEBP})

    assert (await answer.json())["name"] == "/images/x/_/w_40.webp"
    assert answer.headers["Vary"] == "Accept"


# As browsers ask


async def test_browsers_have_an_image_made_in_three_kinds_at_most(
    client: Client, pool: Pool
) -> None:
    await put(client)
    before = pool.derivations

    chosen = {name: await kind(client, accept) for name, accept in BROWSERS.items()}

    assert pool.derivations - before == 3
    assert chosen == {
        **dict.fromkeys(BROWSERS, "jpeg"),
        **dict.fromkeys(("chrome 84", "chrome 31", "firefox 65", "safari 14"), "webp"),
        **dict.fromkeys(("chrome", "firefox 128", "firefox 92", "safari 17"), "avif"),
        "a page in chrome": "avif",
    }


@given(st.text(), st.lists(st.sampled_from([AVIF, WEBP]), unique=True))
def test_no_header_is_an_error(header: str, offers: list[str]) -> None:
    assert outright(header, offers) in {*offers, None}
