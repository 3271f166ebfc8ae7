"""Pitfalls of nginx as a cache, and the tests that fail should one come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from nginx import (
    test_cache,
    test_debian,
    test_end_to_end,
    test_hops,
    test_negotiation,
    test_queries,
    test_stale,
)
from nginx.harness import PATH, Front, Upstream, image, nginx_before

from image_repo.config import Config
from image_repo.transform.pool import Pool

HEADERS = {"Authorization": "Bearer x", "Cookie": "session=1"}


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest_asyncio.fixture
async def front(upstream: Upstream, tmp_path: Path) -> AsyncIterator[Front]:
    async with nginx_before(upstream.app, tmp_path) as front:
        yield front


async def test_one_request_that_every_server_drops_does_not_cost_the_others(
    tmp_path: Path,
) -> None:
    async def drop(request: web.Request, path: str) -> web.StreamResponse:
        if path.startswith("/images/bad"):
            assert request.transport is not None
            request.transport.abort()
        return await image(request, path)

    async with nginx_before(Upstream(drop).app, tmp_path, 2) as front:
        bad = [await front.ask(f"/images/bad{n}/_/w_4.webp") for n in range(9)]
        good = [await front.ask(f"/images/a{n}/_/w_4.webp") for n in range(9)]
        front_hop = [await front.ask("/healthz") for _ in range(9)]

    assert {a.status for a in bad} == {502}
    assert {a.status for a in (*good, *front_hop)} == {200}


@pytest.mark.parametrize(
    "target", ["/images/a?w=400", "/images/a?w=0400", "/images/a.webp?w=400", PATH]
)
async def test_no_query_comes_along_to_the_cached_hop(
    front: Front, upstream: Upstream, target: str
) -> None:
    answer = await front.ask(target)

    assert answer.status == 200
    assert upstream.hops == ["/_c" + PATH]


async def test_what_one_client_may_see_is_what_all_do(
    front: Front, upstream: Upstream
) -> None:
    first = await front.ask(headers=HEADERS)
    second = await front.ask()
    third = await front.ask(headers=HEADERS)

    assert [a.cache for a in (first, second, third)] == ["MISS", "HIT", "HIT"]
    assert not set(HEADERS) & set(upstream.asked[0].headers)


async def test_what_needs_a_credential_is_never_kept(tmp_path: Path) -> None:
    asked: list[str | None] = []

    async def tell(request: web.Request) -> web.Response:
        asked.append(request.headers.get("Authorization"))
        headers = {"Cache-Control": "public, max-age=600", "X-Accel-Expires": "600"}
        return web.Response(text=str(asked[-1]), headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", tell)
    async with nginx_before(app, tmp_path) as front:
        for target in ("/images", "/images/a/_/info.json", "/readyz"):
            private = await front.ask(target, headers=HEADERS)
            public = await front.ask(target)
            assert (private.body, public.body) == (b"Bearer x", b"None")


@pytest.mark.parametrize(
    "named",
    ["Cache-Control", "Content-Disposition", "ETag", "Link", "Content-Location"],
)
async def test_a_header_of_the_servers_redirect_is_not_added_to_the_images(
    pool: Pool, named: str
) -> None:
    async with test_end_to_end.site(Config(), pool) as served:
        await served.put((9, 9, 9))
        alias = await served.front.ask("/images/x.png?xsize=040")
        direct = await served.front.ask(test_end_to_end.HOT)

    assert len(served.asked) > 2  # the alias has gone by the server
    assert alias.headers.getall(named, []) == direct.headers.getall(named, [])


async def test_connections_are_kept_on_both_hops(tmp_path: Path) -> None:
    peers = set()

    async def tell(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(status=404, headers={"X-Accel-Expires": "0"})

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", tell)
    async with nginx_before(app, tmp_path, 2) as front:
        for _ in range(20):
            await front.ask()
            await front.ask("/images")
            await asyncio.sleep(0)

    assert len(peers) < 40


Test = Callable[..., object]

PITFALLS: dict[str, tuple[Test, ...]] = {
    "a query read as nginx does: in any case, undecoded, the first, cut at #": (
        test_hops.test_an_odd_url_is_answered_as_by_the_bare_server_and_spoils_nothing,
        test_queries.test_all_else_is_the_servers,
        test_queries.test_what_nginx_chooses_is_what_the_server_says,
    ),
    "a request or header split by %0d%0a": (
        test_hops.test_encoded_line_ends_never_split_a_request,
    ),
    "a map with captures that takes $1 away": (
        test_queries.test_a_plain_url_goes_to_its_canonical_path,
    ),
    "a rewrite that takes the query along": (
        test_no_query_comes_along_to_the_cached_hop,
    ),
    "a lock shorter than a derivation": (
        test_cache.test_the_lock_outlasts_a_derivation_of_more_than_five_seconds,
    ),
    "stale answers of any age, after a purge, and late by tcp_nopush": (
        test_stale.test_nobody_gets_an_expired_entry_that_was_purged,
        test_stale.test_what_a_refresh_leaves_is_not_given_while_it_is_renewed,
        test_debian.test_a_hit_is_given_at_once_although_tcp_nopush_is_on,
    ),
    "a 404 that leaves the old entry in its place": (
        test_cache.test_absence_is_kept_ten_seconds_and_takes_the_old_entrys_place,
    ),
    "errors kept for their Cache-Control": (
        test_cache.test_cache_control_alone_never_keeps_an_error,
    ),
    "what may not be kept, and headers that a 304 does not renew": (
        test_cache.test_an_image_that_may_not_be_kept_is_not,
        test_cache.test_an_expired_entry_is_revalidated_by_its_etag,
    ),
    "several files of one key by Vary": (
        test_cache.test_the_servers_vary_and_cookies_neither_split_nor_prevent_an_entry,
    ),
    "a purge that refreshes nothing": (
        test_end_to_end.test_a_purge_makes_nginx_ask_again,
    ),
    "a HEAD that leaves an entry without a body": (
        test_cache.test_head_then_get_gives_the_whole_body,
    ),
    "max_fails, and writes that are tried again": (
        test_one_request_that_every_server_drops_does_not_cost_the_others,
        test_cache.test_a_server_that_drops_requests_is_asked_again_at_once,
    ),
    "proxy_set_header that loses what it would inherit": (
        test_connections_are_kept_on_both_hops,
        test_hops.test_the_front_hop_passes_the_clients_request_on,
    ),
    "headers of an X-Accel-Redirect that are added, a Vary that is lost": (
        test_a_header_of_the_servers_redirect_is_not_added_to_the_images,
        test_negotiation.test_the_choice_is_the_same_with_and_without_nginx,
    ),
    "answers to credentials that are kept": (
        test_what_one_client_may_see_is_what_all_do,
        test_what_needs_a_credential_is_never_kept,
        test_hops.test_the_cached_hop_gets_nothing_of_the_clients,
    ),
    "dot segments and %2F that are decoded": (
        test_hops.test_an_odd_url_is_answered_as_by_the_bare_server_and_spoils_nothing,
    ),
}
"""Each that was seen, and what would show it."""


@pytest.mark.parametrize("pitfall", PITFALLS)
def test_each_pitfall_has_tests_that_are_run(pitfall: str) -> None:
    for one in PITFALLS[pitfall]:
        assert one.__name__.startswith("test_")
