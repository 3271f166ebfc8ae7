"""How an object lies in one file: its body, what is known of it, and a foot.

The body comes first, so that whoever needs only that reads the file from its start.
What is known follows as JSON, with a foot of fixed size: a reader that finds no foot
knows that the file is not whole, or that something else has damaged it.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zlib
from datetime import datetime
from typing import Final

from image_repo.errors import StoreError
from image_repo.stores.store import Stored

_FOOT: Final = struct.Struct(">II8s")  # length and CRC-32 of the metadata, then:
_TIMES: Final = ("modified", "expires")
_MAGIC: Final = b"ImgRepo1"


def foot(stored: Stored) -> bytes:
    """Return what follows the body in the file of an object."""
    said = {
        "key": stored.key,
        "size": stored.size,
        "revision": stored.revision,
        "media_type": stored.media_type,
        "modified": stored.modified.isoformat(),
        "metadata": dict(stored.metadata),
    }
    if stored.expires is not None:
        said["expires"] = stored.expires.isoformat()
    text = json.dumps(said).encode()
    return text + _FOOT.pack(len(text), zlib.crc32(text), _MAGIC)


def read(fd: int, key: str | None = None) -> Stored:
    """Return what an open file says of its object.

    Args:
        fd: The file, wherever it stands.
        key: The object that it must be of; None: any.

    Raises:
        StoreError: It is damaged, or of another object; the body is not looked at.
        OSError: It can't be read.
    """
    try:
        text, size = _text(fd)
        said = json.loads(text)
        times = {
            word: datetime.fromisoformat(said[word]) for word in _TIMES if word in said
        }
        stored = Stored(**said | times)
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise damaged(key) from error
    if stored.size != size or stored.key != (stored.key if key is None else key):
        raise damaged(key)
    return stored


def _text(fd: int) -> tuple[bytes, int]:
    """Return the text of a file, and how many bytes are before it.

    Raises:
        ValueError, struct.error: The file has no foot, or not the text that the foot
            is for; what is no file has neither.
    """
    about = os.fstat(fd)
    end = about.st_size - _FOOT.size
    if end < 0 or not stat.S_ISREG(about.st_mode):
        raise ValueError(end)
    length, checksum, magic = _FOOT.unpack(os.pread(fd, _FOOT.size, end))
    # Looked at first, since any four bytes are a length, of up to 4 GiB.
    if magic != _MAGIC or length > end:
        raise ValueError(length)
    text = os.pread(fd, length, end - length)
    if zlib.crc32(text) != checksum:
        raise ValueError(checksum)
    return text, end - length


def damaged(key: str | None) -> StoreError:
    """Return the error that says that a file is not what was written."""
    return StoreError(f"the stored object {key or ''!r} is damaged")
