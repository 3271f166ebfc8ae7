from __future__ import annotations

import gzip
import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from image_repo.accesslog import LONGEST, Line, lines, opened
from image_repo.errors import ConfigError
from image_repo.report import Frequent, Report, Spread


def line(**changes: object) -> bytes:
    said = {
        "time": "2026-11-23T06:41:11+00:00",
        "client": "192.0.2.1",
        "method": "GET",
        "path": "/images/a/_/w_4.jpg",
        "name": "a/_/w_4.jpg",
        "status": 200,
        "bytes": 100,
        "cache": "HIT",
        "level": "nginx",
        "seconds": 0.001,
        "server_seconds": None,
        "server": "",
    }
    return json.dumps(said | changes).encode() + b"\n"


def made(name: str, seconds: float, **changes: object) -> bytes:
    said = {
        "name": name,
        "cache": "MISS",
        "level": "derived",
        "server_seconds": float(seconds),
    }
    return line(**(said | changes))


def report(*logged: bytes, top: int = 10) -> Report:
    found = Report(top)
    for raw in logged:
        found.add(Line.read(raw))
    return found


def told(*logged: bytes, top: int = 10) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(report(*logged, top=top).json())
    return found


def test_hits_are_a_share_of_what_the_cache_was_asked_for() -> None:
    found = told(
        *[line(bytes=10)] * 6,
        line(cache="STALE", bytes=10),
        line(cache="UPDATING", bytes=10),
        made("a/_/w_5.jpg", 1, bytes=100),
        line(cache="REVALIDATED", level="", bytes=20),
        line(cache="BYPASS", bytes=1000),  # the server's own question
        line(cache="", name="", bytes=1000),  # an upload, a list
        line(cache="MISS", level="limit", status=429, bytes=1000),
    )

    assert found["hits"] == {"requests": 0.8, "bytes": 0.4}
    assert {"cache": "MISS", "requests": 1, "bytes": 100} in found["cache"]
    assert {row["status"]: row["requests"] for row in found["statuses"]} == {
        200: 12,
        429: 1,
    }


def test_the_slowest_derivations_come_first_each_name_once() -> None:
    found = told(
        made("a/_/w_1.jpg", 0.5),
        made("b/_/w_1.jpg", 3),
        made("b/_/w_1.jpg", 2),
        made("c/_/w_1.jpg", 1, level="intermediate;store=away"),
        made("d/_/w_1.jpg", 20, level="", status=422),
        made("e/_/w_1.jpg", 9, level="memory"),  # was made before
        line(name="f/_/w_1.jpg", server_seconds=9.0),
        made("h/_/w_1.jpg", 9, level="", status=503),  # refused
        line(name="i/_/w_1.jpg", cache="MISS", level="derived", seconds=9.0),
        *(made(f"g/_/w_{n}.jpg", 0.1) for n in range(30)),
        top=3,
    )

    assert [(row["seconds"], row["name"]) for row in found["slowest"]] == [
        (20, "d/_/w_1.jpg"),
        (3, "b/_/w_1.jpg"),
        (1, "c/_/w_1.jpg"),
    ]


@pytest.mark.parametrize(
    ("upstream", "seconds"),
    [("7.000 : 1.000, 0.500", 1.5), ("0.250", 0.25), ("-", 0), ("", 0)],
)
def test_an_older_line_has_the_time_of_its_last_hop_with_all_its_tries(
    upstream: str, seconds: float
) -> None:
    older = json.loads(made("a/_/w_1.jpg", 9)) | {"upstream": upstream}
    del older["server_seconds"]

    (row,) = told(json.dumps(older).encode())["slowest"]

    assert row["seconds"] == seconds


def test_what_was_refused_is_neither_a_hit_nor_a_miss() -> None:
    logged = (
        *[line()] * 3,
        made("a/_/w_5.jpg", 1),
        *[made("a/_/w_6.jpg", 9, level="limit", status=429)] * 4,
        made("a/_/w_7.jpg", 9, level="limit", status=503),
        made("a/_/w_8.jpg", 9, level="", status=503),
        line(status=503),  # the server's, which nginx gave again for a second
        line(cache="", name="", level="limit", status=429, method="PUT"),
    )

    found, text = told(*logged), report(*logged).text()

    assert found["hits"]["requests"] == 0.75
    assert found["refusals"] == {"nginx": 6, "server": 2}
    assert [row["name"] for row in found["slowest"]] == ["a/_/w_5.jpg"]
    assert {row["cache"]: row["requests"] for row in found["cache"]} == {
        "HIT": 3,
        "MISS": 1,
    }
    assert "neither hit nor miss: 6 by nginx, 2 by server\n" in text


def test_nothing_is_said_of_refusals_where_there_are_none() -> None:
    assert "refused" not in report(line()).text().partition("What nginx")[0]


def test_images_are_ordered_by_how_many_derived_names_they_have() -> None:
    found = told(
        *(line(name=f"a/b/_/w_{n}.jpg") for n in range(5)),
        *[line(name="c/_/w_1.jpg")] * 50,
        *(made(f"d/_/v_0123456789abcdef/w_{n}.jpg", 1) for n in range(3)),
        top=2,
    )

    assert found["fragmented"] == [
        {"names": 5, "image": "a/b"},
        {"names": 3, "image": "d"},
    ]


def test_clients_are_ordered_by_how_often_they_were_refused() -> None:
    found = told(
        *[line(client="192.0.2.1", status=429)] * 2,
        *[line(client="192.0.2.2", status=503)] * 3,
        line(client="192.0.2.3", status=404),
    )

    assert found["refused"] == [
        {"requests": 3, "client": "192.0.2.2"},
        {"requests": 2, "client": "192.0.2.1"},
    ]
    assert found["notes"] == {}


@pytest.mark.parametrize(
    "raw",
    [
        b"\n",
        b'192.0.2.1 - - [23/Nov/2026] "GET / HTTP/1.1" 200 5\n',
        b"{}\n",
        b"[]\n",
        b"null\n",
        b"[" * 50_000 + b"\n",
        line()[:-20],
        line(status="200"),
        line(status=-1),
        line(status=1000),
        line(bytes=-1),
        line(bytes=1.5),
        line(server_seconds="1.5"),
        line(server_seconds=-1.5),
        line(server_seconds=float("nan")),
        line(server_seconds=float("inf")),
        line(upstream=1.5),
        line(client=None),
        line(cache="A_HIT"),
        b"\x00\xff\n",
    ],
)
def test_a_line_that_is_none_of_ours_is_counted(raw: bytes) -> None:
    found = told(line(), raw, line())

    assert (found["lines"], found["unreadable"]) == (3, 1)
    assert found["hits"] == {"requests": 1.0, "bytes": 1.0}


def test_bytes_that_are_no_text_do_no_harm() -> None:
    raw = line(name="NAME").replace(b"NAME", b"\xff\xfe/_/w_1.jpg")

    assert len(told(raw)["fragmented"]) == 1


def test_no_name_commands_the_terminal() -> None:
    text = report(made("\x1b[2J\u202ea\n/_/w_1.jpg", 1), top=1).text()

    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[2J\ufffda\ufffd" in text


def test_columns_are_as_wide_as_they_need() -> None:
    text = report(
        *[line(client="2001:db8:1:2::1", status=429)] * 1000,
        line(client="192.0.2.1", status=429),
    ).text()

    assert (
        "Clients refused most often\n"
        "  requests  client\n"
        "     1,000  2001:db8:1:2::1\n"
        "         1  192.0.2.1\n"
    ) in text


def test_an_empty_log_is_no_error() -> None:
    text = report().text()

    assert text.startswith("0 lines")
    assert "none" in text


# Bounds


def test_a_client_that_is_refused_often_is_found_among_any_number_of_others() -> None:
    counts = Frequent(limit=100)
    for n in range(20_000):
        counts.add(f"other{n}")
        if n % 10 == 0:
            counts.add("often")

    (first, *_) = counts.counts.most_common(1)
    assert first[0] == "often"
    assert first[1] <= 2000 <= first[1] + counts.missed
    assert len(counts.counts) <= 100


def test_an_image_in_many_sizes_is_found_among_any_number_of_others() -> None:
    spread = Spread(limit=1000)
    for n in range(20_000):
        spread.add(f"other{n}/_/w_1.jpg")
        spread.add(f"many/_/w_{n % 300}.jpg")

    counts = Counter({image: len(known) for image, known in spread.names.items()})
    assert counts.most_common(1) == [("many", 300)]
    assert spread.held == counts.total() <= 1000
    assert spread.least == 1


def test_what_is_not_exact_says_so() -> None:
    found = Report()
    found._refused.limit, found._spread.limit = 1, 1  # as if they were many
    for n in range(3):
        found.add(Line.read(line(client=f"192.0.2.{n}", status=429)))
        found.add(Line.read(line(name=f"{n}/_/a")))

    notes = json.loads(found.json())["notes"]
    assert set(notes) == {"refused", "fragmented"}
    assert all(f"({note})" in found.text() for note in notes.values())


@pytest.mark.slow
def test_memory_is_bounded_however_long_the_log_is() -> None:
    tracemalloc.start()
    try:
        found = Report()
        for n in range(500_000):
            name = f"i{n}/_/w.jpg"
            found.add(Line(f"client{n}", 429, 1, "MISS", "limit", name, 1.0, "t"))
            found.add(Line("192.0.2.1", 200, 1, "MISS", "", name, 1.0, "t"))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 120 * 2**20


# Files


def logs(directory: Path) -> tuple[Path, Path]:
    plain, packed = directory / "log", directory / "log.1.gz"
    plain.write_bytes(line() * 3)
    packed.write_bytes(gzip.compress(line(cache="MISS") * 2))
    return plain, packed


def run(*words: str, stdin: bytes = b"") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "image_repo.cli", "cache-report", *words],
        input=stdin,
        capture_output=True,
        timeout=30,
        check=True,
    )
    return done.stdout.decode()


def test_the_command_reads_several_logs_plain_and_compressed(tmp_path: Path) -> None:
    files = map(str, logs(tmp_path))

    found = json.loads(run("--json", *files))

    assert (found["lines"], found["unreadable"]) == (5, 0)
    assert found["hits"]["requests"] == 0.6


@pytest.mark.parametrize("number", [0, 1], ids=["plain", "compressed"])
@pytest.mark.parametrize("words", [(), ("-",)])
def test_the_command_reads_its_standard_input(
    tmp_path: Path, number: int, words: tuple[str, ...]
) -> None:
    given = logs(tmp_path)[number].read_bytes()

    assert f"{3 - number} lines, 0 of them unreadable" in run(*words, stdin=given)


def test_a_log_that_ends_in_the_middle_is_read_up_to_there(tmp_path: Path) -> None:
    short = tmp_path / "short.gz"
    short.write_bytes(gzip.compress(line() * 9)[:-12])

    with opened(str(short)) as stream:
        found = list(lines(stream))

    assert found[-1] is None


def test_a_line_without_an_end_takes_no_more_memory_than_any(tmp_path: Path) -> None:
    endless = tmp_path / "log"
    endless.write_bytes(b"x" * (3 * LONGEST) + b"\n" + line())

    with opened(str(endless)) as stream:
        *parts, last = lines(stream)

    assert set(parts) == {None}
    assert last == Line.read(line())


def test_a_log_that_is_not_there_is_named() -> None:
    with (
        pytest.raises(ConfigError, match="/nowhere/log: No such file"),
        opened("/nowhere/log"),
    ):
        pass
