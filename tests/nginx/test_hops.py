from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from nginx.harness import (
    ASSUMED,
    PATH,
    RECIPE,
    SECRET,
    Front,
    Upstream,
    ask,
    ask_bytes,
    nginx_before,
    problem,
    serving,
)

ODD = (
    PATH + "?w=999",
    PATH + "?",
    PATH + "#?w=5",
    PATH + "#",
    PATH + "?url=True",
    "/images/zz/../a/_/w_400.webp",
    "/images/./a/_/w_400.webp",
    "/images/zz/%2e%2e/a/_/w_400.webp",
    "/images/zz/%2E%2E/a/_/w_400.webp",
    "/images//a/_/w_400.webp",
    "//images/a/_/w_400.webp",
    "/images/a%2F_/w_400.webp",
    "/images/a%2f_%2fw_400.webp",
    "/images%2Fa/_/w_400.webp",
    "/%69mages/a/_/w_400.webp",
    "/images/%61/_/w_400.webp",
    "/images/a/%5F/w_400.webp",
    "/images/a/_/w%5F400.webp",
    "/images/a/_/w_400%2Ewebp",
    "/images/a/_/w_0400.webp",
    "/images/a/_/W_400.webp",
    "/images/a/_/_/w_400.webp",
    "/images/_/w_400.webp",
    "/images/_/_/w_400.webp",
    "/images/a/_/w_400.webp/",
    "/images/a/_/w_400.webp%0d%0aX-Odd:%201",
    "/images/a%0d%0a/_/w_400.webp",
    "/images/a%00/_/w_400.webp",
    "/images/a%FF/_/w_400.webp",
    "/images/a%zz/_/w_400.webp",
    "/images/a%/_/w_400.webp",
    "/images/a?w=400",
    "/images/a?w=400&w=5",
    "/images/a?W=400",
    "/images/a?%77=400",
    "/images/a?w=400#?w=5",
    "/images/a%3Fw=5/_/w_400.webp",
    "/images/a%23/_/w_400.webp",
    "/images/a%2523/_/w_400.webp",
    "/images/a%252F/_/w_400.webp",
    "/images/a%252e%252e/_/w_400.webp",
    "/images/a(b),c;d=e:f&g!$'*/_/w_400.webp",
    "/images/a%28b%29/_/w_400.webp",
    "/images/a%20b/_/w_400.webp",
    "/images/a%22%3C%3E%5C%5E%60%7B%7C%7D/_/w_400.webp",
    "/images/a+b@2x/_/w_400.webp",
    "/images/d%C3%A9j%c3%a0/_/w_400.webp",
    "/images/a|b/_/w_400.webp",
    "/_c/images/a/_/w_400.webp",
    "/_c//images/a/_/w_400.webp",
    "/_c/../images/a/_/w_400.webp",
    "/images/../_c/images/a/_/w_400.webp",
    "/%5Fc/images/a/_/w_400.webp",
    "//_c/images/a/_/w_400.webp",
    "/_c",
    "/_c/",
    "/_c?w=1",
    "/",
    "/images",
    "/nothing",
    "/../images/a/_/w_400.webp",
)


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest_asyncio.fixture(params=[1, 2], ids=["one server", "several servers"])
async def front(
    request: pytest.FixtureRequest, upstream: Upstream, tmp_path: Path
) -> AsyncIterator[Front]:
    async with nginx_before(upstream.app, tmp_path, request.param) as front:
        yield front


async def test_a_canonical_path_goes_to_the_cached_hop_and_is_kept(
    front: Front, upstream: Upstream
) -> None:
    first, second = await front.ask(), await front.ask()

    assert (first.status, first.cache) == (200, "MISS")
    assert (second.status, second.cache) == (200, "HIT")
    assert first.body == second.body == b"bytes of " + PATH.encode()
    assert second.headers["Link"] == f'<{PATH}>; rel="canonical"'
    assert [a.target for a in upstream.asked] == ["/_c" + PATH]


async def test_an_alias_shares_the_entry_of_its_canonical_path(
    front: Front, upstream: Upstream
) -> None:
    aliases = ["/images/a?w=400", "/images/a?w=0400", "/images/%61?w=400"]

    cold = await front.ask(aliases[0])
    warm = [await front.ask(alias) for alias in [*aliases, PATH]]

    assert cold.cache == "MISS"
    assert {(a.cache, a.status, a.body) for a in warm} == {("HIT", 200, cold.body)}
    assert upstream.hops == ["/_c" + PATH]


async def test_a_versioned_path_is_hot_too(front: Front, upstream: Upstream) -> None:
    await front.ask("/images/a/_/v_0123456789abcdef/w_400.webp")

    # the stand-in has no versions: what counts is which hop it came by
    assert len(upstream.hops) == 1
    assert len(upstream.asked) == 1


@pytest.mark.parametrize(
    "name",
    ["a%20b", "d%C3%A9j%C3%A0", "a%25", "a%2523", "a%3Fb", "a%22%5C", "a+b@2x", "a(b)"],
)
async def test_every_name_is_kept_under_the_md5_of_its_decoded_path(
    front: Front, upstream: Upstream, name: str
) -> None:
    path = f"/images/{name}/_/w_5.webp"

    first, second = await front.ask(path), await front.ask(path)

    assert (first.status, second.cache) == (200, "HIT")
    assert first.body == second.body
    assert front.cache_file(path).is_file()
    # a name that quote() spells otherwise comes by its alias, and then by itself
    assert len(set(upstream.hops)) == 1


@pytest.mark.parametrize("target", ODD)
@pytest.mark.parametrize("times", [1, 2], ids=["one server", "several servers"])
async def test_an_odd_url_is_answered_as_by_the_bare_server_and_spoils_nothing(
    tmp_path: Path, target: str, times: int
) -> None:
    async with (
        serving(Upstream(behind=False).app) as bare,
        nginx_before(Upstream().app, tmp_path, times) as front,
    ):
        expected = await ask(bare, target)
        good = await ask(bare, PATH)

        cold = await front.ask(target)
        entry = await front.ask(PATH)
        warm = await front.ask(target)

    assert (cold.status, warm.status) == (expected.status, expected.status)
    if expected.status == 200:
        assert cold.body == warm.body == expected.body
    assert (entry.status, entry.body) == (200, good.body)
    assert not {"X-Odd"} & set(cold.headers)


async def test_the_cached_hop_gets_nothing_of_the_clients(
    front: Front, upstream: Upstream
) -> None:
    headers = {
        "Accept": "image/avif",
        "Authorization": "Bearer x",
        "Cookie": "a=b",
        "If-None-Match": '"z"',
        "Range": "bytes=0-1",
        "X-Image-Repo-Refresh": "wrong-secret-wrong-secret",
        "X-Image-Repo-Recipe": "mine",
        "X-Forwarded-For": "6.6.6.6",
    }

    await front.ask(PATH, headers=headers)
    await front.ask("/images/b?w=1", headers=headers)

    hops = [a for a in upstream.asked if a.target.startswith("/_c/")]
    assert [a.target for a in hops] == ["/_c" + PATH, "/_c/images/b/_/w_1.webp"]
    for hop in hops:
        assert dict(hop.headers) == {
            "Host": "image_repo",
            "X-Image-Repo-Recipe": RECIPE,
            "X-Image-Repo-Assumes": str(ASSUMED),
        }


async def test_a_body_on_a_get_does_not_reach_the_cached_hop(
    front: Front, upstream: Upstream
) -> None:
    smuggled = b"GET /_c/images/b/_/w_1.webp HTTP/1.1\r\nHost: x\r\n\r\n"

    answer = await front.ask(PATH, body=smuggled)

    assert answer.status == 200
    assert [(a.target, a.body) for a in upstream.asked] == [
        (PATH, smuggled),
        ("/_c" + PATH, b""),
    ]


@pytest.mark.parametrize(
    "target",
    [
        "/images/a%0d%0aHost:%20x%0d%0a%0d%0aGET%20/_c/images/b/_/w_1.webp",
        "/images/a/_/w_1.webp%20HTTP/1.1%0d%0aX-Odd:%201%0d%0a",
        "/images/a?w=1%0d%0aX-Odd:%201",
    ],
)
async def test_encoded_line_ends_never_split_a_request(
    front: Front, upstream: Upstream, target: str
) -> None:
    answer = await front.ask(target)

    assert answer.status == 400
    assert [a.target for a in upstream.asked] == [target]
    assert "X-Odd" not in answer.headers
    assert "X-Odd" not in upstream.asked[0].headers


async def test_two_lengths_of_a_body_are_refused(
    front: Front, upstream: Upstream
) -> None:
    sent = (
        b"POST /images/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"0\r\n\r\nGET /images/b HTTP/1.1\r\nHost: x\r\n\r\n"
    )

    answer = await ask_bytes(front.port, sent)

    assert answer.status == 400
    assert upstream.asked == []


async def test_the_front_hop_passes_the_clients_request_on(
    front: Front, upstream: Upstream
) -> None:
    await front.ask(
        "/images/x",
        "POST",
        {"Origin": "http://o", "X-Image-Repo-Refresh": SECRET, "Content-Type": "a/b"},
        body=b"abc",
    )

    (asked,) = upstream.asked
    assert (asked.method, asked.target, asked.body) == ("POST", "/images/x", b"abc")
    assert asked.headers["Host"] == f"localhost:{front.port}"
    assert asked.headers["Origin"] == "http://o"
    assert asked.headers["X-Forwarded-For"] == "127.0.0.1"
    assert asked.headers["X-Forwarded-Proto"] == "http"
    # a close would cost a connection for each request
    assert not {"X-Image-Repo-Refresh", "Connection"} & set(asked.headers)


@pytest.mark.parametrize(
    ("line", "host", "expected"),
    [
        ("/nothing", "img.example.org:81", "img.example.org:81"),
        ("/nothing", "IMG.example.org", "IMG.example.org"),
        ("/nothing", "[::1]:81", "[::1]:81"),
        ("http://real.example/nothing", "other.example", "real.example"),
    ],
)
async def test_the_server_learns_the_host_with_its_port(
    front: Front, upstream: Upstream, line: str, host: str, expected: str
) -> None:
    sent = f"GET {line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"

    await ask_bytes(front.port, sent.encode())

    assert upstream.asked[0].headers["Host"] == expected
    assert upstream.asked[0].target == "/nothing"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_writing_to_a_canonical_path_goes_to_the_server(
    front: Front, upstream: Upstream, method: str
) -> None:
    await front.ask(PATH, method, body=b"abc" if method != "DELETE" else b"")

    assert [(a.method, a.target) for a in upstream.asked] == [(method, PATH)]


async def test_a_post_to_a_path_that_comes_down_to_the_hop_keeps_its_body(
    front: Front, upstream: Upstream
) -> None:
    target = "/x/../_c/images/a/_/w_1.webp"

    answer = await front.ask(target, "POST", body=b"abc")

    assert answer.status == 404
    (asked,) = upstream.asked
    assert (asked.method, asked.target, asked.body) == ("POST", target, b"abc")


async def test_uploads_are_streamed_and_the_server_judges_their_size(
    front: Front, upstream: Upstream
) -> None:
    fits = b"x" * (front.settings.upload_bytes + 1000)

    judged = await front.ask("/images/x", "PUT", body=fits)
    refused = await front.ask("/images/x", "PUT", {"Content-Length": "9999999"})

    assert judged.status == 201
    assert upstream.asked[0].body == fits
    assert refused.status == 413
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert list((front.directory / "body").iterdir()) == []


async def test_an_upload_reaches_the_server_while_it_is_being_sent(
    tmp_path: Path,
) -> None:
    begun = asyncio.Event()

    async def receive(request: web.Request) -> web.Response:
        begun.set()
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_put("/images/x", receive)
    head = b"PUT /images/x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
    async with nginx_before(app, tmp_path) as front:
        reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
        writer.write(head + b"ab")
        await asyncio.wait_for(begun.wait(), 5)
        writer.write(b"cd")
        answer = await reader.readuntil(b"abcd")
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200")


async def test_health_passes_and_is_never_kept(
    front: Front, upstream: Upstream
) -> None:
    answers = [await front.ask("/healthz") for _ in range(2)]

    assert [(a.status, a.cache) for a in answers] == [(200, None)] * 2
    assert len(upstream.asked) == 2


async def test_a_server_that_is_away_is_a_problem_in_json(tmp_path: Path) -> None:
    async with nginx_before(Upstream().app, tmp_path, upstream="127.0.0.1:9") as front:
        for target in (PATH, "/images/a?w=400"):
            answer = await front.ask(target)
            assert answer.status == 502
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"


async def test_headers_are_given_once_whoever_sets_them(tmp_path: Path) -> None:
    async def answer(*_: object) -> web.StreamResponse:
        return problem(
            404,
            **{
                "X-Content-Type-Options": "nosniff",
                "Access-Control-Allow-Origin": "https://only.example",
            },
        )

    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        found = (await front.ask()).headers

    assert found.getall("X-Content-Type-Options") == ["nosniff"]
    assert found.getall("Access-Control-Allow-Origin") == ["https://only.example"]
    assert found.getall("Cross-Origin-Resource-Policy") == ["cross-origin"]
    assert found.getall("Timing-Allow-Origin") == ["*"]
    assert "nginx/" not in found["Server"]


async def test_only_images_may_be_read_by_pages_of_other_origins(front: Front) -> None:
    picture, listing = await front.ask(), await front.ask("/healthz")

    assert picture.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Origin" not in listing.headers
    assert listing.headers["X-Content-Type-Options"] == "nosniff"
