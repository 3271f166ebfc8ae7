"""What the guide says of purging, watching and several machines, as it says it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import tracemalloc
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web
from nginx.guide import TEXT, block, plain, replaced
from nginx.harness import (
    PATH,
    SECRET,
    Front,
    Upstream,
    ask,
    nginx,
    nginx_before,
    nginx_from,
    serving,
    settings,
)
from nginx.test_end_to_end import COLOURS, HOT, site
from nginx.test_limits import Busy
from nginx.test_log import lines
from nginx.test_running import COMMAND, kept, run
from nginx.test_stale import Image as Shown
from pictures import encode
from PIL import Image

from image_repo import assemble
from image_repo.accesslog import CACHES
from image_repo.answered import REMEMBERED, Answered
from image_repo.config import Config
from image_repo.nginx import LOG, render
from image_repo.nginx import settings as settings_of
from image_repo.options import load
from image_repo.purge import REFRESH_HEADER
from image_repo.transform.pool import Pool
from image_repo.web.answers import HttpOptions

# What X-Cache says


async def test_each_word_of_x_cache_is_said_and_no_other(tmp_path: Path) -> None:
    table = TEXT.partition("| X-Cache | means |")[2].partition("\n\n")[0]
    told = set(re.findall(r"^\| (\w+) \|", table, re.MULTILINE))
    shown = Shown()
    shown.held.set()
    async with nginx_before(Upstream(shown).app, tmp_path) as front:
        answers = [await front.ask(), await front.ask()]
        await asyncio.sleep(2.1)
        answers.append(await front.ask())
        await asyncio.sleep(2.1)
        shown.change()
        shown.held.clear()
        renewing = asyncio.create_task(front.ask())
        await shown.asked(3)
        answers.append(await front.ask())
        shown.held.set()
        answers.append(await renewing)
        answers.append(await front.ask(headers={REFRESH_HEADER: SECRET}))
        answers.append(await front.ask("/images/x", "PUT", body=b"abc"))
        log = await lines(front, len(answers))

    expected = ["MISS", "HIT", "REVALIDATED", "UPDATING", "EXPIRED", "BYPASS", "none"]
    assert [a.cache or "none" for a in answers] == expected
    assert {line["cache"] or "none" for line in log} == told == set(expected)
    assert told - {"none"} == set(CACHES) - {"STALE"}


async def test_an_expired_entry_is_not_given_while_the_server_is_away(
    tmp_path: Path,
) -> None:
    """So nginx never says STALE."""
    shown = Shown()
    shown.held.set()
    async with AsyncExitStack() as server:
        port = await server.enter_async_context(serving(Upstream(shown).app))
        chosen = settings(tmp_path, upstream=f"127.0.0.1:{port}")
        async with nginx(chosen) as front:
            await front.ask()
            await server.aclose()
            await asyncio.sleep(2.1)
            answers = await front.several(5)

    assert {a.cache for a in answers} <= {"EXPIRED", "UPDATING", "MISS"}
    assert 502 in {a.status for a in answers}


async def test_without_a_time_for_that_each_asks_at_an_expired_key(
    tmp_path: Path,
) -> None:
    asked = 0

    async def answer(*_: object) -> web.StreamResponse:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.3)
        return web.Response(headers={"Cache-Control": "s-maxage=1"}, body=b"x")

    async with nginx_before(Upstream(answer).app, tmp_path) as front:
        await front.ask()
        await asyncio.sleep(2.1)
        answers = await front.several(10)

    assert {a.status for a in answers} == {200}
    assert asked == 1 + 10


# Purging


async def test_a_purge_by_hand_makes_the_next_request_a_miss(pool: Pool) -> None:
    (words,) = re.findall(r"By hand: `(.*?)`", plain(TEXT))
    async with site(Config(), pool) as served:
        target = "/images/plots/site-7/_/w_40.png"
        await served.put(COLOURS[1], "/images/plots/site-7")
        before = [(await served.front.ask(target)).cache for _ in range(2)]
        done = await asyncio.to_thread(
            run,
            replaced(words, {"http://localhost:8080": served.front.url}),
            served.front.directory,
        )
        after = await served.front.ask(target)

    assert before == ["MISS", "HIT"]
    assert (done.returncode, done.stdout) == (0, "")
    assert (after.status, after.cache) == (200, "MISS")
    assert after.headers["X-Image-Repo"] != "memory"


async def test_all_is_purged_by_removing_it_while_nginx_is_stopped(
    tmp_path: Path,
) -> None:
    caches = []
    async with serving(Upstream().app) as port:
        chosen = settings(tmp_path, upstream=f"127.0.0.1:{port}")
        for removed in (False, False, True):
            if removed:
                for one in Path(chosen.options.cache_path).iterdir():
                    shutil.rmtree(one)
            async with nginx(chosen) as front:
                caches.append([(await front.ask()).cache for _ in range(2)])

    assert caches == [["MISS", "HIT"], ["HIT", "HIT"], ["MISS", "HIT"]]
    assert (tmp_path / "error.log").read_text() == ""


async def test_a_purge_that_fails_is_tried_again(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    config = Config()
    chosen = replace(config, http=replace(config.http, refresh_secret=SECRET))
    body = encode(Image.new("RGB", (60, 60), COLOURS[2]), "PNG")
    async with site(chosen, pool, "www-data") as served:
        await served.put(COLOURS[1])
        assert await served.seen() == COLOURS[1]
        every = processes(served.front)
        for pid in every:
            os.kill(pid, signal.SIGSTOP)
        server = int(served.front.settings.upstream.rpartition(":")[2])
        put = await ask(server, "/images/x", "PUT", body=body)
        for pid in every:
            os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(10):
            while await served.seen() != COLOURS[2]:
                await asyncio.sleep(0.2)

    assert put.status == 200
    assert "cannot purge /images/x/_/" in caplog.text


def processes(front: Front) -> list[int]:
    """Return nginx's processes, the master first."""
    master = int((front.directory / "nginx.pid").read_text())
    workers = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return [master, *map(int, workers)]


async def test_a_refresh_is_one_request_for_each_name(pool: Pool) -> None:
    config = Config()
    chosen = replace(config, http=replace(config.http, refresh_secret=SECRET))
    async with site(chosen, pool, "www-data") as served:
        await served.put(COLOURS[1])
        paths = [f"/images/x/_/w_{width}.png" for width in range(10, 20)]
        for path in paths:
            await served.front.ask(path)
        await served.put(COLOURS[2])
        log = (served.front.directory / LOG).read_bytes().splitlines()

    said = [json.loads(line) for line in log]
    refreshed = {line["path"] for line in said if line["cache"] == "BYPASS"}
    assert {re.sub("/v_[0-9a-f]{16}", "", path) for path in refreshed} == set(paths)
    assert len(refreshed) == 2 * len(paths)  # with and without the tag


async def test_a_server_that_knows_of_no_nginx_refuses_what_is_new(
    tmp_path: Path,
) -> None:
    upstream = Upstream(behind=False)
    async with nginx_before(upstream.app, tmp_path) as front:
        answer = await front.ask()

    assert answer.status == 400


async def test_without_a_purge_an_old_image_stays_until_its_time_is_over(
    pool: Pool,
) -> None:
    config = Config()
    config = replace(
        config,
        nginx=replace(config.nginx, purge="none"),
        http=replace(config.http, s_maxage=1),
    )
    async with site(config, pool) as served:
        await served.put(COLOURS[1])
        assert await served.seen() == COLOURS[1]
        await served.put(COLOURS[2])
        old = await served.seen()
        await asyncio.sleep(2.1)
        new = await served.seen()

    assert (old, new) == (COLOURS[1], COLOURS[2])


async def test_what_nginx_has_dropped_the_servers_disk_has(pool: Pool) -> None:
    config = Config()
    memory = replace(config.memory_cache_configuration, max_size=0)
    async with site(replace(config, memory_cache_configuration=memory), pool) as served:
        await served.put(COLOURS[1])
        await served.seen()
        async with asyncio.timeout(10):
            while "derived" not in await served.levels("w_40"):
                await asyncio.sleep(0.05)
        for file in kept(served.front):
            file.unlink()
        derivations = pool.derivations
        again = await served.front.ask(HOT)

    assert (again.cache, again.headers["X-Image-Repo"]) == ("MISS", "disk")
    assert pool.derivations == derivations


def test_the_guides_way_to_a_secret_makes_one_that_is_taken(tmp_path: Path) -> None:
    (words,) = set(re.findall(r"`(openssl rand.*?)`", plain(TEXT)))
    secret = run(words, tmp_path).stdout.strip()

    found = load(HttpOptions, {"refresh_secret": secret}, where="http")

    assert found.refresh_secret == secret
    assert f"{secret};" in render(settings(tmp_path, secret=secret))


@pytest.mark.parametrize("sizes", [4, 10])
def test_what_may_have_to_be_purged_takes_little_memory(sizes: int) -> None:
    answered = Answered(600)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(20_000):
            image = f"plots/site-{n // sizes}"
            answered.note(image, f"/images/{image}/_/w_{400 + n % sizes}.webp")
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    (said, limit) = re.findall(r"(\d+) bytes of its memory.* latest ([\d,]+)", TEXT)[0]

    assert 0.75 < taken / 20_000 / int(said) < 1.25
    assert int(limit.replace(",", "")) == REMEMBERED


async def test_the_server_remembers_answers_for_both_times_together(
    pool: Pool, tmp_path: Path
) -> None:
    http = replace(Config().http, s_maxage=100, stale_while_revalidate=11)
    config = replace(Config(), data=str(tmp_path), http=http)
    async with assemble.open_all(config, pool) as opened:
        assert opened.purger._recent._keep == 111


# Watching it


async def test_the_commands_for_watching_tell_of_what_was_asked(pool: Pool) -> None:
    async with site(Config(), pool) as served:
        await served.put(COLOURS[1])
        for _ in range(4):
            await served.front.ask(HOT)
        await lines(served.front, 5)
        directory = str(served.front.directory)
        socket = served.front.settings.cold.removeprefix("unix:")
        words = {
            "$ ": "",
            "image_repo cache-report": f"{COMMAND} cache-report",
            "/var/log/nginx": directory,
            "/run/image_repo-nginx.sock": socket,
        }
        commands = replaced(block("cache-report"), words).splitlines()
        said = [
            await asyncio.to_thread(run, command, served.front.directory)
            for command in commands
        ]

    assert [done.returncode for done in said] == [0, 0], said
    report, status = (done.stdout for done in said)
    assert "5 lines, 0 of them unreadable" in report
    assert "x/_/w_40.png" in report  # the slowest derivation
    assert status.startswith("Active connections: ")


async def test_who_takes_too_long_is_a_504_on_both_hops(tmp_path: Path) -> None:
    busy = Busy()

    async def slow(request: web.Request) -> web.StreamResponse:
        return await busy(request, "/images/slow")

    app = web.Application()
    app.router.add_get("/{any:.*}", slow)
    async with serving(app) as port:
        chosen = settings(tmp_path, upstream=f"127.0.0.1:{port}")
        text = render(chosen)
        wait = f"proxy_read_timeout {chosen.read_timeout}s"
        conf = tmp_path / "nginx.conf"
        conf.write_text(replaced(text, {wait: "proxy_read_timeout 1s"}))
        async with nginx_from(conf, chosen, tmp_path) as front:
            targets = (PATH, "/images/slow/_/info.json")
            answers = await asyncio.gather(*map(front.ask, targets))
            busy.free.set()

    assert text.count(wait) == 2
    assert [a.status for a in answers] == [504, 504]
    assert [json.loads(a.body)["status"] for a in answers] == [504, 504]


def test_times_and_sizes_follow_from_the_workers_and_the_limits(tmp_path: Path) -> None:
    config = Config()
    other = replace(
        config,
        workers=replace(config.workers, deadline=config.workers.deadline + 50),
        limits=replace(config.limits, upload_bytes=config.limits.upload_bytes + 7),
    )
    waits, sizes = [], []
    for one in (config, other):
        text = render(settings_of(one, tmp_path))
        waits += [int(s) for s in set(re.findall(r"proxy_read_timeout (\d+)s;", text))]
        sizes += [int(n) for n in re.findall(r"client_max_body_size (\d+);", text)]

    assert waits[1] == waits[0] + 100
    assert waits[0] > 2 * config.workers.deadline
    assert sizes == [
        n + 2**20 for n in (config.limits.upload_bytes, other.limits.upload_bytes)
    ]


async def test_the_error_log_has_whole_requests(tmp_path: Path) -> None:
    async with nginx_before(Upstream().app, tmp_path, upstream="127.0.0.1:9") as front:
        await front.ask("/images/a?temp_url_sig=abc")
        await lines(front, 1)
    log, errors = (tmp_path / f"{n}.log" for n in ("image_repo.access", "error"))

    assert "temp_url_sig=abc" in errors.read_text()
    assert "temp_url_sig" not in log.read_text()


async def test_the_server_says_how_many_wait_for_a_worker(pool: Pool) -> None:
    async with site(Config(), pool) as served:
        said = json.loads((await served.front.ask("/healthz")).body)

    assert said["workers"]["waiting"] == 0
