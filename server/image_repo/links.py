"""Links: temporary signed URLs, in the words of Swift's tempurl.

The signature is what Swift's tempurl middleware makes of method, expiry and path, so
that a link to Swift and one to this server look and are checked the same.
"""

from __future__ import annotations

import base64
import hmac
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote, urlencode, urlsplit

from image_repo import names, targets, words
from image_repo.errors import ConfigError, UnauthorisedError
from image_repo.names import DerivedName, Tag
from image_repo.words import Word, Words

BASE: Final = "/links"
"""Path under which this server serves what its own links lead to."""

SIGNATURE: Final = Word(
    "temp_url_sig", (), "as it was given", "Shows that the link was given here.", "0"
)
EXPIRES: Final = Word(
    "temp_url_expires", (), "seconds since 1970", "When the link ends.", "1767225600"
)
INLINE: Final = Word("inline", (), "nothing", "Show the image, don't save it.", "")
FILENAME: Final = Word(
    "filename", (), "any text", "What the saved file is called.", "site-7.jpg"
)
WORDS: Final = (SIGNATURE, EXPIRES, INLINE, FILENAME)
"""The parameters of a link, named as in Swift."""

LEAST_KEY: Final = 16
"""Bytes in a key; shorter ones can be guessed."""

CONFIGURED: Final = (
    "the key that signs temporary URLs comes from the configuration: change it there"
)
"""Why a key is not changed by itself."""

Digest = Literal["sha256", "sha512"]

DIGESTS: Final[tuple[Digest, ...]] = ("sha256", "sha512")
"""What may sign, the preferred one first; Swift knows SHA-1 too, which is too weak."""

_SECONDS = re.compile("[0-9]{1,12}")

# A link to read lets its size be asked for, too, as in Swift.
_METHODS: Final = ("GET", "HEAD")


def checked_key(text: str) -> bytes:
    """Return a configured key.

    Raises:
        ConfigError: It is too short, or no text for a header.
    """
    key = text.encode()
    # Others would not come back from a container's metadata as they went.
    if len(key) < LEAST_KEY or not text.isprintable() or text != text.strip():
        raise ConfigError(
            f"the key that signs temporary URLs must have {LEAST_KEY} bytes or more,"
            " without control characters, and without spaces around it"
        )
    return key


def end(now: float, lifetime: int, slack: int) -> int:
    """Return when a link given now ends, in seconds since 1970.

    It is valid for at least *lifetime* seconds and at most *slack* more; links given
    within *slack* seconds mostly end together, so that they are the same.
    """
    least = math.ceil(now) + lifetime
    return -(-least // slack) * slack if slack else least


def sign(key: bytes, path: str, expires: int, digest: Digest = "sha256") -> str:
    """Return the signature of a link to read, spelt as Swift's own client spells it.

    Args:
        key: The secret that signs.
        path: Unquoted.
        expires: Seconds since 1970 at which the link ends.
        digest: The hash of the HMAC.
    """
    made = hmac.new(key, f"GET\n{expires}\n{path}".encode(), digest)
    if digest == "sha256":
        return made.hexdigest()
    text = base64.urlsafe_b64encode(made.digest()).decode()
    return f"{digest}:{text.rstrip('=')}"


def url(
    key: bytes,
    base: str,
    name: str,
    expires: int,
    filename: str,
    digest: Digest = "sha256",
) -> str:
    """Return a link that shows an object in the browser.

    Args:
        key: The secret that signs.
        base: Begins the URL; its path is taken as unquoted as it stands.
        name: What follows *base* and a slash, unquoted.
        expires: Seconds since 1970 at which the link ends.
        filename: What a browser calls the file when it is saved.
        digest: The hash of the HMAC.
    """
    signature = sign(key, f"{urlsplit(base).path}/{name}", expires, digest)
    signed = urlencode({SIGNATURE.name: signature, EXPIRES.name: expires})
    called = quote(filename, safe="")
    return (
        f"{base}/{names.quoted(name)}?{signed}&{INLINE.name}&{FILENAME.name}={called}"
    )


def verify(
    keys: Iterable[bytes], method: str, path: str, given: Words, now: float
) -> int:
    """Return when a link to *path* ends that is valid now.

    Args:
        keys: Secrets, any of which may have signed; two allow for changing them.
        method: Of the request, in capitals.
        path: Of the request, unquoted.
        given: The words of its query.
        now: Seconds since 1970.

    Raises:
        UnauthorisedError: Altered, expired, or for something else; it doesn't say
            which, so that nothing is learnt from trying.
    """
    expires = given.get(EXPIRES.name, "")
    current = _SECONDS.fullmatch(expires) is not None and int(expires) > now
    if current and method in _METHODS:
        # As bytes: compare_digest refuses texts beyond ASCII.
        signature = given.get(SIGNATURE.name, "").encode("utf-8", "surrogatepass")
        for key in keys:
            if hmac.compare_digest(sign(key, path, int(expires)).encode(), signature):
                return int(expires)
    raise UnauthorisedError("the link is not valid, or not any more")


def filename(name: DerivedName) -> str:
    """Return what the file of a derived image is called: site-7.webp."""
    return f"{name.image.rpartition('/')[2]}.{name.format.kind}"


def disposition(given: Words, called: str) -> str:
    """Return the Content-Disposition of what a link leads to, as Swift has it.

    Args:
        given: The link's words.
        called: The file's name where a link that is not shown says none.
    """
    shown = INLINE.name in given
    called = given.get(FILENAME.name) or ("" if shown else called)
    if not called:
        return "inline"
    # RFC 6266; percent-encoding keeps quotes and line breaks out of the header.
    return (
        f"{'inline' if shown else 'attachment'};"
        f" filename=\"{quote(called, ' /')}\"; filename*=UTF-8''{quote(called)}"
    )


@dataclass(frozen=True, slots=True)
class LinkRequest:
    """A request by a link of this server, valid or not.

    Attributes:
        name: Which derived image it is for.
        tag: Of which original.
        words: The query, decoded.
    """

    name: DerivedName
    tag: Tag
    words: Words

    @property
    def key(self) -> str:
        """Under which the derived image is stored."""
        return names.stored_key(self.name, self.tag)


def is_link(raw_target: str) -> bool:
    """Return whether `read` may read such a target."""
    return raw_target.startswith(f"{BASE}/")


def read(raw_target: str) -> LinkRequest:
    """Return what a request by a link is for; whether it is valid isn't looked at.

    Args:
        raw_target: As received, without scheme and host; `is_link` is true of it.

    Raises:
        BadRequestError: This server makes no such links.
    """
    (_, _, *segments), pairs = targets.read(raw_target)
    name, tag = names.read_stored_key("/".join(segments))
    return LinkRequest(name, tag, words.resolve(pairs, WORDS))
