"""The documents say what the code does, because they are made from it."""

from __future__ import annotations

from pathlib import Path

import generated
import pytest

FILES = generated.files()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_generated_file_is_what_the_code_generates(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == FILES[path], "run scripts/docs"
