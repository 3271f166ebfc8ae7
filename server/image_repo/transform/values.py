"""Values of metadata: what JSON has of the texts and numbers of tags.

Whatever a tag holds, it becomes a value that is short, finite and of one type, or none.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from datetime import date, time
from fractions import Fraction

Item = str | int | float
Part = tuple[Item, ...]
"""The values of one tag."""

Value = str | int | float | list[str]
"""As JSON has it."""

Convert = Callable[[Sequence[Part]], Value | None]
"""Makes a value of its tags' values, the first of which is there; None: of none."""

MAX_TEXT = 2000  # characters
MAX_WORDS = 500
_MAX_WORD = 200  # characters
_MAX_LIST = 16 * 2**10  # bytes of all words
_EXACT = 2**53  # integers up to this are the same in every reader of JSON
_DIGITS = 10  # significant ones; a rational of EXIF has no more


def cleaned(text: str, most: int = MAX_TEXT) -> str:
    """Return *text* without controls and surrogates, spaces around it, and the rest."""
    kept = (
        " " if c in "\t\r\n" else c
        for c in text[: 2 * most]
        if c in "\t\r\n" or unicodedata.category(c) not in {"Cc", "Cs"}
    )
    return "".join(kept).strip()[:most].rstrip()


def text(parts: Sequence[Part]) -> str | None:
    """Return the first text; of several languages it is the default one."""
    return next(filter(None, (cleaned(str(item)) for item in parts[0])), None)


def people(parts: Sequence[Part]) -> str | None:
    """Return all texts as one, as EXIF separates several authors."""
    found = words(parts)
    return cleaned("; ".join(found)) if found else None


def words(parts: Sequence[Part]) -> list[str] | None:
    """Return the texts, each once."""
    found: dict[str, None] = {}
    size = 0
    for item in parts[0][: 2 * MAX_WORDS]:
        word = cleaned(str(item), _MAX_WORD)
        size += len(word.encode()) + 10
        if len(found) >= MAX_WORDS or size > _MAX_LIST:
            break
        if word:
            found[word] = None
    return list(found) or None


_RATIONAL = re.compile(r"\s*(-?[0-9]{1,15})/([0-9]{1,15})\s*")
_DECIMAL = re.compile(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,15})?\s*")


def number(parts: Sequence[Part]) -> int | float | None:
    """Return the first value as a finite number, whole ones as integers."""
    found = _number(parts[0][0])
    if found is None or not math.isfinite(found) or abs(found) >= _EXACT:
        return None
    if found == int(found):
        return int(found)
    return float(f"{found:.{_DIGITS}g}")


def _number(item: Item) -> float | None:
    if not isinstance(item, str):
        return float(item)
    ratio = _RATIONAL.fullmatch(item)
    if ratio is not None:
        return float(Fraction(int(ratio[1]), int(ratio[2]))) if int(ratio[2]) else None
    return float(item) if _DECIMAL.fullmatch(item) else None


def positive(parts: Sequence[Part]) -> int | float | None:
    """Return a number above 0: cameras write 0 for what they don't know."""
    found = number(parts)
    return found if found is not None and found > 0 else None


def rating(parts: Sequence[Part]) -> int | None:
    """Return 0 to 5, or -1 for rejected."""
    found = number(parts)
    return int(found) if found is not None and -1 <= found <= 5 else None  # noqa: PLR2004


_PER_INCH = {2: 1.0, 3: 2.54}  # EXIF's units of resolution: inch, centimetre


def per_inch(parts: Sequence[Part]) -> int | float | None:
    """Return a resolution in pixels per inch."""
    found = positive(parts[:1])
    unit = number(parts[1:2]) if any(parts[1:2]) else 2  # the default of EXIF
    factor = _PER_INCH.get(int(unit or 0))
    return None if found is None or factor is None else number([(found * factor,)])


_MOMENT = re.compile(
    r"\s*(\d{4})(?:[:-]?(\d\d)(?:[:-]?(\d\d)"
    r"(?:[T ]?(\d\d):?(\d\d)(?::?(\d\d)(?:\.(\d{1,9})\d*)?)?"
    r"\s*(?:(Z)|([+-]\d\d):?(\d\d))?)?)?)?\s*",
    re.ASCII,
)
_WITH_FRACTION = 3  # EXIF's parts: date and time, fraction of the second, offset


def moment(parts: Sequence[Part]) -> str | None:
    """Return a date or a moment by ISO 8601, with the offset if there is one."""
    items = [str(part[0]).strip() if part else "" for part in parts]
    if len(items) == _WITH_FRACTION:
        fraction = f".{items[1]}" if items[1].isdigit() else ""
        joined = items[0] + fraction + items[2]
    else:
        joined = "T".join(filter(None, items))
    found = _MOMENT.fullmatch(joined)
    found = found or _MOMENT.fullmatch(items[0])
    if found is None:
        return None
    try:
        return _iso(*found.groups())
    except ValueError:
        return None


def _iso(
    year: str, month: str | None, day: str | None, hour: str | None, *rest: str | None
) -> str:
    date(int(year), int(month or 1), int(day or 1))
    said = "-".join(filter(None, (year, month, day)))
    if hour is None:
        return said
    minute, second, fraction, utc, offset_hour, offset_minute = rest
    second = second or "00"
    time(int(hour), int(minute or 0), int(second))
    said += f"T{hour}:{minute}:{second}" + (f".{fraction}" if fraction else "")
    if offset_hour is not None:
        time(int(offset_hour[1:]), int(offset_minute or 0))
        said += f"{offset_hour}:{offset_minute}"
    return said + ("+00:00" if utc else "")


_XMP_DEGREES = re.compile(
    r"\s*(\d{1,3}),(\d{1,2}(?:\.\d{1,9})?)\d*(?:,(\d{1,2}))?([NSEW])\s*", re.ASCII
)
_MOST_DEGREES = {"N": 90, "S": 90, "E": 180, "W": 180}


def degrees(parts: Sequence[Part]) -> float | None:
    """Return a latitude or longitude in degrees, south and west below 0."""
    values: list[float | None]
    if len(parts) == 1:  # of XMP, all in one
        found = _XMP_DEGREES.fullmatch(str(parts[0][0]))
        if found is None:
            return None
        *texts, letter = found.groups(default="0")
        values = [float(item) for item in texts]
    else:
        values = [_number(item) for item in parts[0][:3]]
        letter = str(parts[1][0]).strip().upper() if parts[1] else ""
    most = _MOST_DEGREES.get(letter)
    if most is None or None in values:
        return None
    total = sum(v / 60.0**at for at, v in enumerate(values) if v is not None)
    if not 0 <= total <= most:
        return None
    return round(-total if letter in {"S", "W"} else total, 7)


def altitude(parts: Sequence[Part]) -> int | float | None:
    """Return metres above the sea; the second part is 1 below it."""
    found = number(parts[:1])
    below = any(parts[1:2]) and number(parts[1:2]) == 1
    return -found if found is not None and below else found
