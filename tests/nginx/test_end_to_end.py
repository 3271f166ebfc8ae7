"""The whole thing: nginx, the server, its workers, a directory."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

import pytest
import pytest_asyncio
from aiohttp import web
from cloud.cluster import Cloud
from nginx.harness import (
    SECRET,
    Front,
    ask,
    ask_bytes,
    free_port,
    nginx,
    serving,
    settings,
)
from nginx.test_hops import ODD
from pictures import colour, decode, encode, jpeg
from PIL import Image
from servers import on_swift

from image_repo import assemble, names
from image_repo.assumptions import Assumptions
from image_repo.config import Config
from image_repo.nginx import settings as settings_of
from image_repo.quota import Bounds
from image_repo.shelf import Shelf
from image_repo.storage import open_storage
from image_repo.transform.pool import Pool
from image_repo.web.app import make_app
from image_repo.web.errors import Handler

HOT = "/images/x/_/w_40.png"
ALIAS = "/images/x.png?xsize=40"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n0\r\n"
COLOURS = [(16 * n, 255 - 16 * n, 99) for n in range(16)]


@dataclass
class Site:
    front: Front
    asked: list[str]
    """Raw paths that reached the server, over both hops."""
    config: Config
    environ: Mapping[str, str]

    async def put(self, shade: tuple[int, ...], target: str = "/images/x") -> int:
        body = encode(Image.new("RGB", (60, 60), shade), "PNG")
        return (await self.front.ask(target, "PUT", body=body)).status

    async def levels(self, part: str) -> set[str]:
        """Return which levels but memory have anything of x with *part* in its key."""
        cache, image = self.config.cache_directory, names.image_name("x")
        found = set()
        for name in ("derived", "originals", "intermediates"):
            async with Shelf(cache / name, Bounds(2**40, 10**6, 0)) as shelf:
                found |= {name for key in await shelf.keys(image) if part in key}
        async with open_storage(self.config, self.environ) as storage:
            stored = storage.derived.list(names.derived_prefix(image))
            return found | {"store" async for key in stored if part in key}

    async def seen(self, target: str = HOT) -> tuple[int, int, int]:
        answer = await self.front.ask(target)
        assert answer.status == 200, answer
        return colour(decode(answer.body), (9, 9))


@asynccontextmanager
async def site(
    config: Config,
    pool: Pool,
    user: str = "",
    written_for: Config | None = None,
    environ: Mapping[str, str] = os.environ,
    assumed: Assumptions | None = None,
) -> AsyncIterator[Site]:
    """Nginx as *user*, if root starts it, before the server as it is.

    *written_for*: the configuration whose recipe nginx has, if not the server's.
    *assumed*: what nginx takes for granted, if not what the server's says.
    """
    directory = Path(tempfile.mkdtemp(prefix="image-repo-test."))
    directory.chmod(0o755)
    asked: list[str] = []

    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        asked.append(request.raw_path)
        return await handler(request)

    listen = f"127.0.0.1:{free_port()}"
    config = replace(
        config,
        data=str(directory / "data"),
        behind_nginx=True,
        nginx=replace(config.nginx, listen=listen, cache_path=str(directory / "cache")),
    )
    async with AsyncExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        room = await stack.enter_async_context(
            assemble.open_room(config, pool, environ)
        )
        app = make_app(room)
        app.middlewares.append(note)
        port = await stack.enter_async_context(serving(app))
        chosen = replace(settings_of(config, directory), upstream=f"127.0.0.1:{port}")
        if written_for is not None:
            chosen = replace(chosen, recipe=written_for.settings_recipe)
        if assumed is not None:
            chosen = replace(chosen, assumed=assumed)
        if user and os.geteuid() == 0:
            chosen = replace(chosen, user=user)
        front = await stack.enter_async_context(nginx(chosen))
        yield Site(front, asked, config, environ)


@pytest_asyncio.fixture(params=["unlink", "refresh", "swift"])
async def served(request: pytest.FixtureRequest, pool: Pool) -> AsyncIterator[Site]:
    """With either way of purging, and on Swift.

    An nginx of another user can't be purged but by asking it.
    """
    way: str = request.param
    config = Config()
    if way == "swift":
        cloud: Cloud = request.getfixturevalue("cloud")
        async with site(on_swift(config), pool, environ=cloud.environment) as made:
            yield made
        return
    config = replace(
        config,
        nginx=replace(config.nginx, purge=way),
        http=replace(config.http, refresh_secret=SECRET if way == "refresh" else ""),
    )
    user = "www-data" if way == "refresh" else ""
    async with site(config, pool, user) as made:
        yield made


async def test_a_second_request_is_answered_by_nginx_alone(served: Site) -> None:
    await served.put((9, 9, 9))
    first = await served.front.ask(HOT)
    before = list(served.asked)

    second = await served.front.ask(HOT)

    assert (first.cache, second.cache) == ("MISS", "HIT")
    assert second.body == first.body
    assert served.asked == before


async def test_every_spelling_shares_one_entry(served: Site, pool: Pool) -> None:
    await served.put((9, 9, 9))
    first = await served.front.ask(ALIAS)
    derivations = pool.derivations

    answers = [
        await served.front.ask(target)
        for target in (HOT, ALIAS, "/images/x?w=40&kind=PNG", "/images/%78.png?w=40")
    ]

    assert {answer.cache for answer in answers} == {"HIT"}
    assert {answer.body for answer in answers} == {first.body}
    assert pool.derivations == derivations


async def test_a_hit_answers_ranges_and_revalidation(served: Site) -> None:
    await served.put((9, 9, 9))
    whole = await served.front.ask(HOT)

    part = await served.front.ask(HOT, headers={"Range": "bytes=5-9"})
    known = await served.front.ask(
        HOT, headers={"If-None-Match": whole.headers["ETag"]}
    )
    head = await served.front.ask(HOT, "HEAD")

    assert (part.status, part.body) == (206, whole.body[5:10])
    assert (known.status, known.body) == (304, b"")
    assert head.headers["Content-Length"] == str(len(whole.body))
    assert {answer.cache for answer in (part, known, head)} == {"HIT"}


async def test_the_longest_name_is_served(served: Site) -> None:
    name = quote("\u00e9" * 350)
    assert await served.put((9, 9, 9), f"/images/{name}") == 201

    for target in (f"{name}/_/w_40.png", f"{name}.png?w=040", f"{name}.png?w=40"):
        answer = await served.front.ask(f"/images/{target}")
        assert (answer.status, target[-9:]) == (200, target[-9:])


async def test_a_thousand_first_requests_cause_one_derivation(
    served: Site, pool: Pool
) -> None:
    await served.front.ask("/images/x", "PUT", body=jpeg(1600, 1200))
    derivations = pool.derivations

    answers = await served.front.several(1000, "/images/x/_/w_700.webp")

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert pool.derivations == derivations + 1


async def test_after_a_put_no_url_gives_an_old_pixel(served: Site) -> None:
    for shade in COLOURS:
        assert await served.put(shade) in {200, 201}

        assert await served.seen(HOT) == shade
        assert await served.seen(ALIAS) == shade


async def test_a_put_among_many_readers_is_seen_by_all_who_come_after(
    served: Site,
) -> None:
    """Readers hit, miss and revalidate while the image changes sixteen times."""
    await served.put(COLOURS[0])
    answered = 0
    done = False

    async def read(target: str) -> int:
        reads = 0
        while not done:
            floor = answered
            answer = await served.front.ask(target)
            for _ in range(5):  # a refreshed entry says where the new image is
                if answer.status == 302:
                    answer = await served.front.ask(answer.headers["Location"])
            assert answer.status == 200
            assert COLOURS.index(colour(decode(answer.body), (9, 9))) >= floor
            reads += 1
        return reads

    targets = [HOT, ALIAS, HOT, "/images/x/_/w_41.png"] * 2
    readers = [asyncio.create_task(read(target)) for target in targets]
    for number, shade in enumerate(COLOURS):
        assert await served.put(shade) == 200
        answered = number
        await asyncio.sleep(0.03)
    done = True

    reads = await asyncio.gather(*readers)

    assert min(reads) > 0  # nginx looks twice a second whether its lock is free
    assert sum(reads) > len(COLOURS)


async def test_after_a_delete_the_image_is_gone_and_can_come_back(
    served: Site,
) -> None:
    await served.put(COLOURS[1])
    await served.seen()

    deleted = await served.front.ask("/images/x", "DELETE")
    gone = [await served.front.ask(target) for target in (HOT, ALIAS, HOT)]
    again = await served.put(COLOURS[2])

    assert deleted.status == 204
    assert [answer.status for answer in gone] == [404, 404, 404]
    assert again == 201
    assert await served.seen() == COLOURS[2]


async def test_an_image_that_was_asked_for_too_early_is_there_once_uploaded(
    served: Site,
) -> None:
    assert (await served.front.ask(HOT)).status == 404
    body = encode(Image.new("RGB", (60, 60), COLOURS[3]), "PNG")

    posted = await served.front.ask("/images/x", "POST", body=body)

    assert posted.status == 201
    assert await served.seen() == COLOURS[3]


async def test_a_purge_makes_nginx_ask_again(served: Site) -> None:
    await served.put(COLOURS[4])
    await served.seen()

    purged = await served.front.ask("/images/x/_/purge", "POST")

    assert purged.status == 204
    again = await served.front.ask(HOT)
    assert again.cache in {"MISS", "EXPIRED"}


async def everywhere(served: Site, tag: str) -> list[str]:
    """Have sizes of x at every level, and return their paths."""
    front, versioned = served.front, f"/images/x/_/v_{tag}/w_41.png"
    targets = [HOT, ALIAS, versioned, "/images/x?w=42&kind=png"]
    for target in targets:
        assert (await front.ask(target)).status == 200
    await front.ask(f"{HOT}?url=True")  # what a link leads to is stored
    async with asyncio.timeout(10):
        while {"derived", "intermediates", "store"} - await served.levels(""):
            await asyncio.sleep(0.05)
    assert {(await front.ask(target)).cache for target in targets} == {"HIT"}
    return targets


@pytest.mark.parametrize("method", ["PUT", "DELETE", "POST"])
async def test_a_change_leaves_nothing_of_what_was_made_before_at_any_level(
    served: Site, method: str
) -> None:
    front, new = served.front, COLOURS[14]
    old, other = (jpeg_of(shade) for shade in (COLOURS[1], new))
    await front.ask("/images/x", "PUT", body=old)
    tag = json.loads((await front.ask("/images/x/_/info.json")).body)["tag"]
    targets = await everywhere(served, tag)
    sizes = [f"/images/x/_/w_{width}.png" for width in (*range(50, 60), 890)]
    under_way = [asyncio.create_task(front.ask(target)) for target in sizes]
    await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)

    target = "/images/x/_/purge" if method == "POST" else "/images/x"
    changed = await front.ask(target, method, body=other if method == "PUT" else b"")
    answers = (
        [] if method == "POST" else [await front.ask(target) for target in targets]
    )
    await asyncio.gather(*under_way)
    await asyncio.sleep(3)  # until all that is written late has been written

    assert changed.status in {200, 204}
    gone = [f"{tag}/w_{width}." for width in (40, 41, 42)]
    for part in gone if method == "POST" else [tag]:
        assert await served.levels(part) == set()
    if method == "DELETE":
        assert {answer.status for answer in answers} == {404}
    elif method == "PUT":
        hot, alias, versioned, query = answers
        assert versioned.status == 302
        for answer in (hot, alias, query):
            assert all(map(near, colour(decode(answer.body), (9, 9)), new))
    else:
        targets.remove(ALIAS)  # the same entry as another
        again = [await front.ask(target) for target in targets]
        assert "HIT" not in {answer.cache for answer in again}


def jpeg_of(shade: tuple[int, ...]) -> bytes:
    """Return an original that is worth an intermediate."""
    return encode(Image.new("RGB", (900, 600), shade), "JPEG", quality=92)


def near(a: int, b: int) -> bool:
    return abs(a - b) < 5


async def test_a_selection_comes_as_a_zip_and_one_match_as_itself(
    served: Site,
) -> None:
    for number, shade in enumerate(COLOURS[:4]):
        await served.put(shade, f"/images/some/{number}")
    await served.put(COLOURS[5], "/images/some/%C3%A9")

    chosen = await served.front.ask("/images/some/?w=20&kind=png&regex=%5B0-9%5D")
    one = await served.front.ask("/images/some?w=20&kind=png&regex=%C3%A9")
    again = await served.front.ask("/images/some/%C3%A9/_/w_20.png")

    assert chosen.headers["Content-Type"] == "application/zip"
    assert "X-Accel-Buffering" not in chosen.headers
    assert "Content-Length" not in chosen.headers
    with zipfile.ZipFile(io.BytesIO(chosen.body)) as found:
        assert found.testzip() is None
        shades = [colour(decode(found.read(f"some/{n}.png")), (9, 9)) for n in range(4)]
    assert shades == COLOURS[:4]
    assert colour(decode(one.body), (9, 9)) == COLOURS[5]
    assert (one.cache, again.cache) == ("MISS", "HIT")


async def test_an_upload_that_is_too_large_is_refused_with_a_reason(
    pool: Pool,
) -> None:
    config = Config()
    limits = replace(config.limits, upload_bytes=10_000)
    async with site(replace(config, limits=limits), pool) as small:
        for size in (20_000, 5_000_000):
            answer = await small.front.ask("/images/x", "PUT", body=b"x" * size)

            assert answer.status == 413
            assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /images/%zz/../../.. HTTP/1.1\r\nHost: x\r\n", 400),
        (b"GET /images/x HTTP/1.1\r\nHost: x y\r\n", 400),
        (b"GET /_c/images/x HTTP/1.1\r\nHost: x y\r\n", 400),
        (b"nonsense\r\n", 400),
        (b"TRACE /images/x HTTP/1.1\r\nHost: x\r\n", 405),
        (b"TRACE /_c/images/x HTTP/1.1\r\nHost: x\r\n", 405),
        (b"PUT /images/x HTTP/1.1\r\nHost: x\r\n", 411),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n" % (b"a" * 9000), 414),
        (b"GET /%s HTTP/1.1\r\nHost: x\r\n" % (b"a" * 20_000), 414),
        (b"GET /_c/%s HTTP/1.1\r\nHost: x\r\n" % (b"a" * 20_000), 414),
        (b"PUT /images/x HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n", 415),
        (b"PUT /images/x HTTP/1.1\r\nHost: x\r\n" + CHUNKED, 415),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX-Y: %s\r\n" % (b"a" * 20_000), 400),
        (b"GET /_problem HTTP/1.1\r\nHost: x\r\n", 400),
    ],
)
async def test_a_request_that_nginx_refuses_has_a_problem_too(
    served: Site, sent: bytes, status: int
) -> None:
    before = len(served.asked)

    answer = await ask_bytes(served.front.port, sent + b"\r\n")

    assert answer.status == status, answer
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert json.loads(answer.body)["status"] == status
    assert not any(path.startswith("/_c/") for path in served.asked[before:])


async def test_nothing_is_kept_under_the_keys_of_another_configuration(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    """A purge looks for other keys than such an nginx has."""
    stale = replace(Config(), render=replace(Config().render, quality_jpg=7))
    async with site(Config(), pool, written_for=stale) as late:
        for shade in COLOURS[:3]:
            await late.put(shade)
            assert await late.seen() == shade
            assert await late.seen() == shade

    assert caplog.text.count("nginx's keys are of another configuration") == 1
    assert "write its configuration again" in caplog.text


async def test_a_link_passes_nginx_which_keeps_neither_it_nor_its_query(
    pool: Pool,
) -> None:
    async with site(Config(), pool) as served:
        await served.put((9, 9, 9))
        front = served.front
        said = [
            await front.ask(target)
            for target in (f"{HOT}?url=True", f"{ALIAS}&url=True", f"{ALIAS}&url=True")
        ]
        assert {(answer.status, answer.cache) for answer in said} == {(200, None)}
        url = json.loads(said[0].body)["url"]

        followed = [await front.ask(url) for _ in range(2)]
        altered = await front.ask(url.replace("temp_url_sig=", "temp_url_sig=0"))

        assert {(answer.status, answer.cache) for answer in followed} == {(200, None)}
        assert decode(followed[0].body).size == (40, 40)
        for name in ("Content-Disposition", "Expires", "ETag"):
            assert followed[0].headers[name]
        assert (altered.status, altered.cache) == (401, None)
        log = front.directory / "image_repo.access.log"
        assert "temp_url_sig" not in log.read_text()


async def test_odd_urls_have_the_same_status_with_and_without_nginx(
    served: Site, pool: Pool, tmp_path: Path
) -> None:
    names = ["a", "a(b)", "a b", "é", "a%23", "a@2x+", "a,c;d=e:f&g!$'*", "x?y"]
    body = jpeg(90, 60)
    alone = replace(Config(), data=str(tmp_path / "alone"))
    async with (
        assemble.open_room(alone, pool) as room,
        serving(make_app(room)) as bare,
    ):
        for name in names:
            for port in (bare, served.front.port):
                put = await ask(port, "/images/" + quote(name), "PUT", body=body)
                assert put.status == 201
        canonical = [f"/images/{quote(name, safe='/@+')}/_/w_40.webp" for name in names]
        long = ("/images/" + "a" * 9000, "/images/a?w=" + "4" * 9000)
        for target in (*canonical, *ODD, *long):
            expected = await ask(bare, target)
            cold = await served.front.ask(target)
            warm = await served.front.ask(target)
            assert (target, cold.status) == (target, expected.status)
            assert (target, warm.status) == (target, expected.status)
            # A link has another key on each of the two servers.
            if expected.status == 200 and "url=" not in target:
                assert cold.body == warm.body == expected.body


def test_the_harness_makes_what_the_command_makes(tmp_path: Path) -> None:
    made = settings_of(Config(), tmp_path)

    assert (
        replace(
            settings(tmp_path),
            options=made.options,
            upstream=made.upstream,
            recipe=made.recipe,
            upload_bytes=made.upload_bytes,
            assumed=Assumptions(),
            secret="",
        )
        == made
    )
