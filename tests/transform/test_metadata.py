"""What is told of originals, and that nothing in them makes it wrong, long or slow."""

from __future__ import annotations

import json
import struct
import time
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, quarters
from transform.attaching import (
    SECRET,
    directory,
    jpeg_with,
    jpeg_with_exif,
    png_with_exif,
    tagged,
    webp_with_xmp,
    xmp,
)
from transform.samples import KINDS, P3, exif, opened, png_chunk, profile

from image_repo.transform import metadata, tiff
from image_repo.transform.fields import FACTS, FIELDS, GROUPS
from image_repo.transform.headers import read_header
from image_repo.transform.pool import Pool

HOLD_ALL = ("jpg", "png", "webp", "tif", "heic", "avif", "psd")
"""Kinds into which exiftool writes EXIF and XMP."""

Told = dict[str, object]


def told(data: bytes, *groups: str) -> Told:
    """Return what is told of an original, as JSON brings it over, within its bounds."""
    begun = time.process_time()
    text = metadata.as_json(metadata.read(data, read_header(data), groups))
    assert time.process_time() - begun < 1
    assert len(text) <= metadata.MAX_ANSWER
    found = json.loads(text)
    assert isinstance(found, dict)
    assert found["width"] > 0
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """An original of every kind, with all that can be told."""
    folder = tmp_path_factory.mktemp("full")
    return {kind: tagged(folder / f"x.{kind}", KINDS[kind]) for kind in HOLD_ALL}


@pytest.mark.parametrize("kind", HOLD_ALL)
def test_every_kind_tells_what_is_attached(kind: str, full: dict[str, bytes]) -> None:
    found = told(full[kind])

    facts = {name for name, _ in FACTS}
    assert {n: v for n, v in found.items() if n not in facts and n[:4] != "reso"} == {
        "camera_make": "Cam",
        "camera_model": "X1",
        "lens": "50mm",
        "software": "Shop 1.0",
        "taken": "2024-05-06T07:08:09.12+09:30",
        "exposure_seconds": 0.005,
        "f_number": 2.8,
        "iso": 400,
        "focal_length_mm": 50,
        "title": "A tree",
        "description": "Ein Bäumchen",
        "keywords": ["tree", "bush"],
        "rating": 4,
        "artist": "Jürgen Groß",
        "copyright": "© Me 2024",
    }
    assert [found[n] for n in ("format", "width", "height", "colour", "bits")] == [
        kind,
        64,
        48,
        "rgb",
        8,
    ]


@pytest.mark.parametrize("kind", HOLD_ALL)
def test_place_serials_and_owner_are_told_only_where_revealed(
    kind: str, full: dict[str, bytes]
) -> None:
    data = full[kind]
    assert SECRET.encode() in data
    hidden = {field.name for field in FIELDS if field.group}

    plain, all_of_it = told(data), told(data, *GROUPS)

    assert SECRET not in json.dumps(plain)
    assert not hidden & plain.keys()
    assert (all_of_it["latitude"], all_of_it["longitude"]) == (-34.9, 117.5)
    assert all_of_it["altitude"] == -12.5
    for name in ("city", "sublocation", "camera_serial", "lens_serial", "owner"):
        assert all_of_it[name] == SECRET
    for group in GROUPS:
        alone = told(data, group).keys() - plain.keys()
        assert alone == {f.name for f in FIELDS if f.group == group} & all_of_it.keys()


def test_iptc_alone_is_told(tmp_path: Path) -> None:
    tags = [
        "-IPTC:ObjectName=A tree",
        "-IPTC:Keywords=tree",
        "-IPTC:Keywords=Büsche",
        "-IPTC:By-line=Jürgen",
        "-IPTC:By-line=Anna",
        "-IPTC:CopyrightNotice=© Me",
        "-IPTC:DateCreated=2024:05:06",
        "-IPTC:TimeCreated=07:08:09+02:00",
        "-IPTC:Contact=me@example.org",
        "-IPTC:Credit=Agency",
    ]
    for kind in ("jpg", "tif", "psd"):
        found = told(tagged(tmp_path / f"x.{kind}", KINDS[kind], tags))

        assert found["title"] == "A tree"
        assert found["keywords"] == ["tree", "Büsche"]
        assert found["artist"] == "Jürgen; Anna"
        assert found["copyright"] == "© Me"
        assert found["credit"] == "Agency"
        assert found["taken"] == "2024-05-06T07:08:09+02:00"
        assert "contact" not in found


def test_a_gif_tells_its_xmp(tmp_path: Path) -> None:
    found = told(tagged(tmp_path / "x.gif", KINDS["gif"]), "location")

    assert found["title"] == "A tree"
    assert found["keywords"] == ["tree", "bush"]
    assert found["city"] == SECRET


def test_texts_of_a_png_are_told() -> None:
    latin = b"Author\0J\xfcrgen"
    packed = b"Title\0\0" + zlib.compress(b"A tree")
    international = b"Description\0\1\0de\0Beschreibung\0" + zlib.compress(
        "Ein Bäumchen".encode()
    )
    chunks = (
        png_chunk(b"tEXt", latin)
        + png_chunk(b"zTXt", packed)
        + png_chunk(b"iTXt", international)
        + png_chunk(b"tEXt", b"Whatever\0it is")
    )
    png = KINDS["png"]

    found = told(png[:33] + chunks + png[33:])

    assert found["artist"] == "Jürgen"
    assert found["title"] == "A tree"
    assert found["description"] == "Ein Bäumchen"
    assert "it is" not in json.dumps(found)


def test_profiles_in_texts_of_a_png_are_told() -> None:
    raw = exif(1)
    text = f"\nexif\n{len(raw):8}\n{raw.hex()}\n".encode()
    chunk = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    png = KINDS["png"]

    assert told(png[:33] + chunk + png[33:])["camera_make"] == "SECRETMAKER"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_the_profile_of_colours_has_its_name(kind: str) -> None:
    data = encode(quarters(), kind, icc_profile=profile(P3, 2.2))

    assert told(data)["colour_profile"] == "test"


@pytest.mark.parametrize(
    ("mode", "kind", "colour", "bits"),
    [
        ("L", "JPEG", "grey", 8),
        ("CMYK", "JPEG", "cmyk", 8),
        ("1", "PNG", "grey", 1),
        ("I;16", "PNG", "grey", 16),
        ("P", "PNG", "rgb", 8),
        ("RGBA", "PNG", "rgb", 8),
        ("CMYK", "TIFF", "cmyk", 8),
        ("I;16", "TIFF", "grey", 16),
        ("P", "GIF", "rgb", 8),
    ],
)
def test_colours_are_told(mode: str, kind: str, colour: str, bits: int) -> None:
    found = told(encode(quarters().convert(mode), kind))

    assert (found["colour"], found["bits"]) == (colour, bits)


def test_size_is_upright_and_the_orientation_says_how_it_is_stored() -> None:
    found = told(encode(quarters(64, 48), "JPEG", exif=exif(6)))

    assert [found[name] for name in ("width", "height", "orientation")] == [48, 64, 6]


def test_of_several_languages_the_default_is_told() -> None:
    titles = (
        "<dc:title><rdf:Alt><rdf:li xml:lang='de'>Baum</rdf:li>"
        "<rdf:li xml:lang='x-default'>tree</rdf:li></rdf:Alt></dc:title>"
    )
    licence = "<cc:license rdf:resource='https://example.org/by'/>"
    found = told(webp_with_xmp(xmp(titles + licence, "xmp:Rating='3'")))

    assert found["title"] == "tree"
    assert found["licence"] == "https://example.org/by"
    assert found["rating"] == 3


def test_xmp_in_utf_16_is_read() -> None:
    packet = xmp("<dc:title>Bäumchen</dc:title>").decode()

    assert told(webp_with_xmp(packet.encode("utf-16")))["title"] == "Bäumchen"


# -- hostile ones ----------------------------------------------------------------------

ASCII, RATIONAL, SHORT = 2, 5, 3


@pytest.mark.parametrize(
    "broken",
    [
        b"",
        b"II*\0",
        b"II*\0\x08\0\0\0\xff\xff",
        b"MM\0*\xff\xff\xff\xff",
        # its directories lead to each other and to themselves
        directory((34665, 4, 1, struct.pack("<I", 8)), (34853, 4, 1, bytes(4))),
        directory(*[(34665, 4, 1, struct.pack("<I", 8))] * 4000),
        # values that lie outside, are too many, or of types that are none
        directory((271, ASCII, 2**32 - 1, struct.pack("<I", 2**32 - 1))),
        directory((0x829A, RATIONAL, 2**31, struct.pack("<I", 8))),
        directory((0x829A, 99, 1, bytes(4)), (0x8827, 0, 1, bytes(4))),
        directory((0x8827, ASCII, 3, b"\xff\xfe\xfd\0")),
    ],
)
def test_broken_exif_costs_only_itself(broken: bytes) -> None:
    for data in (jpeg_with_exif(broken), png_with_exif(broken)):
        assert told(data, *GROUPS)["format"] in {"jpg", "png"}


def test_what_is_whole_in_broken_exif_is_told() -> None:
    data = jpeg_with_exif(
        directory(
            (271, ASCII, 500, struct.pack("<I", 2**31)),
            (272, ASCII, 4, b"X1\0\0"),
            (0x829A, RATIONAL, 1, struct.pack("<I", 10**6)),
            (0x8827, SHORT, 1, struct.pack("<HH", 400, 0)),
        )
    )

    found = told(data)

    assert (found["camera_model"], found["iso"]) == ("X1", 400)
    assert "camera_make" not in found


def test_types_that_do_not_fit_are_left_out() -> None:
    rational = struct.pack("<II", 1, 0)
    data = jpeg_with_exif(
        tiff.write(
            {
                271: (RATIONAL, rational),
                0x829A: (RATIONAL, rational),
                0x829D: (12, struct.pack("<d", float("nan"))),
                0x8827: (ASCII, b"fast\0"),
                0x9003: (SHORT, struct.pack("<H", 2024)),
                0x920A: (11, struct.pack("<f", 50.5)),
                0x9204: (10, struct.pack("<ii", -1, 3)),
                34853: (SHORT, b"\1\0"),
            }
        )
    )

    found = told(data, *GROUPS)

    assert found["focal_length_mm"] == 50.5
    assert found["exposure_bias"] == pytest.approx(-1 / 3)
    assert not {"exposure_seconds", "f_number", "iso"} & found.keys()


def test_texts_of_other_encodings_are_read_as_latin_1() -> None:
    data = jpeg_with_exif(tiff.write({315: (ASCII, b"J\xfcrgen\0")}))

    assert told(data)["artist"] == "Jürgen"


def test_a_directory_of_many_long_values_is_read_in_no_time() -> None:
    entries = [(tag, RATIONAL, 30_000, struct.pack("<I", 8)) for tag in range(4000)]
    data = png_with_exif(directory(*entries) + bytes(250_000))

    assert told(data, *GROUPS)["format"] == "png"


def test_exif_beyond_its_bound_is_not_looked_at() -> None:
    far = directory((271, ASCII, 6, struct.pack("<I", 300_000)))
    near = directory((271, ASCII, 6, struct.pack("<I", 200_000)))
    for start, seen in ((far, False), (near, True)):
        at = 300_000 if start is far else 200_000
        data = png_with_exif(start.ljust(at, b"\0") + b"Maker\0")

        assert ("camera_make" in told(data)) is seen


BOMB = (
    "<!DOCTYPE x [<!ENTITY a 'boom'>"
    + "".join(
        f"<!ENTITY {new} '{f'&{old};' * 10}'>"
        for old, new in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]>"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xmp_has_no_entities(encoding: str) -> None:
    packet = BOMB + xmp("<dc:title>&i;</dc:title>").decode().partition("?>")[2]

    found = told(webp_with_xmp(packet.encode(encoding)))

    assert "title" not in found
    assert "boom" not in json.dumps(found)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be"])
def test_no_encoding_hides_an_entity(encoding: str) -> None:
    # A small one, which the parser's own bounds on entities let pass.
    packet = (
        "<!DOCTYPE x [<!ENTITY a 'boom'>]>"
        + xmp("<dc:title>&a;</dc:title>").decode().partition("?>")[2]
    )

    assert "title" not in told(webp_with_xmp(packet.encode(encoding)))


def test_xmp_reads_no_file() -> None:
    packet = (
        "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]>"
        + xmp("<dc:title>&a;</dc:title>").decode().partition("?>")[2]
    )

    assert "root" not in json.dumps(told(webp_with_xmp(packet.encode())))


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"<",
        b"\0" * 1000,
        b"\xff\xfe<",
        b"<?xml version='1.0' encoding='utf-7'?><x/>",
        b"<a>" * 80_000,
        xmp("<dc:title>" * 20_000),
        xmp("<dc:title><rdf:Alt>" + "<rdf:li>x</rdf:li>" * 10_000),
        xmp("", " ".join(f"dc:a{n}='{n}'" for n in range(20_000))),
    ],
)
def test_broken_xmp_costs_only_itself(packet: bytes) -> None:
    assert told(webp_with_xmp(packet))["format"] == "webp"


def test_of_damaged_xmp_what_comes_before_the_damage_is_told() -> None:
    packet = xmp("<dc:title>A tree</dc:title><dc:subject>") + b"<<<"
    bad_bytes = xmp("<dc:title>A tr\xff</dc:title>").replace("ÿ".encode(), b"\xff")

    assert told(webp_with_xmp(packet))["title"] == "A tree"
    assert told(webp_with_xmp(bad_bytes))["title"] == "A tr\ufffd"


def test_a_hundred_thousand_keywords_are_told_in_part() -> None:
    items = "".join(f"<rdf:li>{n:05}</rdf:li>" for n in range(100_000))
    packet = xmp(f"<dc:subject><rdf:Bag>{items}</rdf:Bag></dc:subject>")
    iptc = b"".join(b"\x1c\2\x19\0\5%05d" % n for n in range(100_000))
    block = b"Photoshop 3.0\0" + b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc

    for data in (webp_with_xmp(packet), jpeg_with(0xED, block)):
        found = told(data)["keywords"]

        assert isinstance(found, list)
        assert 100 < len(found) <= 500
        assert found[:2] == ["00000", "00001"]


@pytest.mark.parametrize(
    "block",
    [
        b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\xff\xff\xff\xff\x1c\2",
        b"Photoshop 3.0\0" + b"8BIM\4\4\xff",
        b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\5\x1c\2\x19\xff\xff",
        b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\7\x1c\2\x19\0\0\x1c\2",
    ],
)
def test_broken_iptc_costs_only_itself(block: bytes) -> None:
    assert told(jpeg_with(0xED, block))["format"] == "jpg"


def test_the_answer_is_never_longer_than_its_bound() -> None:
    long = "\U0001f333" * 5000
    names = [name for field in FIELDS for name in field.xmp if ":" in name]
    inside = "".join(
        f"<{n}>{long}</{n}>" for n in names if n[:3] in {"dc:", "cc:", "pho"}
    )

    found = told(webp_with_xmp(xmp(inside)[: 256 * 2**10]), *GROUPS)

    assert isinstance(found["title"], str)
    assert len(found["title"]) == 2000


def test_texts_of_a_png_that_unfold_to_gigabytes_are_not_unfolded() -> None:
    packed = zlib.compress(bytes(100_000_000))
    chunks = b"".join(
        png_chunk(b"zTXt", word + b"\0\0" + packed)
        for word in (b"Title", b"Author", b"Raw profile type exif") * 20
    )
    png = KINDS["png"]

    assert told(png[:33] + chunks + png[33:])["format"] == "png"


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damage_anywhere_costs_only_what_is_damaged(data: st.DataObject) -> None:
    small = tiff.write(
        {271: (ASCII, b"Maker\0"), 0x829A: (RATIONAL, struct.pack("<II", 1, 200))}
    )
    packet = xmp("<dc:title>A tree</dc:title>")
    iptc = b"8BIM\4\4\0\0\0\0\0\x0a\x1c\2\x19\0\5trees"
    which = data.draw(st.sampled_from((small, packet, iptc)))
    body = bytearray(which)
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at] = data.draw(st.integers(0, 255))
    head = {small: b"Exif\0\0", packet: b"http://ns.adobe.com/xap/1.0/\0"}
    marker = 0xED if which is iptc else 0xE1

    told(jpeg_with(marker, head.get(which, b"Photoshop 3.0\0") + bytes(body)), *GROUPS)


# -- in a worker -----------------------------------------------------------------------


async def test_a_confined_worker_reads_it(pool: Pool, full: dict[str, bytes]) -> None:
    for data in full.values():
        with opened(data) as file:
            here = told(data, "location")
            there = json.loads(await pool.metadata(file, len(data), ["location"]))

        assert there == here


async def test_a_worker_outlives_hostile_metadata(pool: Pool) -> None:
    before = pool.crashes + pool.timeouts
    for data in (
        webp_with_xmp(BOMB.encode() + b"<x>&i;</x>"),
        webp_with_xmp(xmp("\x00").replace(b"<rdf:RDF", b"<?xml encoding='big5'?>")),
        jpeg_with_exif(directory((271, ASCII, 2**31, bytes(4)))),
    ):
        with opened(data) as file:
            assert json.loads(await pool.metadata(file, len(data), []))

    assert pool.crashes + pool.timeouts == before
