"""An original's metadata as plain values. Runs in a worker only.

EXIF is read by exifread, XMP by expat. Nobody reads what the table does not tell: the
library gets a small directory with the tags that are wanted, whatever the data are.
"""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from fractions import Fraction

import exifread

from image_repo.transform import attached, tiff, xmp
from image_repo.transform.attached import Attached
from image_repo.transform.fields import (
    EXIF_TAGS,
    FIELDS,
    IPTC_SETS,
    XMP_NAMES,
    Field,
)
from image_repo.transform.headers import Header
from image_repo.transform.values import Item, Part, Value, cleaned

MAX_ANSWER = 48 * 2**10
"""Bytes of all that is told as JSON; fields that don't fit are left out."""

logging.getLogger("exifread").disabled = True  # it complains of every damaged file


def read(data: bytes, header: Header, groups: Collection[str]) -> dict[str, Value]:
    """Return what is told of an image; what is damaged is left out.

    Args:
        data: The whole original.
        header: Of it.
        groups: Those of `image_repo.transform.fields.GROUPS` that are revealed.
    """
    found = attached.find(data, header.format)
    told = _facts(data, header, found)
    size = len(as_json(told))
    for field, value in _values(found, groups):
        size += len(as_json({field.name: value}))
        if size > MAX_ANSWER:
            break
        told[field.name] = value
    return told


def as_json(told: Mapping[str, Value]) -> bytes:
    """Return what is told as JSON."""
    return json.dumps(told, ensure_ascii=False, allow_nan=False).encode()


def credit(data: bytes, header: Header) -> dict[str, str]:
    """Return artist and copyright, those of them that the original has."""
    found = attached.find(data, header.format)
    return {
        field.name: str(value)
        for field, value in _values(found, ())
        if field.name in {"artist", "copyright"}
    }


def _facts(data: bytes, header: Header, found: Attached) -> dict[str, Value]:
    facts: dict[str, Value] = {
        "format": header.format.kind,
        "media_type": header.format.media_type,
        "bytes": len(data),
        "width": header.upright.width,
        "height": header.upright.height,
        "frames": header.frames,
        "orientation": header.orientation,
        "colour": found.colour,
        "bits": found.bits,
        "colour_profile": cleaned(attached.profile_name(found.profile)),
    }
    return {name: value for name, value in facts.items() if value}


def _values(found: Attached, groups: Collection[str]) -> Iterator[tuple[Field, Value]]:
    exif, iptc = _exif(found.exif), _iptc(found.iptc)
    named: dict[str, Part] = dict(xmp.read(found.xmp, XMP_NAMES))
    named |= {f"png:{word}": (text,) for word, text in found.texts.items()}
    for field in FIELDS:
        if field.group and field.group not in groups:
            continue
        ways: list[list[Part]] = [
            [exif.get(tag, ()) for tag in field.exif],
            [iptc.get(number, ()) for number in field.iptc],
            *([named.get(name, ()) for name in way.split()] for way in field.xmp),
        ]
        made = (field.convert(parts) for parts in ways if parts and parts[0])
        value = next((value for value in made if value not in (None, "")), None)
        if value is not None:
            yield field, value


def _exif(exif: bytes) -> dict[int, Part]:
    small = tiff.excerpt(exif, EXIF_TAGS)
    if not small:
        return {}
    try:
        tags = exifread.process_file(io.BytesIO(small), details=False)
    except Exception:  # noqa: BLE001 - a fault of the library costs EXIF, not the answer
        return {}
    return {
        tag.tag: _items(tag.values) for tag in tags.values() if hasattr(tag, "values")
    }


def _items(values: object) -> Part:
    """Return what exifread has read: a text, bytes that are no text, or numbers."""
    if isinstance(values, bytes):
        return (_text(values),)
    if isinstance(values, str):
        return (values,)
    if not isinstance(values, list):
        return ()
    return tuple(item for value in values for item in _numbers(value))


def _numbers(value: object) -> Iterator[Item]:
    if isinstance(value, Fraction):
        # Of 0 below the line the library makes a fraction that is none.
        yield float(value) if value.denominator else float("nan")
    elif isinstance(value, int | float):
        yield value
    elif isinstance(value, tuple):  # of a floating point number
        yield from value


_IPTC_MARK, _RECORD, _EXTENDED = 0x1C, 2, 0x8000
_MOST_REPEATED = 1000


def _iptc(iptc: bytes) -> dict[int, Part]:
    """Return the texts of the data sets that are wanted (IPTC-IIM 4.2, chapter 2)."""
    found: dict[int, list[Item]] = {}
    at = 0
    while iptc[at : at + 1] == bytes((_IPTC_MARK,)) and at + 5 <= len(iptc):
        record, number = iptc[at + 1], iptc[at + 2]
        length = int.from_bytes(iptc[at + 3 : at + 5])
        if length & _EXTENDED:  # of pictures, not of texts
            break
        if record == _RECORD and number in IPTC_SETS:
            texts = found.setdefault(number, [])
            if len(texts) < _MOST_REPEATED:
                texts.append(_text(iptc[at + 5 : at + 5 + length]))
        at += 5 + length
    return {number: tuple(texts) for number, texts in found.items()}


def _text(raw: bytes) -> str:
    """Return *raw* as text: UTF-8 whatever it says, else Latin-1."""
    raw = raw.partition(b"\0")[0]
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        if error.end == len(raw) and error.reason == "unexpected end of data":
            return raw[: error.start].decode()  # it was cut
        with suppress(UnicodeDecodeError):
            return raw.decode("latin-1")
        return ""
