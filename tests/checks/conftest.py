"""Where the checks are run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be where nothing is, and say nothing but what the test says."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("OS_", "SWIFT_", "IMAGE_REPO_")):
            monkeypatch.delenv(name)
