"""Importing folders, with real workers."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import unicodedata
from pathlib import Path

import pytest
from pictures import encode, jpeg, quarters
from transfer.fakes import Counting, counts, said, silent

from image_repo.config import Config
from image_repo.errors import ConfigError
from image_repo.names import ImageName
from image_repo.stores.disk import DirectoryStore
from image_repo.stores.memory import MemoryStore
from image_repo.stores.store import Stored
from image_repo.transfer.folder import Candidate, walk
from image_repo.transfer.importing import Folder, import_folder
from image_repo.transfer.moving import Rules
from image_repo.transfer.progress import Outcome, Progress, Result
from image_repo.transform.pool import Pool

JPEG = jpeg()
PNG = encode(quarters(), "PNG")
MOST = Config().limits.upload_bytes


def write(folder: Path, **files: bytes) -> Path:
    for path, body in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(body)
    return folder


async def imported(
    folder: Path,
    target: MemoryStore,
    pool: Pool,
    rules: Rules | None = None,
    prefix: str = "",
) -> Progress:
    progress = silent()
    await import_folder(Folder(folder, prefix, MOST), target, pool, progress, rules)
    return progress


async def kept(store: MemoryStore) -> dict[str, bytes]:
    found = {}
    async for key in store.list():
        opened = await store.fetch(key)
        assert opened is not None
        with opened:
            found[key] = await opened.read()
    return found


async def test_images_get_the_names_that_they_would_have_as_uploads(
    tmp_path: Path, pool: Pool
) -> None:
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    write(
        tmp_path,
        **{
            "a.JPG": JPEG,
            "plots/site 7.png": PNG,
            "plots/a.png.jpg": JPEG,
            "plots/v.2": PNG,
            f"{decomposed}/{decomposed}.jpeg": JPEG,
        },
    )
    target = MemoryStore()

    progress = await imported(tmp_path, target, pool)

    assert counts(progress) == {"copied": 5}
    assert progress.summary.status == 0
    assert await kept(target) == {
        "a": JPEG,
        "plots/site 7": PNG,
        "plots/a.png": JPEG,
        "plots/v.2": PNG,
        "caf\u00e9/caf\u00e9": JPEG,
    }


async def test_the_media_type_is_that_of_the_bytes(tmp_path: Path, pool: Pool) -> None:
    target = MemoryStore()

    await imported(write(tmp_path, **{"a.jpg": PNG}), target, pool)

    stored = await target.head("a")
    assert stored is not None
    assert (stored.media_type, stored.metadata) == ("image/png", {})


async def test_images_can_be_imported_under_a_path(tmp_path: Path, pool: Pool) -> None:
    target = MemoryStore()

    await imported(
        write(tmp_path, **{"x/a.jpg": JPEG}), target, pool, prefix="old/2019"
    )

    assert list(await kept(target)) == ["old/2019/x/a"]


async def test_what_is_hidden_is_passed_by(tmp_path: Path, pool: Pool) -> None:
    write(tmp_path, **{".a.jpg": JPEG, ".git/b.jpg": JPEG, "c/.d/e.jpg": JPEG})

    progress = await imported(tmp_path, MemoryStore(), pool)

    assert counts(progress) == {}


async def test_links_and_pipes_are_not_followed(tmp_path: Path, pool: Pool) -> None:
    outside = write(tmp_path / "outside", **{"secret.jpg": JPEG})
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "file.jpg").symlink_to(outside / "secret.jpg")
    (folder / "folder").symlink_to(outside)
    os.mkfifo(folder / "pipe.jpg")
    target = MemoryStore()

    progress = await imported(folder, target, pool)

    assert counts(progress) == {"not_image": 3}
    assert await kept(target) == {}


async def test_what_is_no_image_is_counted_and_said_with_its_reason(
    tmp_path: Path, pool: Pool
) -> None:
    write(
        tmp_path,
        **{
            "a.jpg": JPEG,
            "b.jpg": b"text",
            "c.jpg": b"",
            "d.jpg": JPEG[: len(JPEG) // 2],
        },
    )

    progress = await imported(tmp_path, MemoryStore(), pool)

    assert counts(progress) == {"copied": 1, "not_image": 3}
    assert progress.summary.status == 0
    assert "not an image: 'b.jpg': the bytes are not an image" in said(progress)
    assert "not an image: 'c.jpg': the file is empty" in said(progress)


async def test_an_image_with_too_many_bytes_is_a_failure_and_a_film_is_no_image(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "b.mp4": b"film" * len(JPEG)})
    progress = silent()
    folder = Folder(tmp_path, "", len(JPEG) - 1)

    await import_folder(folder, MemoryStore(), pool, progress)

    assert counts(progress) == {"failed": 1, "not_image": 1}
    assert f"more than the {len(JPEG) - 1} allowed" in said(progress)


async def test_of_two_files_with_one_name_the_first_of_the_table_is_imported(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path, **{"a.png": PNG, "a.jpg": JPEG})
    target = MemoryStore()

    first = await imported(tmp_path, target, pool)
    again = await imported(tmp_path, target, pool)
    bold = await imported(tmp_path, target, pool, Rules(replace=True))

    assert counts(first) == {"copied": 1, "conflict": 1}
    assert "conflict: 'a.png': 'a.jpg' is image 'a' already" in said(first)
    assert first.summary.status == 1
    assert counts(again) == counts(bold) == {"there": 1, "conflict": 1}
    assert await kept(target) == {"a": JPEG}


async def test_a_file_that_is_no_image_stands_in_no_other_s_way(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path, **{"plot": b"set term png", "plot.png": PNG})
    target = MemoryStore()

    progress = await imported(tmp_path, target, pool)

    assert counts(progress) == {"copied": 1, "not_image": 1}
    assert await kept(target) == {"plot": PNG}


async def test_other_bytes_under_the_name_are_kept_unless_told_otherwise(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path, **{"a.jpg": JPEG})
    target = MemoryStore()
    await target.put("a", io.BytesIO(PNG), media_type="image/png")

    careful = await imported(tmp_path, target, pool)
    before = await kept(target)
    bold = await imported(tmp_path, target, pool, Rules(replace=True))

    assert (counts(careful), before) == ({"conflict": 1}, {"a": PNG})
    assert (counts(bold), await kept(target)) == ({"copied": 1}, {"a": JPEG})


async def test_an_image_may_be_found_under_another_key(
    tmp_path: Path, pool: Pool
) -> None:
    async def look(image: ImageName) -> Stored | None:
        return await target.head(f"{image}.jpg")

    write(tmp_path, **{"a.jpg": JPEG})
    target = Counting()
    await target.put("a.jpg", io.BytesIO(JPEG), media_type="image/jpeg")
    progress = silent()

    await import_folder(Folder(tmp_path, "", MOST), target, pool, progress, look=look)

    assert counts(progress) == {"there": 1}


async def test_a_dry_run_of_an_import_puts_nothing(tmp_path: Path, pool: Pool) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "a.png": PNG, "b.txt": b"text"})
    target = MemoryStore()

    progress = await imported(tmp_path, target, pool, Rules(dry_run=True))

    assert counts(progress) == {"would": 1, "conflict": 1, "not_image": 1}
    assert "would copy: 'a.jpg'" in said(progress)
    assert await kept(target) == {}


async def test_an_import_that_is_broken_off_is_taken_up_where_it_was(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path, **{f"{n:02}.jpg": jpeg(20 + n, 20) for n in range(12)})
    target = Counting()
    target.takes = 5
    run = asyncio.create_task(imported(tmp_path, target, pool, Rules(jobs=1)))
    await target.waiting.wait()
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    target.takes = sys.maxsize

    later = await imported(tmp_path, target, pool)

    assert counts(later) == {"there": 5, "copied": 7}
    assert sorted(target.puts) == [f"{n:02}" for n in range(12)]


async def test_names_that_no_image_can_have_are_failures_that_stop_nothing(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path, **{f"_/{n}.jpg": JPEG for n in range(30)})
    write(tmp_path, **{"a\x1b[2J.jpg": JPEG, "ok.jpg": JPEG, "long/" * 150 + "x": JPEG})
    (tmp_path / os.fsdecode(b"\xff.jpg")).write_bytes(JPEG)

    progress = await imported(tmp_path, MemoryStore(), pool)

    assert counts(progress) == {"copied": 1, "failed": 33}
    assert progress.summary.status == 1
    assert "\x1b" not in said(progress)
    assert "must not be empty, '.', '..' or '_'" in said(progress)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
async def test_what_may_not_be_read_is_a_failure(tmp_path: Path, pool: Pool) -> None:
    write(tmp_path, **{"a.jpg": JPEG, "b/c.jpg": JPEG, "d.jpg": JPEG})
    (tmp_path / "a.jpg").chmod(0)
    (tmp_path / "b").chmod(0)

    progress = await imported(tmp_path, MemoryStore(), pool)

    (tmp_path / "b").chmod(0o700)
    assert counts(progress) == {"copied": 1, "failed": 2}
    assert "failed: 'a.jpg': cannot read it: Permission denied" in said(progress)
    assert "failed: 'b/': cannot read the folder: Permission denied" in said(progress)


async def test_a_file_that_vanishes_is_not_a_failure(
    tmp_path: Path, pool: Pool
) -> None:
    class Removing(Counting):
        async def head(self, key: str) -> Stored | None:
            (tmp_path / "b.jpg").unlink(missing_ok=True)
            return await super().head(key)

    write(tmp_path, **{"a.jpg": JPEG, "b.jpg": JPEG})

    progress = await imported(tmp_path, Removing(), pool, Rules(jobs=1))

    assert counts(progress) == {"copied": 1, "gone": 1}


async def test_a_file_that_becomes_a_link_is_not_followed(
    tmp_path: Path, pool: Pool
) -> None:
    class Linking(Counting):
        async def head(self, key: str) -> Stored | None:
            if key == "a":
                (tmp_path / "b.jpg").unlink()
                (tmp_path / "b.jpg").symlink_to("a.jpg")
            return await super().head(key)

    write(tmp_path, **{"a.jpg": JPEG, "b.jpg": PNG})

    progress = await imported(tmp_path, Linking(), pool, Rules(jobs=1))

    assert counts(progress) == {"copied": 1, "failed": 1}
    assert "failed: 'b.jpg': cannot read it: " in said(progress)


async def test_a_folder_is_imported_into_a_directory(
    tmp_path: Path, pool: Pool
) -> None:
    write(tmp_path / "in", **{"x.jpg": JPEG, "x/y.png": PNG})
    async with DirectoryStore(tmp_path / "out") as target:
        progress = silent()

        await import_folder(Folder(tmp_path / "in", "", MOST), target, pool, progress)

        assert counts(progress) == {"copied": 2}
        assert [key async for key in target.list()] == ["x", "x/y"]


@pytest.mark.parametrize(
    ("folder", "prefix", "says"),
    [("nowhere", "", "nowhere"), (".", "a//b", "--prefix"), (".", "_", "--prefix")],
)
async def test_a_wrong_argument_is_refused(
    tmp_path: Path, pool: Pool, folder: str, prefix: str, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        await imported(tmp_path / folder, MemoryStore(), pool, prefix=prefix)


def test_a_folder_is_walked_in_a_fixed_order(tmp_path: Path) -> None:
    paths = ("b.gif", "b", "b.jpeg", "b.JPG", "a/z.png", "a.png", "a/b/c.png", "c")
    write(tmp_path, **dict.fromkeys(paths, b""))

    found = list(walk(tmp_path, "p"))

    assert found == [
        Candidate(ImageName("p/a"), ("a.png",)),
        Candidate(ImageName("p/b"), ("b", "b.JPG", "b.jpeg", "b.gif")),
        Candidate(ImageName("p/c"), ("c",)),
        Candidate(ImageName("p/a/z"), ("a/z.png",)),
        Candidate(ImageName("p/a/b/c"), ("a/b/c.png",)),
    ]


def test_a_folder_is_read_when_its_turn_comes(tmp_path: Path) -> None:
    write(tmp_path, **{"a/a": b"", "b/b": b""})
    found = walk(tmp_path, "")

    assert next(found) == Candidate(ImageName("a/a"), ("a/a",))
    (tmp_path / "b" / "b").unlink()
    (tmp_path / "b").rmdir()
    reason = "cannot read the folder: No such file or directory"
    assert list(found) == [Result("b/", Outcome.FAILED, reason=reason)]
