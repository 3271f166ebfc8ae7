"""Files that are being written: private, and cleared away when their writer died."""

from __future__ import annotations

import errno
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from image_repo.stores.drafts import Drafts, locked, write


@pytest.fixture
def drafts(tmp_path: Path) -> Drafts:
    drafts = Drafts(tmp_path)
    drafts.open()
    return drafts


def left(root: Path) -> list[Path]:
    return list((root / "tmp").iterdir())


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def test_a_draft_is_gone_at_the_end_unless_it_was_renamed(
    tmp_path: Path, drafts: Drafts
) -> None:
    before = descriptors()
    with drafts.new() as (fd, _):
        write(fd, b"forgotten")
    with drafts.new() as (fd, path):
        write(fd, b"kept")
        Path(path).rename(tmp_path / "kept")

    assert left(tmp_path) == []
    assert (tmp_path / "kept").read_bytes() == b"kept"
    assert descriptors() == before


def test_a_draft_that_fails_is_gone(tmp_path: Path, drafts: Drafts) -> None:
    before = descriptors()
    with pytest.raises(ZeroDivisionError), drafts.new() as (fd, _):
        os.write(fd, bytes(1 // 0))

    assert left(tmp_path) == []
    assert descriptors() == before


def test_a_file_system_without_locks_costs_no_descriptor(
    tmp_path: Path, drafts: Drafts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(_: int, how: int) -> None:
        if how == fcntl.LOCK_EX:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    before = descriptors()
    with pytest.raises(OSError, match="No locks available"), drafts.new():
        pass

    assert left(tmp_path) == []
    assert descriptors() == before


def test_opening_clears_away_what_nobody_writes_and_nothing_else(
    tmp_path: Path, drafts: Drafts
) -> None:
    (tmp_path / "tmp" / "left-behind").touch()
    (tmp_path / "tmp" / "folder").mkdir()
    with drafts.new() as (_, path):
        drafts.open()

        assert set(left(tmp_path)) == {Path(path), tmp_path / "tmp" / "folder"}


def test_nobody_makes_a_draft_while_another_clears_away(
    tmp_path: Path, drafts: Drafts
) -> None:
    def make() -> None:
        with drafts.new():
            pass

    with ThreadPoolExecutor(1) as threads:
        with locked(str(tmp_path / "lock"), fcntl.LOCK_EX):
            made = threads.submit(make)
            with pytest.raises(TimeoutError):
                made.result(0.05)
            assert left(tmp_path) == []
        made.result(10)
