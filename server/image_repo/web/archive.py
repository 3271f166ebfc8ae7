"""Archives: many images as one zip, which is sent while it is made."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Final

from image_repo.errors import ImageRepoError
from image_repo.formats import FORMATS
from image_repo.stores.store import in_thread
from image_repo.web.errors import summary

if TYPE_CHECKING:
    from image_repo.levels import Derived
    from image_repo.names import DerivedName

MANIFEST: Final = "manifest.json"
"""The last entry; no image has this name, for json is no kind."""

DATED: Final = (1980, 1, 1, 0, 0, 0)
"""When all entries were made: the same images are the same archive."""

MODE: Final = 0o644 << 16
"""What the files that are unpacked may be used for, where zip has it."""

# Only what is escaped already, what Windows takes for a separator, and the dot of a
# folder that ends as a file does: beside the image x there may be x.jpg/y.
_ESCAPED = re.compile(
    rf"%(?=25|2E|5C)|\\|\.(?=(?:{'|'.join(row.kind for row in FORMATS)})/)",
    re.IGNORECASE,
)
_ESCAPES = {"%": "%25", ".": "%2E", "\\": "%5C"}


def entry_name(name: DerivedName) -> str:
    """Return what a derived image is called in an archive: plots/site-7.webp.

    Two names never have the same, none is a folder of another, and none leads out of
    the folder it is unpacked in: a backslash is written as %5C.
    """
    called = f"{name.image}.{name.format.kind}"
    return _ESCAPED.sub(lambda found: _ESCAPES[found[0]], called)


async def zipped(
    images: AsyncGenerator[tuple[DerivedName, Derived | ImageRepoError], None],
) -> AsyncGenerator[bytes, None]:
    """Yield an archive of *images*, and of what could not be made the reasons."""
    archive = _Archive()
    try:
        async with aclosing(images):
            async for name, made in images:
                for piece in await in_thread(archive.add, name, made):
                    yield piece
        for piece in await in_thread(archive.end):
            yield piece
    finally:
        archive.drop()


class _Archive:
    """A zip that is taken away as it grows."""

    def __init__(self) -> None:
        self._window = _Window()
        self._zip = zipfile.ZipFile(self._window, "w", zipfile.ZIP_STORED)
        self._records: list[str] = []

    def add(self, name: DerivedName, made: Derived | ImageRepoError) -> list[bytes]:
        """Add an image, or why there is none; return what the archive has grown by."""
        record: dict[str, object] = {"name": name.image, "path": name.path}
        if isinstance(made, ImageRepoError):
            record |= summary(made)
        else:
            record |= {
                "entry": entry_name(name),
                "bytes": len(made.body),
                "sha256": hashlib.sha256(made.body).hexdigest(),
                "media_type": made.media_type,
            }
            self._write(entry_name(name), made.body)
        self._records.append(json.dumps(record, ensure_ascii=False))
        return self._window.take()

    def end(self) -> list[bytes]:
        """Add the manifest and the directory; return them."""
        manifest = ",\n".join(self._records)
        self._write(MANIFEST, f"[\n{manifest}\n]\n".encode())
        self._zip.close()
        return self._window.take()

    def drop(self) -> None:
        """Write no more; a zip that is forgotten would write its directory."""
        self._zip.fp = None

    def _write(self, called: str, body: bytes) -> None:
        entry = zipfile.ZipInfo(called, DATED)
        entry.external_attr = MODE
        self._zip.writestr(entry, body)


class _Window(io.RawIOBase):
    """A file of which only what was written last is still there.

    `zipfile` goes back to the beginning of an entry, to write its size and checksum
    where every program finds them, and no further.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._start = self._at = self._end = 0

    def take(self) -> list[bytes]:
        """Return what was written since the last time, and forget it."""
        pieces, self._pieces, self._start = self._pieces, [], self._end
        return pieces

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset not in {self._start, self._end}:
            raise OSError("only the last entry is still there")
        self._at = offset
        return offset

    def write(self, data: bytes) -> int:  # type: ignore[override] # zipfile has no other
        if self._at == self._end:
            self._pieces.append(data)
            self._end += len(data)
        else:
            # The header of an entry, which was its first piece, and as long.
            self._pieces[0] = data
        self._at += len(data)
        return len(data)
