"""The documents say what the code does, because they are made from it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import generated
import pytest

FILES = generated.files()
ROOT = generated.ROOT


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_generated_file_is_what_the_code_generates(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run scripts/docs"


def test_the_layers_that_are_checked_are_the_layers_that_are_described() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = settings["tool"]["importlinter"]["contracts"]
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    described = text.partition("## Layers")[2].partition("## One GET")[0]

    for layer in contract["layers"]:
        for module in layer.split(" | "):
            assert re.search(rf"\b{module}\b", described), module
