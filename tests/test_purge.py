from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from nginx.harness import PATH, RECIPE, SECRET, Front, Upstream, nginx_before, problem

from image_repo.answered import Answered
from image_repo.errors import ConfigError
from image_repo.names import Tag, image_name
from image_repo.purge import (
    REFRESH_HEADER,
    NginxOptions,
    NoPurge,
    Purger,
    RefreshPurge,
    UnlinkPurge,
    cache_file,
    first_host,
    first_url,
    is_ours,
    make_purger,
)

NAME = image_name("a")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Noted:
    """A purge that keeps what it was given."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def forget(self, paths: Collection[str]) -> tuple[str, ...]:
        self.paths += paths
        return ()


# Which file


def test_a_cache_file_is_the_md5_of_recipe_and_decoded_path() -> None:
    name = hashlib.md5("r/images/é b/_/w_1.jpg".encode()).hexdigest()

    found = cache_file(Path("/c"), "r", "/images/%C3%A9%20b/_/w_1.jpg")

    assert found == Path("/c") / name[31] / name[29:31] / name


async def test_unlinking_what_is_not_there_is_no_fault(tmp_path: Path) -> None:
    assert await UnlinkPurge(tmp_path, "r").forget([PATH]) == ()


async def test_unlinking_says_what_is_left(tmp_path: Path) -> None:
    cache_file(tmp_path, "r", PATH).mkdir(parents=True)

    assert await UnlinkPurge(tmp_path, "r").forget([PATH, "/images/b"]) == (PATH,)


# What may be held


def test_an_answer_is_remembered_until_its_time() -> None:
    clock = Clock()
    answered = Answered(10, clock=clock)
    answered.note("a", "/1")
    clock.now = 6
    answered.note("a", "/2")
    answered.note("b", "/3")

    clock.now = 11

    assert answered.paths("a") == ("/2",)
    assert answered.paths("b") == ("/3",)
    assert answered.paths("c") == ()
    assert len(answered) == 2


def test_answering_again_renews_the_time() -> None:
    clock = Clock()
    answered = Answered(10, clock=clock)
    answered.note("a", "/1")
    clock.now = 6
    answered.note("a", "/1")

    clock.now = 11

    assert answered.paths("a") == ("/1",)


@pytest.mark.parametrize(("lifetime", "kept"), [(20, True), (5, True), (12, False)])
def test_a_lifetime_that_changes_never_shortens_what_is_remembered(
    lifetime: float, kept: bool
) -> None:
    clock = Clock()
    answered = Answered(10, clock=clock)
    answered.keep_for(lifetime)
    answered.note("a", "/1")

    clock.now = 9 if lifetime == 5 else 13

    assert answered.paths("a") == (("/1",) if kept else ())


@given(
    notes=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123456"))),
    limit=st.integers(0, 4),
)
def test_the_latest_answers_are_remembered_and_never_more_than_the_limit(
    notes: list[tuple[str, str]], limit: int
) -> None:
    answered = Answered(10, limit, clock=Clock())
    for image, path in notes:
        answered.note(image, path)

    latest = list(dict.fromkeys(reversed(notes)))[:limit]

    assert len(answered) == len(latest)
    for image in "ab":
        assert set(answered.paths(image)) == {p for i, p in latest if i == image}


# What is purged


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([], []),
        (["w_1.jpg"], ["w_1.jpg"]),
        (["a/_/w_1.jpg"], ["w_1.jpg"]),
        (["a/_/old/w_1.jpg"], ["w_1.jpg", "v_old/w_1.jpg"]),
        (["a/_/new/w_1.jpg"], ["w_1.jpg"]),
        (["w_1.jpg", "a/_/w_1.jpg"], ["w_1.jpg"]),
        (["a/_/old/metadata-1.json"], []),  # no path leads there
    ],
)
async def test_what_the_caches_held_is_purged(
    made: Iterable[str], expected: list[str]
) -> None:
    noted = Noted()

    await Purger(noted, Answered(10)).purge(NAME, made, Tag("new"))

    assert noted.paths == [f"/images/a/_/{text}" for text in expected]


async def test_what_was_answered_is_purged_but_for_the_present_tag() -> None:
    noted = Noted()
    purger = Purger(noted, Answered(10))
    for path in ("/images/a/_/w_1.jpg", "/images/a/_/v_old/x", "/images/a/_/v_new/x"):
        purger.answered(NAME, path)
    purger.answered(image_name("a/b"), "/images/a/b/_/w_1.jpg")

    await purger.purge(NAME, [], Tag("new"))
    await purger.purge(NAME, [], None)

    assert noted.paths == [
        "/images/a/_/w_1.jpg",
        "/images/a/_/v_old/x",
        "/images/a/_/w_1.jpg",
        "/images/a/_/v_old/x",
        "/images/a/_/v_new/x",
    ]


async def test_paths_are_quoted_as_canonical_ones() -> None:
    noted = Noted()

    await Purger(noted, Answered(10)).purge(image_name("é b"), ["full.jpg"])

    assert noted.paths == ["/images/%C3%A9%20b/_/full.jpg"]


# Which way


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("*:8080", "http://127.0.0.1:8080"),
        ("8080", "http://127.0.0.1:8080"),
        ("[::]:81 10.0.0.1:82", "http://[::1]:81"),
        ("10.0.0.1:82 *:80", "http://10.0.0.1:82"),
    ],
)
def test_nginx_is_reached_at_the_first_place_it_listens(listen: str, url: str) -> None:
    assert first_url(listen) == url


@pytest.mark.parametrize(
    ("names", "host"),
    [
        ("_", ""),
        ("img.example.org", "img.example.org:8080"),
        ("_ *.example.org img.example.org x", "img.example.org:8080"),
        ("*.example.org", "image-repo.example.org:8080"),
        (".example.org", "example.org:8080"),
        ("img.*", "img.image-repo:8080"),
    ],
)
def test_nginx_is_called_by_a_name_that_it_answers_to(names: str, host: str) -> None:
    assert first_host(names, "http://127.0.0.1:8080") == host
    assert first_host(names, "http://127.0.0.1:80") == host.removesuffix(":8080")
    assert first_host(names, "https://[::1]") == host.removesuffix(":8080")


async def _way(options: NginxOptions, secret: str = "", *, behind: bool = True) -> type:
    made = make_purger(options, behind=behind, recipe="r", secret=secret, lifetime=1)
    async with made as purger:
        return type(purger._way)


async def test_files_are_unlinked_where_they_are_ours(tmp_path: Path) -> None:
    there = NginxOptions(cache_path=str(tmp_path))
    to_come = NginxOptions(cache_path=str(tmp_path / "cache"))

    assert await _way(there) is UnlinkPurge
    assert await _way(there, SECRET) is UnlinkPurge
    assert await _way(to_come) is UnlinkPurge


async def test_nginx_is_refreshed_where_files_are_not_ours() -> None:
    options = NginxOptions(cache_path="/proc/no/such")

    assert await _way(options, SECRET) is RefreshPurge


async def test_nginx_is_refreshed_where_nobody_knows_whose_its_files_will_be(
    tmp_path: Path,
) -> None:
    to_come = NginxOptions(cache_path=str(tmp_path / "cache"))

    assert await _way(to_come, SECRET) is RefreshPurge


async def test_nothing_is_purged_without_nginx_or_where_that_is_chosen(
    tmp_path: Path,
) -> None:
    ours = NginxOptions(cache_path=str(tmp_path))

    assert await _way(ours, behind=False) is NoPurge
    assert await _way(replace(ours, purge="none")) is NoPurge
    assert await NoPurge().forget([PATH]) == (PATH,)


async def test_a_server_that_could_not_purge_nginx_does_not_start() -> None:
    with pytest.raises(ConfigError, match=r"nginx\.purge.*http\.refresh_secret"):
        await _way(NginxOptions(cache_path="/proc/no/such"))


async def test_a_refresh_needs_a_secret(tmp_path: Path) -> None:
    options = NginxOptions(cache_path=str(tmp_path), purge="refresh")

    assert await _way(options, SECRET) is RefreshPurge
    with pytest.raises(ConfigError, match="no secret"):
        await _way(options)


def test_a_directory_below_the_cache_that_is_closed_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert is_ours(tmp_path)
    assert not is_ours(Path("/proc/self"))
    assert not is_ours(Path("/proc/no/such"))


# With a real nginx


class Images:
    """A server with one image that can be replaced or deleted, and tombstones."""

    def __init__(self) -> None:
        self.body: bytes | None = b"old"
        self.seconds = 0.0
        self.count = 0

    async def __call__(self, request: web.Request, _: str) -> web.StreamResponse:
        body = self.body
        if request.headers.get(REFRESH_HEADER) == SECRET:
            if body is None:
                return problem(404, "@1")
            return problem(302, "@1", Location="/images/a/_/v_0123456789abcdef/x.jpg")
        self.count += 1
        await asyncio.sleep(self.seconds)
        if body is None:
            return problem(404)
        return web.Response(
            body=body, headers={"Cache-Control": "s-maxage=600", "ETag": f'"{body!r}"'}
        )


async def _forget(front: Front, way: str, paths: Collection[str]) -> tuple[str, ...]:
    if way == "unlink":
        return await UnlinkPurge(front.cache, RECIPE).forget(paths)
    async with aiohttp.ClientSession() as session:
        return await RefreshPurge(front.url, SECRET, session).forget(paths)


WAYS = pytest.mark.parametrize("way", ["unlink", "refresh"])


@WAYS
@pytest.mark.parametrize(
    "name", ["a", "%C3%A9%20b", "a%2525", "a%28b%29", "x%3Fy", "@2x+"]
)
async def test_after_a_purge_a_replaced_image_is_new(
    tmp_path: Path, way: str, name: str
) -> None:
    path, images = f"/images/{name}/_/w_400.webp", Images()
    async with nginx_before(Upstream(images).app, tmp_path) as front:
        before = [await front.ask(path) for _ in range(2)]
        images.body = b"new"
        still = await front.ask(path)
        left = await _forget(front, way, [path])
        after = [await front.ask(path) for _ in range(2)]

    assert [a.body for a in (*before, still)] == [b"old"] * 3
    assert left == ()
    assert [(a.status, a.body) for a in after] == [(200, b"new")] * 2
    assert after[1].cache == "HIT"
    assert images.count == 2


@WAYS
async def test_after_a_purge_a_deleted_image_is_gone(tmp_path: Path, way: str) -> None:
    images = Images()
    async with nginx_before(Upstream(images).app, tmp_path) as front:
        await front.ask()
        images.body = None
        left = await _forget(front, way, [PATH])
        after = await front.ask()

    assert left == ()
    assert after.status == 404


@WAYS
async def test_a_crowd_after_a_purge_sees_nothing_old(tmp_path: Path, way: str) -> None:
    images = Images()
    async with nginx_before(Upstream(images).app, tmp_path) as front:
        await front.ask()
        images.body, images.seconds = b"new", 0.3
        await _forget(front, way, [PATH])
        answers = await front.several(20)

    # At a missing file nginx asks once, at an expired tombstone for each; there the
    # server makes one derivation of them.
    assert images.count == (2 if way == "unlink" else 21)
    assert {(a.status, a.body) for a in answers} == {(200, b"new")}


@WAYS
async def test_purging_what_nginx_does_not_hold_is_no_fault(
    tmp_path: Path, way: str
) -> None:
    paths = [f"/images/a/_/w_{n}.webp" for n in range(1, 40)]
    async with nginx_before(Upstream(Images()).app, tmp_path) as front:
        assert await _forget(front, way, paths) == ()


async def test_a_wrong_secret_purges_nothing_and_is_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = Images()
    async with nginx_before(Upstream(images).app, tmp_path) as front:
        await front.ask()
        async with aiohttp.ClientSession() as session:
            purge = RefreshPurge(front.url, SECRET.upper(), session)
            left = await purge.forget([PATH])
        after = await front.ask()

    assert left == (PATH,)
    assert after.cache == "HIT"
    assert "did not take the secret" in caplog.text
    assert SECRET.upper() not in caplog.text


async def test_without_a_secret_nobody_passes_the_cache(tmp_path: Path) -> None:
    async with nginx_before(Upstream(Images()).app, tmp_path, secret="") as front:
        await front.ask()
        for given_ in ("", "1", SECRET):
            assert (await front.ask(headers={REFRESH_HEADER: given_})).cache == "HIT"


async def test_an_nginx_that_is_away_or_slow_leaves_its_paths(tmp_path: Path) -> None:
    async def slow(*_: object) -> web.StreamResponse:
        await asyncio.sleep(1)
        return problem(404, "@1")

    async with (
        nginx_before(Upstream(slow).app, tmp_path) as front,
        aiohttp.ClientSession() as session,
    ):
        away = RefreshPurge("http://127.0.0.1:9", SECRET, session)
        assert await away.forget([PATH]) == (PATH,)
        late = RefreshPurge(front.url, SECRET, session, seconds=0.1)
        assert await late.forget([PATH]) == (PATH,)


async def test_a_server_that_fails_at_a_refresh_leaves_the_path(tmp_path: Path) -> None:
    async def fail(*_: object) -> web.StreamResponse:
        return web.Response(status=500)

    async with nginx_before(Upstream(fail).app, tmp_path) as front:
        assert await _forget(front, "refresh", [PATH]) == (PATH,)
