"""Images in the kind that suits best, behind a real nginx."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from nginx.harness import Answer, Front, ask, nginx_before, serving
from nginx.test_end_to_end import Site, site
from nginx.test_queries import telling
from pictures import encode, jpeg
from PIL import Image
from web.test_negotiation import AUTO, AVIF, BROWSERS, WEBP, writing

from image_repo import assemble
from image_repo.assumptions import Assumptions
from image_repo.config import Config
from image_repo.formats import by_kind
from image_repo.modifiers import ImageOptions
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app
from image_repo.web.negotiation import by_accept

KINDS = [("avif", "webp"), ("webp", "avif"), ("webp",), ("avif",), ()]


@pytest_asyncio.fixture(scope="module", params=KINDS, ids=" ".join)
async def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Front]:
    """Nginx before something that says what came to it."""
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    assumed = Assumptions.of(ImageOptions(), request.param)
    async with nginx_before(telling(), directory, assumed=assumed) as front:
        yield front


async def chosen(front: Front, accept: str, target: str = AUTO) -> str:
    """Return the kind that nginx has chosen; empty: it left that to the server."""
    answer = await front.ask(target, headers={"Accept": accept})
    path = answer.headers.get("X-Path", "")
    return path.rpartition(".")[2] if path.startswith("/_c/") else ""


# The one rule for Accept, in nginx and in the server


@pytest.mark.parametrize("accept", BROWSERS.values(), ids=BROWSERS)
async def test_nginx_knows_what_browsers_send(front: Front, accept: str) -> None:
    expected = by_accept(accept, front.settings.assumed.auto)

    for target in (AUTO, "/images/x?kind=auto&w=40"):
        assert await chosen(front, accept, target) == (
            "" if expected is None else expected.kind
        )


ranges = st.sampled_from(
    (
        *(AVIF, WEBP, AVIF, WEBP, "IMAGE/WebP", "image/*", "*/*", "image/avifs", ""),
        *(
            "avif",
            "ximage/avif",
            "image /webp",
            "image/webp image/avif",
            '"image/avif"',
        ),
    )
)
weights = st.sampled_from(
    (
        *(
            "",
            "",
            ";q=1",
            ";q=1.000",
            ";q=0",
            ";q=0.0",
            ";q=0.000",
            ";q=0.5",
            ";q=0.001",
        ),
        *("; q=0.8", " ;\tq=1 ", ";Q=1", ";q=0.50", ";q=.5", ";q=1.5", ";q=2", ";q=x"),
        *(";q=", ";q", ";level=1", ";level=1;q=0.3", ";q=0;q=1", ";q=0.0001", ";q=1_0"),
    )
)
spaces = st.sampled_from(["", "", " ", "\t", "  "])
elements = st.builds("{}{}{}{}".format, spaces, ranges, weights, spaces)
headers = st.lists(elements, max_size=5).map(",".join) | st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"),
    max_size=20,
)


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(accepts=st.lists(headers, min_size=10, max_size=20))
async def test_nginx_says_what_the_server_would_or_leaves_it_to_it(
    front: Front, accepts: list[str]
) -> None:
    auto = front.settings.assumed.auto

    async def check(accept: str) -> None:
        kind = await chosen(front, accept)
        if kind:
            assert (accept, by_kind(kind)) == (accept, by_accept(accept, auto))

    await asyncio.gather(*map(check, accepts))


@pytest.mark.parametrize(
    "target",
    [
        AUTO + "?w=5",
        AUTO + "?",
        AUTO + "#",
        AUTO + "/",
        "/images/x/_/w_40.AUTO",
        "/images/x/_/w_40%2Eauto",
        "/images/y/../x/_/w_40.auto",
        "/images//x/_/w_40.auto",
        "/images/x%2F_/w_40.auto",
        "/images/x/_/W_40.auto",
        "/images/x%0d%0aX-Odd:%201/_/w_40.auto",
        "/images/x?kind=auto&kind=auto",
        "/images/x?kind=auto&w=0",
        "/images/x?k%69nd=auto",
        "/images/x.png?kind=auto",
        "/images/x/_/v_0123/w_40.auto",
    ],
)
async def test_an_odd_url_is_the_servers(front: Front, target: str) -> None:
    assert await chosen(front, f"{AVIF},{WEBP}", target) == ""


# The whole thing


@pytest_asyncio.fixture
async def served(pool: Pool) -> AsyncIterator[Site]:
    async with site(Config(), pool) as made:
        yield made


async def ask_for(served: Site, accept: str, target: str = AUTO) -> Answer:
    return await served.front.ask(target, headers={"Accept": accept})


async def test_browsers_share_three_entries(served: Site, pool: Pool) -> None:
    await served.put((9, 9, 9))
    before = pool.derivations

    answers = [
        await ask_for(served, accept) for _ in range(2) for accept in BROWSERS.values()
    ]

    assert pool.derivations - before == 3
    assert [answer.cache for answer in answers].count("MISS") == 3
    assert {answer.headers.get("Vary") for answer in answers} == {"Accept"}
    assert len({answer.headers["ETag"] for answer in answers}) == 3


@pytest.mark.parametrize("kind", ["avif", "webp"])
@pytest.mark.parametrize("target", [AUTO, "/images/x?kind=auto&w=40"])
async def test_a_better_kind_comes_from_the_cache_without_the_server(
    served: Site, kind: str, target: str
) -> None:
    await served.put((9, 9, 9))
    direct = await served.front.ask(f"/images/x/_/w_40.{kind}")
    before = list(served.asked)

    answer = await ask_for(served, f"image/{kind}", target)
    known = await served.front.ask(
        target,
        headers={"Accept": f"image/{kind}", "If-None-Match": answer.headers["ETag"]},
    )
    head = await served.front.ask(target, "HEAD", {"Accept": f"image/{kind}"})

    assert served.asked == before
    assert (answer.cache, answer.body) == ("HIT", direct.body)
    assert (known.status, known.cache, head.status) == (304, "HIT", 200)
    path = f"/images/x/_/w_40.{kind}"
    for found in (answer, head, known):
        assert found.headers.getall("Vary") == ["Accept"]
        assert found.headers["ETag"] == direct.headers["ETag"]
    for found in (answer, head):
        assert found.headers["Content-Location"] == path
        assert found.headers["Link"] == f'<{path}>; rel="canonical"'
    assert "Vary" not in direct.headers


@pytest.mark.parametrize(
    "target", [AUTO, "/images/x?kind=auto&w=40", "/images/x?k%69nd=auto&w=040"]
)
@pytest.mark.parametrize(("shades", "kind"), [("RGB", "jpg"), ("RGBA", "png")])
async def test_the_others_share_the_entry_that_the_server_picks(
    served: Site, target: str, shades: str, kind: str
) -> None:
    body = encode(Image.new(shades, (60, 60)), "PNG")
    await served.front.ask("/images/x", "PUT", body=body)
    direct = await served.front.ask(f"/images/x/_/w_40.{kind}")

    answer = await ask_for(served, "*/*", target)

    assert (answer.cache, answer.body) == ("HIT", direct.body)
    assert answer.headers.getall("Vary") == ["Accept"]
    assert answer.headers["Content-Location"] == f"/images/x/_/w_40.{kind}"


async def test_what_the_server_must_weigh_has_one_entry_too(served: Site) -> None:
    await served.put((9, 9, 9))
    direct = await served.front.ask("/images/x/_/w_40.webp")

    weighed = await ask_for(served, "image/avif;q=0.8,image/webp")
    odd = await ask_for(served, WEBP, "/images/x/_/w_040.auto")

    for answer in (weighed, odd):
        assert (answer.cache, answer.body) == ("HIT", direct.body)
        assert answer.headers.getall("Vary") == ["Accept"]


async def test_only_what_depends_on_accept_says_so(served: Site) -> None:
    await served.put((9, 9, 9))
    await served.put((9, 9, 9), "/images/x.auto")

    for target in ("/images/x", "/images/x/_/w_40.png", "/images/x.auto?w=9"):
        assert "Vary" not in (await ask_for(served, WEBP, target)).headers
    for target in (f"{AUTO}?url=1", "/images/none/_/w_40.auto"):
        answer = await ask_for(served, WEBP, target)
        assert answer.headers.getall("Vary") == ["Accept"]


async def test_a_client_cannot_say_that_an_answer_varies(served: Site) -> None:
    await served.put((9, 9, 9))

    for target in ("/images/x/_/w_40.png?auto", "/_c/images/x/_/w_40.png?auto"):
        answer = await served.front.ask(target)
        assert "Vary" not in answer.headers
        assert answer.status in {400, 404}


async def test_versioned_urls_that_leave_the_kind_open_are_hot(served: Site) -> None:
    await served.put((9, 9, 9))
    seen = await served.front.ask("/images/x/_/explain.json?w=40&kind=webp")
    path = str(seen.body).partition('versioned_path": "')[2].partition('"')[0]

    cold, warm = [
        await ask_for(served, WEBP, path.replace(".webp", ".auto")) for _ in range(2)
    ]

    assert (cold.cache, warm.cache) == ("MISS", "HIT")
    assert "immutable" in warm.headers["Cache-Control"]
    assert warm.headers["Vary"] == "Accept"
    assert warm.headers["Content-Location"] == "/images/x/_/w_40.webp"


@pytest.mark.parametrize("way", ["put", "purge", "delete"])
async def test_after_a_change_nothing_old_is_chosen(served: Site, way: str) -> None:
    """What was chosen has no entry of its own, so that a purge reaches it."""
    await served.put((9, 9, 9))
    accepts = (AVIF, WEBP, "*/*")
    old = [await ask_for(served, accept) for accept in accepts]

    if way == "put":
        await served.front.ask("/images/x", "PUT", body=jpeg(60, 60))
    elif way == "purge":
        await served.front.ask("/images/x/_/purge", "POST")
    else:
        await served.front.ask("/images/x", "DELETE")
    new = [await ask_for(served, accept) for accept in accepts]

    assert not any(answer.cache == "HIT" for answer in new)
    if way == "delete":
        assert {answer.status for answer in new} == {404}
    else:
        pairs = zip(old, new, strict=True)
        same = [a.headers["ETag"] == b.headers["ETag"] for a, b in pairs]
        assert set(same) == {way == "purge"}


async def test_where_nginx_chooses_what_cannot_be_written_the_server_chooses_again(
    pool: Pool,
) -> None:
    with writing(pool, "jpg", "png", "webp"):
        async with site(Config(), pool) as served:
            await served.put((9, 9, 9))

            for _ in range(2):
                both = await ask_for(served, f"{AVIF},{WEBP}")
                query = await ask_for(served, AVIF, "/images/x?kind=auto&w=40")
                direct = await served.front.ask("/images/x/_/w_40.avif")

                assert (both.status, both.headers["Content-Type"]) == (200, WEBP)
                assert query.headers["Content-Type"] == "image/jpeg"
                for answer in (both, query):
                    assert answer.headers.getall("Vary") == ["Accept"]
                assert direct.status == 400
                assert b"can't be written by this server" in direct.body


async def test_the_choice_is_the_same_with_and_without_nginx(
    served: Site, pool: Pool, tmp_path: Path
) -> None:
    alone = replace(Config(), data=str(tmp_path / "alone"))
    async with (
        assemble.open_room(alone, pool) as room,
        serving(make_app(room)) as bare,
    ):
        for port in (bare, served.front.port):
            assert (
                await ask(port, "/images/x", "PUT", body=jpeg(60, 60))
            ).status == 201
        for accept in (*BROWSERS.values(), "image/avif;q=0.1,image/webp", ""):
            for target in (AUTO, "/images/x?kind=auto", AUTO + "?w=3", AUTO + "?url=1"):
                said = [
                    await ask(port, target, headers={"Accept": accept})
                    for port in (bare, served.front.port)
                ]
                first, second = (
                    (a.status, a.headers.get("Vary"), a.headers.get("ETag"))
                    for a in said
                )
                assert first == second


async def test_a_server_says_so_if_nginx_takes_other_things_for_granted(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    late = replace(Config(), image_default_format="png")
    async with site(late, pool, assumed=Assumptions()) as served:
        await served.put((9, 9, 9))
        answer = await served.front.ask("/images/x?w=40")

    assert answer.status == 200
    assert "nginx takes other kinds or thumbnails for granted" in caplog.text
