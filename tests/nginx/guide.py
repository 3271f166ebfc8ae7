"""The sysadmin's guide, cut into the pieces of which each claims something."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).parents[2] / "nginx_conf/README.md").read_text("utf-8")

_FENCED = re.compile(r"^```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def plain(text: str) -> str:
    """Return *text* in one line, which is how claims are compared."""
    return " ".join(text.split())


def block(words: str) -> str:
    """Return the only fenced block that holds *words*."""
    (found,) = [body for body in _FENCED.findall(TEXT) if words in body]
    assert isinstance(found, str)
    return found


def pieces() -> list[str]:
    """Return fenced blocks, rows of tables, items of lists and paragraphs, plain."""
    found = list(_FENCED.findall(TEXT))
    for part in re.split(r"\n{2,}", _FENCED.sub("", TEXT).strip()):
        if part.startswith("|"):
            found += part.splitlines()[2:]
        elif part.startswith("- "):
            found += re.split(r"\n(?=- )", part)
        elif not part.startswith("#"):
            found.append(part)
    return [plain(piece) for piece in found]


def replaced(text: str, words: dict[str, str]) -> str:
    """Return *text* with each of *words*, which it holds, replaced."""
    for word, other in words.items():
        assert word in text, word
        text = text.replace(word, other)
    return text
