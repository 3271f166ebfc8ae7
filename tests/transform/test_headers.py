from __future__ import annotations

import io
import struct
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encode, quarters
from PIL import Image
from transform.samples import KINDS, SIZE, exif, png_chunk, psd

from image_repo.errors import BadImageError, TooLargeError
from image_repo.geometry import Size
from image_repo.transform.headers import (
    MAX_SCANS,
    Limits,
    check,
    pixels_only,
    read_header,
)
from image_repo.transform.reading import MAX_FRAMES

TURNED = {
    "JPEG": 6,
    "PNG": 6,
    "WEBP": 6,
    "TIFF": 6,
}


@pytest.mark.parametrize("name", KINDS)
def test_format_and_size_are_found(name: str) -> None:
    header = read_header(KINDS[name])

    assert header.format.kind == name.partition("-")[0]
    assert header.size == SIZE
    assert (header.frames, header.orientation) == (1, 1)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_cut_anywhere_is_an_error(name: str) -> None:
    data = KINDS[name]
    # AVIF, HEIC and TIFF may keep anything behind the pixels; these do not.
    for end in {*range(0, len(data), max(1, len(data) // 300)), len(data) - 1}:
        with pytest.raises(BadImageError):
            read_header(data[:end])


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_found(kind: str, orientation: int) -> None:
    data = encode(quarters(*SIZE), kind, exif=exif(orientation))

    header = read_header(data)

    assert header.orientation == orientation
    assert header.upright == (SIZE if orientation < 5 else SIZE[::-1])


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_means_upright(orientation: int) -> None:
    data = encode(quarters(), "JPEG", exif=exif(orientation))

    assert read_header(data).orientation == 1


@pytest.mark.parametrize(
    "junk", [b"", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", b"II*\0\xff"]
)
def test_damaged_exif_means_upright(junk: bytes) -> None:
    data = encode(quarters(), "JPEG", exif=b"Exif\0\0" + junk)

    assert read_header(data).orientation == 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_frames_are_counted(kind: str) -> None:
    others = [
        quarters().rotate(180),
        quarters().transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    ]
    data = encode(quarters(), kind, save_all=True, append_images=others)

    assert read_header(data).frames == 3


def test_counting_frames_of_a_gif_stops() -> None:
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    begun = time.process_time()

    header = read_header(head + frame * 500_000 + b";")

    assert header.frames == MAX_FRAMES
    assert time.process_time() - begun < 1
    with pytest.raises(TooLargeError, match="frames"):
        check(header, Limits())


def test_a_gif_without_a_canvas_is_as_large_as_its_first_frame() -> None:
    data = bytearray(KINDS["gif"])
    data[6:10] = bytes(4)

    assert read_header(bytes(data)).size == SIZE


def test_a_jpeg_of_more_scans_than_any_encoder_writes_is_too_large() -> None:
    data = KINDS["jpg"]
    at = data.index(b"\xff\xda")
    scan = data[at:-2]

    header = read_header(data[:-2] + scan * (MAX_SCANS + 1) + b"\xff\xd9")

    with pytest.raises(TooLargeError, match="scans"):
        check(header, Limits())


def test_what_stands_behind_the_end_of_a_jpeg_is_no_matter() -> None:
    assert read_header(KINDS["jpg"] + b"a film of three seconds").size == SIZE


@pytest.mark.parametrize(
    ("limits", "word"),
    [
        (Limits(pixels=64 * 48 - 1), "pixels"),
        (Limits(side=63), "side"),
        (replace(Limits(), heif_pixels=64 * 48 - 1), "pixels"),
    ],
)
def test_an_image_beyond_a_limit_is_too_large(limits: Limits, word: str) -> None:
    with pytest.raises(TooLargeError, match=word):
        check(read_header(KINDS["avif"]), limits)


def test_an_image_at_the_limits_is_not_too_large() -> None:
    check(read_header(KINDS["heic"]), Limits(64 * 48, 64 * 48, 64, 1))


def forged() -> dict[str, bytes]:
    """Files of some hundred bytes that say they are 60000 pixels wide and high."""
    side = 60_000
    jpg, png = (bytearray(KINDS[kind]) for kind in ("jpg", "png"))
    at = jpg.index(b"\xff\xc0") + 5
    jpg[at : at + 4] = struct.pack(">HH", side, side)
    png[16:24] = struct.pack(">II", side, side)
    gif = bytearray(KINDS["gif"])
    gif[6:10] = struct.pack("<HH", side, side)
    bits = (side // 4 - 1) | (side // 4 - 1) << 14
    lossless = b"WEBPVP8L" + struct.pack("<IBIB", 5, 0x2F, bits, 0) + b"\0"
    avif = bytearray(KINDS["avif"])
    at = avif.index(b"ispe") + 8
    avif[at : at + 8] = struct.pack(">II", side, side)
    return {
        "jpg": bytes(jpg),
        "png": bytes(png),
        "gif": bytes(gif),
        "webp": b"RIFF" + struct.pack("<I", len(lossless)) + lossless,
        "avif": bytes(avif),
    }


FORGED = forged()


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_size_is_refused_at_once(kind: str) -> None:
    begun = time.process_time()

    with pytest.raises(TooLargeError):
        check(read_header(FORGED[kind]), Limits())

    assert time.process_time() - begun < 0.1


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0)])
def test_an_image_without_pixels_is_an_error(sizes: tuple[int, int]) -> None:
    data = bytearray(KINDS["png"])
    data[16:24] = struct.pack(">II", *sizes)

    with pytest.raises(BadImageError):
        read_header(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"push graphic-context",
        b"%!PS-Adobe-3.0",
        b"%PDF-1.7",
        b"<?xml version='1.0'?><image><read filename='/etc/passwd'/></image>",
        b"\xff\xd8\xff\xd9",
        b"\x89PNG\r\n\x1a\n" + png_chunk(b"IEND", b""),
        b"GIF89a" + bytes(7) + b";",
        b"RIFF\x04\0\0\0WEBP",
        b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        b"8BPS\0\x02" + bytes(100),
    ],
)
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(BadImageError):
        read_header(data)


@pytest.mark.parametrize("name", KINDS)
@given(
    at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), more=st.binary()
)
def test_a_changed_file_is_read_or_is_an_error(
    name: str, at: float, value: int, more: bytes
) -> None:
    data = bytearray(KINDS[name])
    place = int(at * len(data))
    data[place : place + len(more) + 1] = bytes([value]) + more
    try:
        header = read_header(bytes(data))
    except BadImageError:
        return
    assert min(header.size) >= 1


def test_tiffs_whose_directories_form_a_loop_are_an_error() -> None:
    data = bytearray(KINDS["tif"])
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    struct.pack_into("<I", data, at + 2 + 12 * count, at)

    with pytest.raises(BadImageError, match="loop"):
        read_header(bytes(data))


def test_run_length_bitmaps_must_have_their_end() -> None:
    pixels = b"\x04\x01\0\0" * 3
    head = struct.pack("<IiiHHIIiiII", 40, 4, 3, 1, 8, 1, len(pixels) + 2, 0, 0, 2, 0)
    start = 14 + len(head) + 8
    data = b"BM" + struct.pack("<IHHI", 0, 0, 0, start) + head + bytes(8) + pixels

    assert read_header(data + b"\0\1").size == Size(4, 3)
    with pytest.raises(BadImageError, match="incomplete"):
        read_header(data + b"\0\0")


def test_a_photoshop_file_may_be_packed() -> None:
    picture = quarters(4, 2)
    plain = psd(picture)
    rows = struct.pack(">6H", *[5] * 6) + 6 * b"\x03abcd"

    assert read_header(plain[:38] + b"\0\1" + rows).size == Size(4, 2)
    with pytest.raises(BadImageError, match="incomplete"):
        read_header(plain[:38] + b"\0\1" + rows[:-1])
    with pytest.raises(BadImageError, match="not read"):
        read_header(plain[:38] + b"\0\3" + rows)


def test_a_png_keeps_only_chunks_that_pixels_need() -> None:
    picture = quarters()
    plain = encode(picture, "PNG")
    text = png_chunk(b"zTXt", b"Comment\0\0" + bytes(100))
    data = plain[:33] + text + plain[33:]

    found = pixels_only(data, read_header(data))

    assert found == plain
    assert Image.open(io.BytesIO(found)).size == picture.size
    assert pixels_only(plain, read_header(plain)) is plain
