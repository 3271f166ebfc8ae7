"""Content negotiation (RFC 9110 section 12.5.1) as a function of plain values."""

from __future__ import annotations

from collections.abc import Sequence


def preferred(header: str, offers: Sequence[str]) -> str:
    """Return the media type that a client likes best.

    Args:
        header: Its Accept, empty if it has none. What makes no sense in it is passed
            by.
        offers: Media types; of those that it likes as well as each other the first is
            taken, and the first of all if it accepts none.
    """
    ranges = [_range(text) for text in header.lower().split(",")]

    def liked(offer: str) -> float:
        family = offer.partition("/")[0]
        # The most specific range counts, not the one that is liked best.
        for name in (offer, f"{family}/*", "*/*"):
            if found := [quality for of, quality in ranges if of == name]:
                return max(found)
        return 0.0

    return max(offers, key=liked)


def outright(header: str, offers: Sequence[str]) -> str | None:
    """Return the media type that a client names outright and likes best; None: none.

    Ranges with a star don't count: browsers send them whatever they can show.

    Args:
        header: As `preferred`.
        offers: Media types; of those that it likes as well the first is taken.
    """
    ranges = [_range(text) for text in header.lower().split(",")]
    liked = {
        offer: max((quality for name, quality in ranges if name == offer), default=0.0)
        for offer in offers
    }
    best = max(offers, key=liked.__getitem__, default=None)
    return best if best is not None and liked[best] > 0 else None


def _range(text: str) -> tuple[str, float]:
    """Return a media range without its parameters, and its quality."""
    name, *parameters = (part.strip() for part in text.split(";"))
    for parameter in parameters:
        word, _, value = parameter.partition("=")
        if word.strip() == "q":
            return name, _quality(value.strip())
    return name, 1.0


def _quality(text: str) -> float:
    # Digits and a dot alone: float() takes inf, nan and 1_0 as well.
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return min(1.0, float(text))
    return 0.0
