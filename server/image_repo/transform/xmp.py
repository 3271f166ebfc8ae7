"""XMP: the simple properties of a packet, read as they come.

Source: ISO 16684-1. A packet is XML, so it could be a bomb: it has no document type
here, so that there are no entities, and nothing of it is kept but what is wanted.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from contextlib import suppress
from xml.etree.ElementTree import ParseError, XMLParser

_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
_PREFIXES = {
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://ns.adobe.com/exif/1.0/aux/": "aux",
    "http://cipa.jp/exif/1.0/": "exifEX",
    "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://creativecommons.org/ns#": "cc",
}
_MOST_ITEMS = 1000  # of one property

_DESCRIPTION = [f"{_RDF}RDF", f"{_RDF}Description"]
_IN_PROPERTY = 1 + len(_DESCRIPTION)
_IN_ITEM = _IN_PROPERTY + 2  # a bag, sequence or choice, and the item


def read(packet: bytes, wanted: Container[str]) -> dict[str, tuple[str, ...]]:
    """Return the texts of the *wanted* properties, such as `dc:title`.

    Of a damaged packet it is what comes before the damage. Of a text in several
    languages the default comes first.
    """
    # Decoded here, so that the packet can't choose another encoding, nor hide in it:
    # cut at a NUL, of which XML has none, for by those expat knows UTF-16 itself.
    text = _decoded(packet).lstrip("\ufeff").partition("\0")[0]
    reader = _Reader(wanted)
    if "<!DOCTYPE" not in text:
        parser = XMLParser(target=reader)  # noqa: S314 - there are no entities
        with suppress(ParseError, ValueError):
            parser.feed(text)
    return {name: tuple(texts) for name, texts in reader.found.items()}


def _decoded(packet: bytes) -> str:
    if packet[:2] in {b"\xfe\xff", b"\xff\xfe"}:
        return packet.decode("utf-16", "replace")
    return packet.decode("utf-8", "replace")


class _Reader:
    """What the parser tells of elements and texts."""

    def __init__(self, wanted: Container[str]) -> None:
        self.found: dict[str, list[str]] = {}
        self._wanted = wanted
        self._path: list[str] = []  # of elements, from rdf:RDF on
        self._name = ""  # of the property, if it is wanted
        self._text: list[str] = []
        self._first = False

    def start(self, element: str, attributes: Mapping[str, str]) -> None:
        if not self._path and element != _DESCRIPTION[0]:
            return  # around rdf:RDF
        self._path.append(element)
        depth, self._text = len(self._path), []
        if self._path[:2] != _DESCRIPTION:
            return
        if depth == len(_DESCRIPTION):
            for name, value in attributes.items():
                self._tell(self._known(name), value)
        elif depth == _IN_PROPERTY:
            self._name = self._known(element)
            self._tell(self._name, attributes.get(f"{_RDF}resource", ""))
        self._first = attributes.get(_LANGUAGE) == "x-default"

    def data(self, text: str) -> None:
        if self._name:
            self._text.append(text)

    def end(self, element: str) -> None:
        depth = len(self._path)
        if depth == _IN_ITEM and element == f"{_RDF}li":
            self._tell(self._name, "".join(self._text), first=self._first)
        elif depth == _IN_PROPERTY:
            if self._name not in self.found:
                self._tell(self._name, "".join(self._text))
            self._name = ""
        self._text = []
        if self._path:
            self._path.pop()

    def close(self) -> None:
        """Do nothing: what was found is there already."""

    def _known(self, name: str) -> str:
        space, _, local = name.removeprefix("{").rpartition("}")
        short = f"{_PREFIXES.get(space, '')}:{local}"
        return short if short in self._wanted else ""

    def _tell(self, name: str, text: str, *, first: bool = False) -> None:
        if name and text.strip():
            texts = self.found.setdefault(name, [])
            if len(texts) < _MOST_ITEMS:
                texts.insert(0 if first else len(texts), text)
