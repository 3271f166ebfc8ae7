"""Plain URLs, whose canonical path nginx finds itself; all others are the server's.

What nginx chooses is compared with what the server's own parser says.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import unicodedata
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pytest
import pytest_asyncio
from aiohttp import web
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from nginx.harness import Front, nginx_before
from strategies import defaults

from image_repo import urls
from image_repo.assumptions import Assumptions
from image_repo.formats import FORMATS
from image_repo.modifiers import MAX_SIDE, ImageOptions
from image_repo.nginx_maps import up_to
from image_repo.web.negotiation import by_accept

AUTO = ("avif", "webp")
OTHER = ImageOptions(
    image_default_format="png",
    thumbnail_default_format="webp",
    thumbnail_default_size=(30, 20),
    thumbnail_liquid_resize=False,
)


async def tell(request: web.Request) -> web.Response:
    """Say what has come to the server, and let nginx keep nothing."""
    return web.Response(
        text="asked",
        headers={"X-Path": request.raw_path[:3000], "X-Accel-Expires": "0"},
    )


def telling() -> web.Application:
    app = web.Application()
    app.router.add_route("*", "/{any:(?s:.*)}", tell)
    return app


@dataclass(frozen=True)
class Case:
    """An nginx, and what URLs mean that do not say everything."""

    front: Front
    images: ImageOptions

    async def hop(self, target: str, accept: str = "", method: str = "GET") -> str:
        """Return the canonical path that nginx has chosen, quoted; empty: none."""
        headers = {"Accept": accept} if accept else {}
        answer = await self.front.ask(target, method, headers)
        path = answer.headers.get("X-Path", "")
        return path.removeprefix("/_c") if path.startswith("/_c/") else ""

    def meant(self, target: str, accept: str = "") -> str:
        """Return the path that the server has for a target."""
        # Spaces at its end are not the target's, but the request line's.
        found = urls.read(target.rstrip(" "), "GET", self.images)
        if isinstance(found, urls.AutoRequest):
            kind = by_accept(accept, AUTO)
            assert kind is not None, target
            found = found.into(kind)
        assert isinstance(found, urls.DerivedRequest), target
        assert found.directives == urls.Directives()
        return found.path

    async def check(self, target: str, accept: str = "") -> bool:
        """Return whether nginx has chosen, after comparing what."""
        hop = await self.hop(target, accept)
        if hop:
            expected = self.meant(target, accept)
            assert (target, unquote(hop)) == (target, unquote(expected))
        return bool(hop)


@pytest_asyncio.fixture(scope="module", params=["as it is", "with other defaults"])
async def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Case]:
    images = ImageOptions() if request.param == "as it is" else OTHER
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    assumed = Assumptions.of(images, AUTO)
    async with nginx_before(telling(), directory, assumed=assumed) as front:
        yield Case(front, images)


# What it knows


@pytest.mark.parametrize(
    "target",
    [
        "/images/x",
        "/images/plots/site-7",
        "/images/x.png",
        "/images/x.JPEG",
        "/images/x.tiff?w=3",
        "/images/a.png.jpg?w=3",
        "/images/plot.v2?w=3",
        "/images/x.auto?w=3",
        "/images/a.png/b?w=3",
        "/images/d%C3%A9j%C3%A0?w=3",
        "/images/a%20b%25@2x+(1)?w=3",
        "/images/a%3Fw=5?w=3",
        "/images/a&w=9?h=3",
        "/images/x?xsize=400&ysize=300&kind=webp",
        "/images/x?kind=JPG",
        "/images/x?w=65500",
        "/images/x?thumbnail=True",
        "/images/x?thumbnail=true&xsize=99",
        "/images/x.gif?thumb=1&h=9&w=8",
        "/images/x?thumb=YES&kind=png",
        "/images/_x/x_?w=1",
        "/images/.../....?w=1",
    ],
)
async def test_a_plain_url_goes_to_its_canonical_path(case: Case, target: str) -> None:
    hop = await case.hop(target)

    assert unquote(hop) == unquote(case.meant(target))
    assert await case.hop(target, method="HEAD") == hop


async def test_words_may_come_in_any_order(case: Case) -> None:
    words = ["xsize=400", "ysize=300", "thumb=true", "kind=gif"]

    hops = [
        await case.hop(f"/images/x?{'&'.join(some)}")
        for count in (2, 3, 4)
        for some in itertools.permutations(words, count)
    ]

    assert all(hops)
    letters = case.images.letters
    assert f"/images/x/_/w_400-h_300-thumb_{letters}.gif" in hops
    assert len(set(hops)) == 11  # one for each choice of words


@pytest.mark.parametrize("most", [9, 10, 100, 4095, 9999, MAX_SIDE])
def test_numbers_are_known_up_to_the_greatest_that_is_allowed(most: int) -> None:
    known = re.compile(up_to(most))

    for number in range(70_000):
        assert bool(known.fullmatch(str(number))) == (1 <= number <= most)
    for odd in ("", "01", "+1", "1.0", "1_0", "\u0661", "655000"):
        assert not known.fullmatch(odd)


def test_accented_letters_that_are_known_stand_for_themselves_in_names() -> None:
    letters = [
        bytes((a, b)).decode() for a in range(0xC3, 0xC6) for b in range(128, 192)
    ]

    for one in letters:
        assert unicodedata.normalize("NFC", one) == one
        assert unicodedata.category(one)[0] in "LS"
    for two in itertools.product(letters, repeat=2):
        assert unicodedata.is_normalized("NFC", "".join(two))


# What it leaves to the server


@pytest.mark.parametrize(
    "target",
    [
        # Pitfalls of $arg_: case, escapes, duplicates, what is not a query
        "/images/x?W=400",
        "/images/x?XSIZE=400",
        "/images/x?%77=400",
        "/images/x?%78size=400",
        "/images/x?w=4%300",
        "/images/x?w=400&w=5",
        "/images/x?w=400&xsize=400",
        "/images/x?xsize=400&h=1&w=400",
        "/images/x?kind=png&kind=png",
        "/images/x?thumb=1&thumbnail=1",
        "/images/x?h=1&w=400#?w=5",
        "/images/x#?w=5",
        "/images/x?w=5#",
        "/images/x?w=400;h=3",
        "/images/x?w=+400",
        "/images/x?w=400+",
        "/images/x|w=5?w=400",
        "/images/y/../x?w=400",
        "/images/./x?w=400",
        "/images//x?w=400",
        "//images/x?w=400",
        "/images/x%2Fy?w=400",
        "/images/%2E?w=400",
        "/images/%78?w=400",
        "/%69mages/x?w=400",
        # What the server refuses, or reads otherwise
        "/images/x?",
        "/images/x?&w=400",
        "/images/x?w=400&",
        "/images/x?w",
        "/images/x?w=",
        "/images/x?w=0",
        "/images/x?w=0400",
        "/images/x?w=65501",
        "/images/x?w=4294967697",
        "/images/x?w=4e2",
        "/images/x?w=400px",
        "/images/x?w=400.0",
        "/images/x?w=-1",
        "/images/x?w==400",
        "/images/x?w=400?h=3",
        "/images/x?thumb=els",
        "/images/x?thumb=no",
        "/images/x?kind=heic",
        "/images/x?kind=",
        "/images/x?q=80",
        "/images/x?w=400&url=True",
        "/images/x?meta=True",
        "/images/x?regex=x",
        "/images/x?depth=3",
        "/images/x.png?kind=png",
        "/images/x.png?w=1&kind=gif",
        "/images/x.heic",
        "/images/x.PSD?w=400",
        "/images/.jpg?w=400",
        "/images/_?w=400",
        "/images/_.png?w=400",
        "/images/..png?w=400",
        "/images/...png?w=400",
        "/images/a/_/b?w=400",
        "/images/e%CC%81?w=400",
        "/images/%E2%80%AE?w=400",
        "/images/a%C2%85?w=400",
        "/images/a%FF?w=400",
        "/images/a%00?w=400",
        "/images/x%0d%0aX-Odd:%201?w=400",
        "/images/x?w=400%0d%0aX-Odd:%201",
        "/images/" + "a" * 701 + "?w=400",
        # Other things
        "/images",
        "/images/",
        "/images?limit=3",
        "/images/x/",
        "/images/x/?w=400",
        "/images/x/_/info.json",
        "/images/x/_/w_400.webp?url=True",
        "/nothing?w=400",
    ],
)
async def test_all_else_is_the_servers(case: Case, target: str) -> None:
    assert not await case.hop(target)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_write_is_the_servers(case: Case, method: str) -> None:
    assert not await case.hop("/images/x.png", method=method)


async def test_a_get_with_a_body_is_the_servers(case: Case) -> None:
    answer = await case.front.ask("/images/x?w=4", body=b"w=5")

    assert answer.headers["X-Path"] == "/images/x?w=4"


# Whatever it is asked

SPELLINGS = ["w", "xsize", "h", "ysize", "thumb", "thumbnail", "kind", "quality", "url"]
EXTENSIONS = [word for row in FORMATS for word in row.extensions]

words = st.sampled_from(SPELLINGS) | st.sampled_from(
    ["W", "%77", "wid", "", "k%69nd", "KIND", "regex", "q"]
)
numbers = st.integers(0, 70_000).map(str) | st.sampled_from(
    ["1", "65500", "65501", "0400", "+4", "4+", "-1", "4.5", "%34", "99999999999", "m1"]
)
kinds = st.sampled_from([*EXTENSIONS, "auto", "JPG", "Auto", "jpg ", "svg", "p%6Eg"])
truths = st.sampled_from(["True", "true", "1", "yes", "YES", "no", "0", "els", "plain"])
odd = st.text(st.characters(min_codepoint=33, max_codepoint=255), max_size=4)
pairs = st.one_of(
    st.builds("{}={}".format, st.sampled_from(SPELLINGS[:4]), numbers),
    st.builds("kind={}".format, kinds),
    st.builds("{}={}".format, st.sampled_from(SPELLINGS[4:6]), truths),
    st.builds("{}={}".format, words, numbers | kinds | truths | odd),
    words,
    odd,
)
joints = st.sampled_from(
    ["&"] * 12 + ["&&", ";", "#", "?", "\x01", "&amp;", "=", "%26"]
)


@st.composite
def queries(draw: st.DrawFn) -> str:
    found = draw(st.lists(pairs, max_size=4))
    text = "".join(pair + draw(joints) for pair in found)
    return text if draw(st.integers(0, 9)) == 0 else text.rstrip("&")


characters = st.sampled_from([*"abwx.._-&=+@~!'(", "%20", "%C3%A9", "%3F", "%C5%82"])
segments = st.one_of(
    st.sampled_from(["x", "site-7", "a.png", "plot.v2"]),
    st.lists(characters, min_size=1, max_size=6).map("".join),
    st.sampled_from(
        ["", ".", "..", "_", "%2e", "%2F", "e%CC%81", "%E2%80%AE", "%zz", "|", "a%00"]
    ),
    odd,
)
endings = st.just("") | (kinds | odd).map(".{}".format)
targets = st.builds(
    "/images/{}{}{}{}".format,
    st.lists(segments, min_size=1, max_size=3).map("/".join),
    endings,
    st.sampled_from(["?", "?", "?", "", "#", "??", "%3F"]),
    queries(),
)
accepts = st.sampled_from(
    ["", "image/avif", "image/webp", "image/webp;q=0", "image/webp,image/avif;q=0.9"]
)


@hypothesis_settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(asked=st.lists(st.tuples(targets, accepts), min_size=10, max_size=20))
async def test_what_nginx_chooses_is_what_the_server_says(
    case: Case, asked: list[tuple[str, str]]
) -> None:
    await asyncio.gather(*(case.check(*one) for one in asked))


@hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(images=defaults)
async def test_what_is_left_open_is_as_configured(
    tmp_path_factory: pytest.TempPathFactory, images: ImageOptions
) -> None:
    directory = tmp_path_factory.mktemp("nginx")
    directory.chmod(0o755)
    assumed = Assumptions.of(images, AUTO)
    async with nginx_before(telling(), directory, assumed=assumed) as front:
        case = Case(front, images)
        for query in ("", "?w=4", "?thumb=1", "?thumb=1&h=9", "?thumb=1&kind=gif"):
            assert await case.check(f"/images/x{query}")


@pytest.mark.parametrize("part", ["a", "%20", "a/", "%20/", "a.", "a-a_1"])
async def test_long_urls_fail_nowhere(case: Case, part: str) -> None:
    for size in (500, 1000, 2000, 4000, 7000):
        name = (part * size)[: size - size % len(part)].rstrip("/")
        for target in (
            f"/images/{name}",
            f"/images/{name}?w=4",
            f"/images/{name}/_/w_4.webp",
            f"/images/{name}/_/w_4.auto",
            f"/images/x/_/{'-'.join(['w_4'] * (size // 4))}.webp",
            f"/images/x?{'&'.join(['w=4'] * (size // 4))}",
            f"/images/x?kind=auto{'&' * size}",
        ):
            accept = f"{'image/webp;q=0.5, ' * (size // 17)}image/avif"
            answer = await case.front.ask(target, headers={"Accept": accept})
            assert (answer.status, target[-10:]) == (200, target[-10:])


# Together with the cache


async def test_a_plain_url_hits_without_the_server(tmp_path: Path) -> None:
    asked: list[str] = []

    async def image(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.Response(body=b"x", headers={"Cache-Control": "max-age=60"})

    app = web.Application()
    app.router.add_get("/{any:.*}", image)
    async with nginx_before(app, tmp_path, assumed=Assumptions()) as front:
        spellings = (
            "/images/x/_/w_40-h_30.png",
            "/images/x.png?xsize=40&ysize=30",
            "/images/x?kind=PNG&h=30&w=40",
        )
        answers = [await front.ask(target) for target in spellings]

    assert [answer.cache for answer in answers] == ["MISS", "HIT", "HIT"]
    assert asked == ["/_c/images/x/_/w_40-h_30.png"]
