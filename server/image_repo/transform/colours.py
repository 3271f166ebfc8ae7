"""Colour profiles: which of them say no more than sRGB.

Source: ICC.1:2010 (the v2 and v4 format of profiles), IEC 61966-2-1 (sRGB).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path

SRGB = (Path(__file__).parent / "srgb.icc").read_bytes()
"""The profile that pictures are converted to; generated once by LittleCMS."""

MAX_PROFILE = 4 * 2**20
"""Most bytes of a profile that is heeded; the largest of printers have about 3 MB."""

# sRGB's primaries, adapted to D50, as every maker of profiles rounds them somehow.
_PRIMARIES = {
    b"rXYZ": (0.4361, 0.2225, 0.0139),
    b"gXYZ": (0.3851, 0.7169, 0.0971),
    b"bXYZ": (0.1431, 0.0606, 0.7139),
}
_NEAR = 0.004
_CURVE = ((0.25, 0.0509), (0.5, 0.2140), (0.75, 0.5225))  # IEC 61966-2-1
_NEAR_CURVE = 0.004


def heeded(profiles: Mapping[str, bytes]) -> bytes:
    """Return the profile that calls for a conversion; empty: none does."""
    profile = profiles.get("icc") or profiles.get("icm") or b""
    heed = len(profile) <= MAX_PROFILE and not is_srgb(profile)
    return profile if heed else b""


def is_srgb(profile: bytes) -> bool:
    """Return whether *profile* describes sRGB, so that no conversion is needed."""
    try:
        return profile[16:20] == b"RGB " and _matches(profile)
    except (struct.error, IndexError, ValueError, OverflowError, ZeroDivisionError):
        return False


def _matches(profile: bytes) -> bool:
    tags = {}
    (count,) = struct.unpack_from(">I", profile, 128)
    for at in range(132, 132 + 12 * min(count, 100), 12):
        name, start, length = struct.unpack_from(">4sII", profile, at)
        tags[name] = profile[start : start + length]
    if b"A2B0" in tags or not (_PRIMARIES.keys() <= tags.keys()):
        return False
    for name, wanted in _PRIMARIES.items():
        found = struct.unpack_from(">3i", tags[name], 8)
        if any(abs(f / 65536 - w) > _NEAR for f, w in zip(found, wanted, strict=True)):
            return False
    return all(_is_curve(tags.get(name, b"")) for name in (b"rTRC", b"gTRC", b"bTRC"))


def _is_curve(tag: bytes) -> bool:
    value = _table if tag[:4] == b"curv" else _formula
    return all(abs(value(tag, x) - y) <= _NEAR_CURVE for x, y in _CURVE)


def _table(tag: bytes, x: float) -> float:
    (count,) = struct.unpack_from(">I", tag, 8)
    if count < 2:  # noqa: PLR2004 - a plain power, which sRGB is not
        raise ValueError(count)
    at = x * (count - 1)
    low = int(at)
    left, right = struct.unpack_from(">2H", tag, 12 + 2 * low)
    return float(left + (right - left) * (at - low)) / 65535


def _formula(tag: bytes, x: float) -> float:
    """Return a parametric curve's value; type 3 is the one that sRGB has."""
    (kind,) = struct.unpack_from(">H", tag, 8)
    if tag[:4] != b"para" or kind not in {3, 4}:
        raise ValueError(kind)
    g, a, b, c, d = (v / 65536 for v in struct.unpack_from(">5i", tag, 12))
    if x < d:
        return float(c * x)
    if a * x + b <= 0:  # its power may be complex, or infinite
        raise ValueError(b)
    return math.pow(a * x + b, g)
