"""What workers make, judged by Pillow; the modules under test run in a real worker."""

from __future__ import annotations

import re
import struct

import pytest
from pictures import BLUE, GREEN, RED, WHITE, decode, encode, quarters
from PIL import Image, ImageChops, ImageOps, ImageStat
from transform.conftest import Derive
from transform.samples import (
    ADOBE,
    KINDS,
    P3,
    SIZE,
    as_srgb,
    every_kind,
    exif,
    heic,
    png_chunk,
    profile,
)

from image_repo.errors import BadImageError, TooLargeError
from image_repo.formats import FORMATS, Format
from image_repo.transform.pool import Pool

pytestmark = pytest.mark.asyncio(loop_scope="module")

SERVED = [row for row in FORMATS if row.served]
PILLOW = {"jpg": "JPEG", "tif": "TIFF"}
MAGENTA = (255, 0, 255)
METADATA = re.compile(
    rb"Exif|http://ns\.adobe|xmpmeta|Photoshop 3|ICC_PROFILE|iCCP|ICCP|EXIF|XMP |tEXt"
    rb"|zTXt|iTXt|eXIf|tIME|colrprof|acsp|SECRET|ImageMagick"
)


def far(one: Image.Image, other: Image.Image) -> float:
    """Return the largest mean difference of a channel."""
    assert one.size == other.size
    difference = ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
    return max(ImageStat.Stat(difference).mean)


def corners(picture: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours in the middle of each quarter."""
    picture = picture.convert("RGB")
    across, down = picture.size
    places = [
        (x, y)
        for y in (down // 4, 3 * down // 4)
        for x in (across // 4, 3 * across // 4)
    ]
    found = (picture.getpixel(place) for place in places)
    return [pixel for pixel in found if isinstance(pixel, tuple)]


def near(
    found: list[tuple[int, ...]], wanted: list[tuple[int, ...]], by: int = 16
) -> bool:
    pairs = zip(found, wanted, strict=True)
    return all(abs(f - w) <= by for a, b in pairs for f, w in zip(a, b, strict=True))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.kind)
async def test_every_kind_becomes_every_kind(
    derive: Derive, name: str, row: Format
) -> None:
    body = await derive(KINDS[name], f"w_32.{row.kind}")

    picture = decode(body)
    assert picture.format == PILLOW.get(row.kind, row.kind.upper())
    assert picture.size == (32, 24)
    assert getattr(picture, "n_frames", 1) == 1
    assert near(corners(picture), [RED, GREEN, BLUE, WHITE], 24)


async def test_every_kind_that_is_served_can_be_written(pool: Pool) -> None:
    assert pool.kinds == {row.kind for row in SERVED}


@pytest.mark.parametrize("name", KINDS)
async def test_full_size_keeps_every_pixel(derive: Derive, name: str) -> None:
    assert far(decode(await derive(KINDS[name])), quarters(*SIZE)) < 4


@pytest.mark.parametrize("text", ["full.png", "w_24.png", "h_24.png", "w_16-h_20.png"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
async def test_pictures_come_out_upright(
    derive: Derive, kind: str, orientation: int, text: str
) -> None:
    upright = quarters(256, 192)
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    tagged = encode(upright, "PNG", exif=exif(inverse))
    stored = ImageOps.exif_transpose(decode(tagged))
    stored.info.clear()
    data = encode(stored, kind, exif=exif(orientation), quality=95)

    found = decode(await derive(data, text))

    assert near(corners(found), [RED, GREEN, BLUE, WHITE])
    expected = {
        "full.png": (256, 192),
        "w_24.png": (24, 18),
        "h_24.png": (32, 24),
        "w_16-h_20.png": (16, 12),
    }
    assert found.size == expected[text]


@pytest.mark.parametrize("primaries", [P3, ADOBE], ids=["display-p3", "adobe-rgb"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIC"])
@pytest.mark.parametrize("text", ["full.png", "w_24.png"])
async def test_colours_of_another_profile_become_srgb(
    derive: Derive,
    primaries: tuple[tuple[float, float, float], ...],
    kind: str,
    text: str,
) -> None:
    icc = profile(primaries, 2.2)
    if kind == "HEIC":
        data = heic(quarters(*SIZE), icc_profile=icc)
    else:
        data = encode(quarters(*SIZE), kind, icc_profile=icc, quality=98)
    wanted = corners(as_srgb(quarters(*SIZE), icc))
    assert not near(wanted, [RED, GREEN, BLUE, WHITE])

    found = decode(await derive(data, text))

    assert near(corners(found), wanted, 8)
    assert not found.info.get("icc_profile")


@pytest.mark.parametrize("icc", [b"x" * 300, profile(P3, 2.2)[:-1]])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif"])
async def test_a_profile_that_is_damaged_is_ignored(
    derive: Derive, icc: bytes, kind: str
) -> None:
    data = encode(quarters(*SIZE), "JPEG", icc_profile=icc, subsampling=0)

    found = decode(await derive(data, f"full.{kind}"))

    assert near(corners(found), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
async def test_cmyk_becomes_srgb(derive: Derive, kind: str) -> None:
    data = encode(quarters(*SIZE).convert("CMYK"), kind)

    found = decode(await derive(data, "w_32.jpg"))

    assert found.mode == "RGB"
    assert near(corners(found), [RED, GREEN, BLUE, WHITE], 24)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "I;16"])
@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "gif"])
async def test_grey_and_palette_pictures_are_derived(
    derive: Derive, mode: str, kind: str
) -> None:
    grey = Image.linear_gradient("L")
    if mode == "I;16":
        picture = Image.frombytes(
            "I;16",
            (256, 256),
            b"".join(struct.pack("<H", v * 257) for v in grey.tobytes()),
        )
    else:
        picture = grey.convert(mode)

    found = decode(await derive(encode(picture, "PNG"), f"w_64.{kind}"))

    assert far(found, grey.resize((64, 64), Image.Resampling.LANCZOS)) < (
        90 if mode == "1" else 8
    )


@pytest.mark.parametrize("source", ["PNG", "WEBP", "GIF", "TIFF"])
@pytest.mark.parametrize("kind", ["jpg", "bmp"])
async def test_transparency_is_laid_on_the_background(
    derive: Derive, source: str, kind: str
) -> None:
    picture = quarters(*SIZE).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 24))

    found = decode(await derive(encode(picture, source), f"w_32.{kind}"))

    assert near(corners(found), [WHITE, GREEN, BLUE, WHITE], 24)


async def test_transparency_in_avif_stays_or_is_laid_on_the_background(
    derive: Derive,
) -> None:
    picture = quarters(*SIZE).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 24))

    found = decode(await derive(encode(picture, "PNG"), "w_32.avif"))

    if found.mode == "RGB":  # ImageMagick 6 writes none
        assert near(corners(found), [WHITE, GREEN, BLUE, WHITE], 24)
    else:
        assert found.getpixel((4, 4))[3] == 0  # type: ignore[index]


@pytest.mark.parametrize("kind", ["png", "webp", "gif", "tif"])
async def test_transparency_stays_where_the_kind_can_hold_it(
    derive: Derive, kind: str
) -> None:
    picture = quarters(*SIZE).convert("RGBA")
    picture.paste((0, 0, 0, 0), (0, 0, 32, 24))

    found = decode(await derive(encode(picture, "PNG"), f"w_32.{kind}")).convert("RGBA")

    assert found.getpixel((4, 4))[3] == 0  # type: ignore[index]
    assert found.getpixel((28, 20))[3] == 255  # type: ignore[index]


@pytest.mark.parametrize("size", [(1000, 80), (80, 1000)])
async def test_a_thumbnail_of_a_very_long_picture_is_cut_to_five_to_one(
    derive: Derive, size: tuple[int, int]
) -> None:
    data = encode(quarters(*size), "JPEG", quality=95)

    liquid = decode(await derive(data, "w_50-h_50-thumb_l.png"))
    plain = decode(await derive(data, "w_50-h_50-thumb_plain.png"))

    assert sorted(liquid.size) == [10, 50]
    assert sorted(plain.size) == [4, 50]


@pytest.mark.parametrize("letters", ["els", "e", "l", "s", "el", "es", "ls", "plain"])
async def test_every_thumbnail_comes_out(derive: Derive, letters: str) -> None:
    found = decode(await derive(KINDS["jpg"], f"w_20-h_20-thumb_{letters}.jpg"))

    assert found.size == (20, 15)


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
async def test_the_first_frame_lies_on_its_canvas(derive: Derive, kind: str) -> None:
    first = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    first.paste((*RED, 128), (32, 24, 64, 48))
    second = Image.new("RGBA", SIZE, BLUE)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(
        first, kind, save_all=True, append_images=[second], duration=100, **options
    )

    found = decode(await derive(data)).convert("RGBA")

    assert found.size == SIZE
    assert found.getpixel((4, 4))[3] == 0  # type: ignore[index]
    red = found.getpixel((48, 36))
    assert isinstance(red, tuple)
    assert near([red[:3]], [RED])


async def test_a_gif_frame_smaller_than_its_canvas_is_put_in_its_place(
    derive: Derive,
) -> None:
    # A 4x4 canvas; one red pixel at (2, 1).
    head = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(RED) + bytes(3)
    frame = b"\x2c" + struct.pack("<HHHHB", 2, 1, 1, 1, 0) + b"\x02\x02\x44\x01\x00;"

    found = decode(await derive(head + frame)).convert("RGBA")

    assert found.size == (4, 4)
    opaque = [(x, y) for x in range(4) for y in range(4) if found.getpixel((x, y))[3]]  # type: ignore[index]
    assert opaque == [(2, 1)]


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.kind)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
async def test_no_metadata_comes_out(derive: Derive, kind: str, row: Format) -> None:
    xmp = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>SECRETPLACE</x:xmpmeta>"
    options = {"comment": b"SECRETWORD"} if kind == "JPEG" else {}
    data = encode(
        quarters(*SIZE),
        kind,
        exif=exif(1),
        xmp=xmp,
        icc_profile=profile(P3, 2.2),
        **options,
    )
    assert b"SECRET" in data

    body = await derive(data, f"w_32.{row.kind}")

    assert not METADATA.search(body)
    picture = decode(body)
    assert not {"exif", "icc_profile", "xmp", "comment", "XML:com.adobe.xmp"} & {
        *picture.info
    }
    if row.kind != "tif":  # a TIFF's own tags look like EXIF
        assert not picture.getexif()


@pytest.mark.parametrize("kind", ["jpg", "webp", "avif"])
async def test_an_original_of_high_quality_does_not_make_the_result_large(
    derive: Derive, kind: str
) -> None:
    noise = Image.effect_noise((400, 300), 60).convert("RGB")
    sizes = [
        len(
            await derive(
                encode(noise, "JPEG", quality=q, subsampling=0), f"w_200.{kind}"
            )
        )
        for q in (80, 100)
    ]

    assert sizes[1] < 1.2 * sizes[0]


async def test_the_same_job_gives_the_same_bytes(derive: Derive) -> None:
    for row in SERVED:
        first = await derive(KINDS["png"], f"w_32.{row.kind}")
        await derive(KINDS["jpg"], "w_16.gif")

        assert await derive(KINDS["png"], f"w_32.{row.kind}") == first


async def test_a_large_jpeg_shrinks_to_what_a_good_filter_makes_of_it(
    derive: Derive,
) -> None:
    picture = Image.merge(
        "RGB", [Image.effect_mandelbrot((1200, 900), (-2, -1.2, 1, 1.2), 60)] * 3
    )
    for width in (40, 100, 149, 150, 151, 300, 599, 601):
        found = decode(
            await derive(encode(picture, "JPEG", quality=98), f"w_{width}.png")
        )

        wanted = picture.resize(found.size, Image.Resampling.LANCZOS)
        assert far(found, wanted) < 3


async def test_a_result_larger_than_its_format_can_hold_is_refused(
    derive: Derive,
) -> None:
    data = encode(Image.new("1", (17_000, 2)), "PNG")

    with pytest.raises(TooLargeError, match="webp"):
        await derive(data, "full.webp")


@pytest.mark.parametrize("name", KINDS)
async def test_a_truncated_file_is_an_error_and_shows_nothing_of_the_one_before(
    derive: Derive, name: str
) -> None:
    magenta = every_kind(Image.new("RGB", (512, 512), MAGENTA))
    grey = every_kind(Image.linear_gradient("L").resize((512, 512)).convert("RGB"))[
        name
    ]
    for share in (0.3, 0.6, 0.9, 0.99):
        await derive(magenta[name])

        with pytest.raises(BadImageError):
            await derive(grey[: int(share * len(grey))])


def patched(name: str, data: bytes, share: float) -> bytes:
    """Return *data* without their last pixels, but with all ends in their place."""
    cut = int(share * len(data))
    if name.startswith("jpg"):
        return data[:cut] + b"\xff\xd9"
    if name == "png":
        chunk = data[data.index(b"IDAT") + 4 : -16]
        kept = chunk[: int(share * len(chunk))]
        return (
            data[: data.index(b"IDAT") - 4]
            + png_chunk(b"IDAT", kept)
            + png_chunk(b"IEND", b"")
        )
    if name == "gif":
        at = data.rindex(b"\x2c" + bytes(4)) + 11
        at += 1 + data[at] if not share else 1
        return data[: max(at, cut) - (max(at, cut) - at) % 256] + b"\0;"
    return data[:cut] + bytes(len(data) - cut)


def near_magenta(pixel: object) -> bool:
    return isinstance(pixel, tuple) and near([pixel], [MAGENTA])


@pytest.mark.parametrize("name", KINDS)
async def test_missing_pixels_between_whole_ends_never_show_the_image_before(
    derive: Derive, name: str
) -> None:
    noise = Image.effect_noise((512, 512), 90).convert("RGB")
    magenta = every_kind(Image.new("RGB", (512, 512), MAGENTA))[name]
    data = every_kind(noise)[name]
    for share in (0.2, 0.5, 0.8):
        await derive(magenta)
        await derive(magenta, "w_256.png")
        try:
            body = await derive(patched(name, data, share))
        except BadImageError:
            continue
        colours = decode(body).convert("RGB").getcolors(2**24)
        assert colours is not None
        assert sum(count for count, pixel in colours if near_magenta(pixel)) < 10
