"""What copying and importing share."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from image_repo.errors import ConfigError, StoreError
from image_repo.stores.store import pieces
from image_repo.transfer.moving import Rules, body_of


def test_a_body_ends_where_its_object_ends(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"body and foot")
    with (tmp_path / "f").open("rb") as file:
        body = body_of(file.fileno(), 4)

        assert body.read() == b"body"
        assert body.seek(-2, io.SEEK_END) == 2
        assert body.read(1) == b"d"
        assert body.seek(0, io.SEEK_CUR) == 3
        assert b"".join(pieces(body)) == b"body"
        assert file.tell() == 0


def test_a_body_that_ends_too_early_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"short")
    with (
        (tmp_path / "f").open("rb") as file,
        pytest.raises(StoreError, match="last byte"),
    ):
        body_of(file.fileno(), 10).read()


def test_there_must_be_a_job() -> None:
    with pytest.raises(ConfigError, match="--jobs is 0"):
        Rules(jobs=0)
