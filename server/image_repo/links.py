"""Links: temporary signed paths, in the words of Swift's tempurl.

The signature is what Swift's tempurl middleware makes of method, expiry and path, so
that a link to Swift and one to this server look and are checked the same.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from urllib.parse import urlencode

from image_repo.errors import UnauthorisedError

SIGNATURE = "temp_url_sig"
EXPIRES = "temp_url_expires"
PREFIX = "temp_url_prefix"

_SECONDS = re.compile("[0-9]{1,12}")

# A link to read lets its size be asked for too, as in Swift.
_COVERS = {"HEAD": ("HEAD", "GET", "PUT"), "GET": ("GET",)}


def sign(key: bytes, method: str, path: str, expires: int) -> str:
    """Return the signature of a link: HMAC-SHA256 in hexadecimal.

    Args:
        key: The secret that signs.
        method: The one the link is for, in capitals.
        path: Unquoted; `prefix:` and a path for all that begins with it.
        expires: Seconds since 1970 at which the link ends.
    """
    text = f"{method}\n{expires}\n{path}"
    return hmac.new(key, text.encode(), sha256).hexdigest()


def query(
    key: bytes, method: str, path: str, expires: int, *, prefix: bool = False
) -> str:
    """Return the query that makes a temporary link of *path*.

    Args:
        key: The secret that signs.
        method: The one the link is for, in capitals.
        path: Unquoted.
        expires: Seconds since 1970 at which the link ends.
        prefix: Whether the link is for everything that begins with *path*.
    """
    signed = f"prefix:{path}" if prefix else path
    words = {SIGNATURE: sign(key, method, signed, expires), EXPIRES: str(expires)}
    if prefix:
        words[PREFIX] = path
    return urlencode(words)


def verify(
    keys: Iterable[bytes], method: str, path: str, words: Mapping[str, str], now: float
) -> None:
    """Return if *words* are those of a link to *path* that is valid now.

    Args:
        keys: Secrets, any of which may have signed; two allow for changing them.
        method: Of the request, in capitals.
        path: Of the request, unquoted.
        words: Of the request's query, decoded.
        now: Seconds since 1970.

    Raises:
        UnauthorisedError: Altered, expired, or for something else; it doesn't say
            which, so that nothing is learnt from trying.
    """
    expires = words.get(EXPIRES, "")
    prefix = words.get(PREFIX)
    begins = prefix is None or path.startswith(prefix)
    signed = path if prefix is None else f"prefix:{prefix}"
    if _SECONDS.fullmatch(expires) and int(expires) > now and begins:
        # As bytes: compare_digest refuses texts beyond ASCII.
        given = words.get(SIGNATURE, "").encode("utf-8", "surrogatepass")
        for key in keys:
            for covering in _COVERS.get(method, (method,)):
                made = sign(key, covering, signed, int(expires)).encode()
                if hmac.compare_digest(made, given):
                    return
    raise UnauthorisedError("the link is not valid, or not any more")
