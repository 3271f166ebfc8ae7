"""A derived image has the same bytes, whatever it was made from."""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import decode, encode
from PIL import Image, ImageStat
from servers import CONFINED
from transform.attaching import TAGS, tagged
from transform.samples import ADOBE, P3, exif, heic, opened, png_chunk, profile, psd

from image_repo.errors import BadImageError, DeriveError, TooLargeError
from image_repo.formats import FORMATS
from image_repo.modifiers import RenderOptions
from image_repo.names import read_job
from image_repo.transform import render
from image_repo.transform.pool import Limits, Pool, Rendered, WorkerOptions
from image_repo.transform.reduced import Reduced

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVED = [row.kind for row in FORMATS if row.served]


def noise(width: int, height: int) -> Image.Image:
    """Return what no decoder and no encoder gets right by chance."""
    bands = [Image.effect_noise((width, height), sigma) for sigma in (40, 60, 80)]
    return Image.merge("RGB", bands)


RGB = noise(803, 602)
GREY = RGB.convert("L")
ALPHA = RGB.convert("RGBA")
ALPHA.putalpha(Image.linear_gradient("L").resize(RGB.size))
JPEGS = {
    "4:2:0": encode(RGB),
    "4:2:2": encode(RGB, subsampling=1, quality=60),
    "4:4:4": encode(RGB, subsampling=0, quality=97),
    "progressive": encode(RGB, progressive=True, quality=85),
    "display-p3": encode(RGB, icc_profile=profile(P3, 2.2)),
    "adobe-rgb": encode(RGB, icc_profile=profile(ADOBE, 2.2)),
    "no-profile": encode(RGB, icc_profile=b"x" * 300),
    "cut-profile": encode(RGB, icc_profile=profile(P3, 2.2)[:-1]),
    "rgb-inside": encode(RGB, keep_rgb=True),
    "grey": encode(GREY),
    "grey-with-profile": encode(GREY, icc_profile=profile(P3, 2.2)),
    "grey-in-colour": encode(GREY.convert("RGB")),
    "white": encode(Image.new("RGB", RGB.size, "white")),
    "density": encode(RGB, dpi=(300, 150)),
    "comment": encode(RGB, comment=b"a comment"),
    **{f"orientation-{n}": encode(RGB, exif=exif(n)) for n in range(2, 9)},
}
PNG = encode(RGB, "PNG")
OTHERS = {
    "png": PNG,
    "png-grey": encode(GREY, "PNG"),
    "png-alpha": encode(ALPHA, "PNG"),
    "png-grey-alpha": encode(ALPHA.convert("LA"), "PNG"),
    "png-palette": encode(RGB.convert("P"), "PNG"),
    "png-bits": encode(GREY.convert("1"), "PNG"),
    "png-density": encode(RGB, "PNG", dpi=(300, 300)),
    "png-profile": encode(RGB, "PNG", icc_profile=profile(P3, 2.2)),
    "png-turned": encode(RGB, "PNG", exif=exif(6)),
    "png-gamma": PNG[:33] + png_chunk(b"gAMA", struct.pack(">I", 55_555)) + PNG[33:],
    "tif": encode(RGB, "TIFF"),
    "tif-alpha": encode(ALPHA, "TIFF"),
    "tif-tagged": encode(RGB, "TIFF", tiffinfo={271: "Cam", 305: "Shop", 315: "Me"}),
    "tif-turned": encode(RGB, "TIFF", exif=exif(8), dpi=(300, 150)),
    "webp": encode(RGB, "WEBP"),
    "webp-alpha": encode(ALPHA, "WEBP", lossless=True),
    "webp-profile": encode(RGB, "WEBP", icc_profile=profile(ADOBE, 2.2)),
    "bmp": encode(RGB, "BMP"),
    "avif": encode(RGB, "AVIF"),
    "avif-alpha": encode(ALPHA, "AVIF"),
    "avif-profile": encode(RGB, "AVIF", icc_profile=profile(P3, 2.2)),
    "heic": heic(RGB),
    "psd": psd(RGB),
}
ORIGINALS = JPEGS | OTHERS
TEXTS = (
    "w_74.jpg",
    "w_75.webp",
    "w_60.tif",
    "h_70.bmp",
    "w_70.png",
    "w_73-q_35.jpg",
    "h_50-q_90.jpg",
    "w_50-h_50-thumb_els.jpg",
    "w_75-h_60-thumb_es.gif",
    "w_30-h_30-thumb_plain.avif",
)


async def derive(
    pool: Pool, data: bytes, text: str, reduced: Reduced | None = None
) -> Rendered:
    with opened(data) as file:
        return await pool.derive(file, len(data), text, reduced=reduced)


async def derive_and_keep(pool: Pool, data: bytes, text: str) -> tuple[Rendered, bytes]:
    """Return a derived image, and what was written to be kept."""
    with opened(data) as file, tempfile.TemporaryFile(buffering=0) as keep:
        made = await pool.derive(file, len(data), text, keep=keep)
        return made, os.pread(keep.fileno(), 2**30, 0)


async def kept(pool: Pool, data: bytes, text: str) -> tuple[Reduced, bytes]:
    """Return the picture that is kept when this is derived."""
    made, written = await derive_and_keep(pool, data, text)
    assert made.reduced is not None
    assert made.reduced.bytes == len(written)
    said = Reduced.read(made.reduced.as_text())
    assert said is not None
    return said, written


async def is_the_same(pool: Pool, data: bytes, text: str) -> bool:
    """Return whether a derived image is the same without and with what is kept."""
    direct = await derive(pool, data, text)
    first, _ = await derive_and_keep(pool, data, text)
    reduced, written = await kept(pool, data, text)
    later = await derive(pool, written, text, reduced)
    return direct.body == first.body == later.body


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ORIGINALS)
async def test_a_derived_image_is_the_same_from_what_was_kept(
    pool: Pool, name: str, text: str
) -> None:
    assert await is_the_same(pool, ORIGINALS[name], text)


LARGE = encode(noise(3205, 800), quality=80)
EVEN_GREY = encode(noise(1600, 400).convert("L"))


@pytest.mark.parametrize("kind", SERVED)
@pytest.mark.parametrize("stem", ["w_200", "w_400", "w_800", "w_50-h_50-thumb_els"])
async def test_every_kind_and_size_is_the_same_from_what_was_kept(
    pool: Pool, stem: str, kind: str
) -> None:
    assert await is_the_same(pool, LARGE, f"{stem}.{kind}")


@pytest.mark.parametrize("kind", SERVED)
async def test_a_picture_that_has_the_wanted_size_already_is_the_same(
    pool: Pool, kind: str
) -> None:
    assert await is_the_same(pool, EVEN_GREY, f"w_400.{kind}")


async def test_what_was_kept_for_one_size_serves_others_of_the_same_scale(
    pool: Pool,
) -> None:
    reduced, written = await kept(pool, LARGE, "w_400.jpg")

    for text in ("w_300.webp", "w_200.png", "w_399-q_10.jpg", "w_90-thumb_e.jpg"):
        direct = await derive(pool, LARGE, text)
        assert (await derive(pool, written, text, reduced)).body == direct.body


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crediting() -> AsyncIterator[Pool]:
    render = RenderOptions(keep_credit=True)
    options = WorkerOptions(count=1)
    async with Pool(options, Limits(), render, confined=CONFINED) as made:
        yield made


@pytest.mark.parametrize("kind", SERVED)
async def test_credit_is_kept_too(
    crediting: Pool, pool: Pool, tmp_path: Path, kind: str
) -> None:
    data = tagged(tmp_path / "x.jpg", ORIGINALS["display-p3"], TAGS)

    assert await is_the_same(crediting, data, f"w_75.{kind}")
    body = (await derive(crediting, data, f"w_75.{kind}")).body
    assert ("Jürgen".encode() in body) == (kind in {"jpg", "webp", "png", "tif"})
    assert await is_the_same(pool, data, f"w_75.{kind}")


@settings(max_examples=80, deadline=None)
@given(
    width=st.integers(1, 700),
    height=st.integers(1, 600),
    across=st.integers(1, 90),
    mode=st.sampled_from(["RGB", "L", "RGBA"]),
    kind=st.sampled_from(["JPEG", "PNG", "WEBP"]),
    turn=st.integers(1, 8),
)
async def test_any_size_and_turn_is_the_same_from_what_was_kept(
    width: int, height: int, across: int, mode: str, kind: str, turn: int
) -> None:
    if kind == "JPEG" and mode == "RGBA":
        return
    picture = ALPHA.crop((0, 0, width, height)).convert(mode)
    data = encode(picture, kind, exif=exif(turn))
    wanted = render.Wanted(*read_job(f"w_{across}.png"))
    options = Limits(), RenderOptions()
    with tempfile.TemporaryFile(buffering=0) as file:
        direct = render.derive(render.Source(data), wanted, *options, file.fileno())
        if direct.reduced is None:
            return
        source = render.Source(os.pread(file.fileno(), 2**30, 0), direct.reduced)

    assert render.derive(source, wanted, *options).body == direct.body


@pytest.mark.parametrize("text", ["w_300.jpg", "full.png", "w_803.webp"])
async def test_a_picture_that_saves_little_is_not_kept(pool: Pool, text: str) -> None:
    made, written = await derive_and_keep(pool, ORIGINALS["4:2:0"], text)

    assert (made.reduced, written) == (None, b"")


UNKEPT = {
    "cmyk": encode(RGB.convert("CMYK")),
    "cmyk-tif": encode(RGB.convert("CMYK"), "TIFF"),
    "gif": encode(RGB, "GIF"),
    "animation": encode(RGB, "WEBP", save_all=True, append_images=[GREY]),
    "linear": PNG[:33] + png_chunk(b"gAMA", struct.pack(">I", 100_000)) + PNG[33:],
    "deep": encode(Image.frombytes("I;16", (256, 256), os.urandom(2**17)), "PNG"),
}


@pytest.mark.parametrize("name", UNKEPT)
async def test_what_can_not_be_kept_without_loss_is_derived_all_the_same(
    pool: Pool, name: str
) -> None:
    made, written = await derive_and_keep(pool, UNKEPT[name], "w_20.jpg")

    assert (made.reduced, written) == (None, b"")
    assert decode(made.body).width == 20


async def test_a_broken_original_is_the_same_error_when_its_picture_is_to_be_kept(
    pool: Pool,
) -> None:
    data = ORIGINALS["4:2:0"]

    for cut in (data[:100], data[: len(data) // 2], data[: len(data) // 2] + data[-2:]):
        with pytest.raises(BadImageError):
            await derive_and_keep(pool, cut, "w_75.jpg")


async def test_a_disk_that_is_full_costs_nothing_but_the_picture(pool: Pool) -> None:
    data = ORIGINALS["4:2:0"]
    with opened(data) as file, Path("/dev/full").open("r+b", buffering=0) as keep:
        made = await pool.derive(file, len(data), "w_75.jpg", keep=keep)

    assert made.reduced is None
    assert made.body == (await derive(pool, data, "w_75.jpg")).body


async def test_a_file_that_can_not_be_written_costs_nothing_but_the_picture(
    pool: Pool,
) -> None:
    data = ORIGINALS["4:2:0"]
    with opened(data) as file, Path("/dev/null").open("rb", buffering=0) as keep:
        made = await pool.derive(file, len(data), "w_75.jpg", keep=keep)

    assert made.reduced is None
    assert decode(made.body).width == 75


async def test_a_picture_of_another_length_is_an_error_of_its_own(pool: Pool) -> None:
    reduced, written = await kept(pool, LARGE, "w_400.jpg")

    for wrong in (written[:-1], written + b"x", written[:1000], b""):
        with pytest.raises(DeriveError):
            await derive(pool, wrong, "w_400.jpg", reduced)
    with opened(written) as file, pytest.raises(DeriveError, match="shorter"):
        await pool.derive(file, len(written) + 1, "w_400.jpg", reduced=reduced)
    assert pool.crashes == 0


@pytest.mark.parametrize("notes", [b"{}", b"[]", b"no JSON", b'{"credit": 3}'])
async def test_notes_that_are_damaged_are_an_error_of_their_own(
    pool: Pool, notes: bytes
) -> None:
    reduced, written = await kept(pool, LARGE, "w_400.jpg")
    damaged = written[: -reduced.notes] + notes.ljust(reduced.notes)

    with pytest.raises(DeriveError):
        await derive(pool, damaged, "w_400.jpg", reduced)


async def test_a_picture_of_another_scale_makes_nothing(pool: Pool) -> None:
    reduced, written = await kept(pool, LARGE, "w_400.jpg")

    with pytest.raises(DeriveError, match="scale"):
        await derive(pool, written, "w_800.jpg", reduced)


async def test_a_picture_is_within_the_limits_of_its_original(pool: Pool) -> None:
    reduced, written = await kept(pool, LARGE, "w_400.jpg")
    limits = Limits(side=3000)
    async with Pool(
        WorkerOptions(count=1), limits, RenderOptions(), confined=CONFINED
    ) as strict:
        with pytest.raises(TooLargeError):
            await derive(strict, written, "w_400.jpg", reduced)


async def test_the_picture_is_whole_pixels_then_profile_then_notes(pool: Pool) -> None:
    reduced, written = await kept(pool, ORIGINALS["display-p3"], "w_75.jpg")

    after = reduced.pixels + reduced.profile
    assert written[reduced.pixels : after] == profile(P3, 2.2)
    assert json.loads(written[after:])["credit"] == {}
    picture = Image.frombytes("RGB", reduced.size, written[: reduced.pixels])
    assert picture.size == (201, 151)
    assert ImageStat.Stat(picture).mean == pytest.approx(
        ImageStat.Stat(RGB.resize(picture.size)).mean, abs=2
    )


async def test_each_step_of_a_derivation_is_timed(pool: Pool) -> None:
    made, written = await derive_and_keep(pool, LARGE, "w_400.jpg")
    again = await derive(pool, written, "w_400.jpg", made.reduced)

    assert [*made.seconds] == ["queue", "decode", "keep", "modify", "encode"]
    assert [*again.seconds] == ["queue", "decode", "modify", "encode"]
    assert all(0 <= seconds < 60 for seconds in made.seconds.values())


async def test_a_worker_writes_no_more_than_a_picture_has(pool: Pool) -> None:
    limits = Path(f"/proc/{pool._idle[0].process.pid}/limits").read_text()

    assert not CONFINED or "Max file size             67108864" in limits
