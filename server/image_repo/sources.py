"""Sources: where an option's value is found, so that no file has to hold secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from image_repo.errors import ConfigError

Kind = Literal["env", "file", "explicit"]
"""A variable of the environment, a file, or the text itself."""

_VARIABLE = re.compile(r"[^=\x00]+")
_PATH = re.compile(r"[^\x00]+")


@dataclass(frozen=True, slots=True, repr=False)
class Source:
    """Where a text is found.

    Attributes:
        kind: Where to look.
        text: The variable's name, the file's path, or the text itself.
    """

    kind: Kind
    text: str

    @classmethod
    def parse(cls, raw: object) -> Source:
        """Return what a YAML parser's *raw* means.

        Raises:
            ValueError: It is no text, and no list of a kind and a text.
        """
        match raw:
            case str():
                return cls("explicit", raw)
            case ["env", str() as name] if _VARIABLE.fullmatch(name):
                return cls("env", name)
            case ["file", str() as path] if _PATH.fullmatch(path):
                return cls("file", path)
            case ["explicit", str() as text]:
                return cls("explicit", text)
            case _:
                raise ValueError("neither a text nor a list of a kind and a text")

    def read(self, environ: Mapping[str, str]) -> str:
        """Return the text; empty: the environment has none.

        Raises:
            ConfigError: The file can't be read, or what is there is not UTF-8.
        """
        match self.kind:
            case "env":
                return _utf_8(environ.get(self.text, ""), self.text)
            case "file":
                return _content(Path(self.text))
            case "explicit":
                return self.text

    @property
    def nothing(self) -> str:
        """Why `read` gave no text, in words."""
        return {
            "env": f"the environment has no {self.text}",
            "file": f"the file {self.text!r} is empty",
            "explicit": "it is empty",
        }[self.kind]

    def __repr__(self) -> str:
        """As in YAML; an explicit text may be a secret and is left out."""
        shown = self.text if self.kind != "explicit" else "…" if self.text else '""'
        return f"[{self.kind}, {shown}]"


def given(source: Source, environ: Mapping[str, str], where: str) -> str:
    """Return the text of option *where*; empty: there is none.

    Raises:
        ConfigError: Names the option, and why its file can't be read.
    """
    try:
        return source.read(environ)
    except ConfigError as error:
        raise ConfigError(f"option {where}: {error}") from error


def _utf_8(text: str, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:  # `os.environ` has other bytes as surrogates
        # Without its cause: that repeats the text.
        raise ConfigError(f"{name} in the environment is not UTF-8") from None
    return text


def _content(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except UnicodeDecodeError:  # its text repeats bytes, so it is no cause either
        raise ConfigError(f"{str(path)!r} is not UTF-8") from None
    return text.removesuffix("\n")  # read_text has made it one where it was \r\n
