"""nginx's maps from what a client sends to the canonical path that answers it.

They match raw text alone, each word of it spelled out: what they don't know goes to the
server, which knows all spellings. Nothing is taken from nginx's own reading of a query,
which is not that of the server. Captures have names, since a map that is evaluated in a
rewrite takes the numbered ones away. Only single characters repeat without an end, no
groups: a long URL would take more stack than PCRE's JIT has, and nginx would fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from image_repo.formats import AUTO, FORMATS, Format, by_kind
from image_repo.modifiers import KIND, MAX_SIDE, words_known
from image_repo.names import BASE, FULL, MARK, MAX_MODIFIERS, MAX_NAME
from image_repo.words import YES, Word

if TYPE_CHECKING:
    from image_repo.assumptions import Assumptions

_SERVED = tuple(row for row in FORMATS if row.served)
_KINDS = "|".join(row.kind for row in _SERVED)

EXTENSIONS: Final = "|".join(word for row in FORMATS for word in row.extensions)
"""Matches every extension that is none of an image's name, in small letters."""

# What quote() leaves and what it makes; and the marks that a URL's path may hold as
# they are (RFC 3986, pchar). Letters, digits, dots and slashes are never quoted.
_CHARACTERS = r"[A-Za-z0-9._~!$&'()*+,;=:@%/-]+"
_QUOTED = r"2[0-9A-C]|3[A-F]|40|5[B-E]|60|7[B-D]"


def _without(bad: str) -> str:
    """Match where the path that begins does not hold *bad*."""
    return f"(?![^?]*(?:{bad}))"


# -- canonical paths -------------------------------------------------------------------

# Each byte of a name has three characters at most; what is longer has no meaning, and
# nginx keeps the key together with the headers of an answer.
_LONG = 3 * MAX_NAME + MAX_MODIFIERS + 40
_MOST = MAX_MODIFIERS + 1 + max(len(row.kind) for row in FORMATS)
_TOKEN = r"[a-z]+_[a-z0-9._]+"  # noqa: S105 - a modifier in a canonical name
_UNKINDED = (
    _without(
        rf"%(?!{_QUOTED}|[89A-F][0-9A-F])|//|/\.{{1,2}}/|/{MARK}(?=/)[^?]*/{MARK}/"
    )
    + rf"{BASE}/(?!{MARK}/|[^?]{{{_LONG + 1}}}){_CHARACTERS}/{MARK}/"
    rf"(?:v_[0-9a-f]{{16}}/)?"
    rf"(?![^/]{{{_MOST + 1}}})(?:{FULL}|{_TOKEN}(?:-{_TOKEN})*)\."
)

CANONICAL: Final = f"{_UNKINDED}(?:{_KINDS})"
"""Matches every canonical path as raw text, and no text that nginx would normalise."""

OPEN: Final = f"{_UNKINDED}{AUTO}"
"""Matches the same with the kind left open."""


# -- plain URLs ------------------------------------------------------------------------

_END = "(?![^?])"
"""Where a raw path ends: there is a query, or nothing."""

# A name with these escapes is in NFC, is valid UTF-8, and is no longer than its text:
# ASCII, and Latin letters with accents in two bytes.
_SECOND = "[89AB][0-9A-F]"
_ESCAPED = rf"{_QUOTED}|C[345]%{_SECOND}|(?<=%C[345]%){_SECOND}"
_ODD_SEGMENT = rf"/(?:\.{{1,2}}|{MARK})?(?:/|(?:\.(?i:{EXTENSIONS}))?{_END})"
_UNSERVED = "|".join(e for row in FORMATS if not row.served for e in row.extensions)

_BY_NAME = {word.name: word for word in words_known()}
_THUMB = _BY_NAME["thumb"]
_SIDES = (_BY_NAME["w"], _BY_NAME["h"])


def up_to(most: int) -> str:
    """Return a pattern of the whole numbers from 1 to *most*, without leading zeros."""
    text = str(most)
    found = [f"[1-9][0-9]{{0,{len(text) - 2}}}"] if len(text) > 1 else []
    for at, digit in enumerate(text):
        low = 0 if at else 1
        if int(digit) > low:
            rest = len(text) - at - 1
            found.append(f"{text[:at]}[{low}-{int(digit) - 1}][0-9]{{{rest}}}")
    return "|".join((*found, text))


def _spelled(word: Word) -> str:
    return f"(?:{'|'.join(word.spellings)})="


_SERVED_WORDS = "|".join(word for row in _SERVED for word in row.extensions)
_VALUES: Final = (
    *((side, up_to(MAX_SIDE)) for side in _SIDES),
    (_THUMB, f"(?i:{'|'.join(YES)})"),
    (KIND, f"(?i:{_SERVED_WORDS}|{AUTO})"),
)
"""Words that are known here, and which of their values."""

_GIVEN = "|".join(f"{_spelled(word)}(?:{values})" for word, values in _VALUES)
_ONCE = "".join(
    f"(?!(?:.*&)?{_spelled(word)}.*&{_spelled(word)})" for word, _ in _VALUES
)

PLAIN: Final = (
    _without(rf"%(?!{_ESCAPED})|{_ODD_SEGMENT}|\.(?i:{_UNSERVED}){_END}")
    + _without(rf"\.(?i:{EXTENSIONS})\?(?:.*&)?{_spelled(KIND)}")
    + rf"{BASE}/(?=[^?]{{1,{MAX_NAME}}}{_END}){_CHARACTERS}"
    rf"(?:\?{_ONCE}(?:{_GIVEN})(?:&(?:{_GIVEN})){{0,{len(_VALUES) - 1}}})?"
)
"""Matches raw targets whose canonical path nginx finds itself.

They name an image, and perhaps a box, a thumbnail and a kind, each once and plainly.
"""

NAMED: Final = rf"(?<image_repo_path>{BASE}/[^\x00-\x1f]+?)(?:\.(?i:{EXTENSIONS}))?\z"
"""Matches the decoded path of what `PLAIN` matches; has what comes before the kind."""


# -- Accept ----------------------------------------------------------------------------

_WHOLE = r"1(?:\.0{0,3})?"
_SOME = rf"{_WHOLE}|0\.0{{0,2}}[1-9][0-9]{{0,2}}"


def accepted(auto: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield patterns of Accept, in any case, and the kind that each leads to.

    Where one matches, the first says what `web.negotiation.by_accept` does. Where none
    does the server decides: no kind is named, or their weights must be compared.
    """
    rows = [by_kind(kind) for kind in auto]
    for row in rows[:1]:
        yield f"^{_element(row, _WHOLE)}", row.kind
    for row in rows:
        others = "".join(f"(?!.*{other.media_type})" for other in rows if other != row)
        yield f"^{others}{_element(row, _SOME)}", row.kind


def _element(row: Format, weights: str) -> str:
    """Match a list that has a media type without a weight, or with one of *weights*."""
    weight = rf"(?:;[ \t]*q=(?:{weights})[ \t]*)?"
    return rf"(?:.*,)?[ \t]*{row.media_type}[ \t]*{weight}(?:,|\z)"


# -- the maps --------------------------------------------------------------------------

_ASKED = "$content_length$http_transfer_encoding$request_method $request_uri"
_READING = r"~^(?:GET|HEAD) "


def maps(assumed: Assumptions) -> str:
    """Return nginx's maps, for its `http`; what is assumed is written into them.

    `$image_repo_chosen` is the kind for a canonical path that leaves it open, and
    `$image_repo_plain` the last part of the canonical path of a plain URL; they are
    empty, and this has no kind, where the server has to say.
    """
    tokens = {
        "": FULL,
        "~^thumb_": assumed.thumbnail.rpartition(".")[0],
        r"~^(?<image_repo_value>.+)-\z": "$image_repo_value",
    }
    written = {rf"{_READING}{PLAIN}\z": "$image_repo_tokens.$image_repo_kind"}
    return "\n".join(
        (
            _map("accepted", "$http_accept", _kinds_accepted(assumed)),
            _map("chosen", _ASKED, {rf"{_READING}{OPEN}\z": "$image_repo_accepted"}),
            *(_map(side.name, "$request_uri", _side(side)) for side in _SIDES),
            _map("thumb", "$request_uri", {_has(_THUMB): f"{_letters(assumed)}-"}),
            _map("tokens", "$image_repo_w$image_repo_h$image_repo_thumb", tokens),
            _map("kind", "$request_uri", _kinds(assumed), _kind(assumed.full)),
            _map("plain", _ASKED, written),
        )
    )


def _map(name: str, source: str, rows: Mapping[str, str], default: str = "") -> str:
    lines = [f'    "{pattern}" "{value}";' for pattern, value in rows.items()]
    head = f'map "{source}" $image_repo_{name} {{\n    default "{default}";'
    return "\n".join((head, *lines, "}"))


def _kinds_accepted(assumed: Assumptions) -> dict[str, str]:
    return {f"~*{pattern}": kind for pattern, kind in accepted(assumed.auto)}


def _has(word: Word) -> str:
    return rf"~\?(?:.*&)?{_spelled(word)}"


def _side(side: Word) -> dict[str, str]:
    pattern = f"{_has(side)}(?<image_repo_value>[0-9]+)"
    return {pattern: f"{side.name}_$image_repo_value-"}


def _kinds(assumed: Assumptions) -> dict[str, str]:
    """Return the kind of a plain URL by what it has; a kind first, then a thumbnail."""
    found = {}
    for row in _SERVED:
        words = f"(?i:{'|'.join(row.extensions)})"
        query = rf"\?(?:.*&)?{_spelled(KIND)}{words}(?:&|\z)"
        found[rf"~^[^?]*(?:\.{words}{_END}|{query})"] = row.kind
    found[f"{_has(KIND)}(?i:{AUTO})"] = "$image_repo_accepted"
    found[_has(_THUMB)] = _kind(assumed.thumbnail)
    return found


def _kind(text: str) -> str:
    return text.rpartition(".")[2]


def _letters(assumed: Assumptions) -> str:
    """Return the token of a thumbnail that chooses no letters itself."""
    tokens = assumed.thumbnail.rpartition(".")[0].split("-")
    return next(token for token in tokens if token.startswith(f"{_THUMB.name}_"))


VARIES: Final = (
    rf"^>(?:{AUTO}>|>[^?]*/{MARK}/[^?]*\.{AUTO}\z"
    rf"|>[^?]*\?(?:.*&)?{_spelled(KIND)}(?i:{AUTO})(?:&|\z))"
)
"""Matches what the server says of Vary and of its choice, and the raw target, where the
answer depends on Accept and nobody has said so yet."""
