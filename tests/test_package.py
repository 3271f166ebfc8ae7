"""What `pip install .` installs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run(*command: str, **environment: str) -> str:
    # What it runs is a copy, which is not to count as covered or not.
    bare = {k: v for k, v in os.environ.items() if not k.startswith("COV")}
    environment = bare | environment
    done = subprocess.run(
        command,
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_installed_package_is_complete(tmp_path: Path) -> None:
    # setuptools leaves a build folder beside what it builds, and reads it again.
    source, package = tmp_path / "source", tmp_path / "package"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "server", source / "server", ignore=shutil.ignore_patterns("*.egg-info")
    )
    python, target = sys.executable, str(package)
    run(python, "-m", "pip", "install", "-q", "--no-deps", "-t", target, str(source))

    installed = run(
        python, "-c", "import image_repo; print(image_repo.__file__)", PYTHONPATH=target
    )
    configuration = run(python, "-m", "image_repo.cli", "nginx-conf", PYTHONPATH=target)

    assert installed.startswith(target)
    expected = (ROOT / "nginx_conf" / "image_repo.conf").read_text(encoding="utf-8")
    assert configuration == expected
    here = {p.name for p in (ROOT / "server" / "image_repo").rglob("*") if p.is_file()}
    there = {p.name for p in (package / "image_repo").rglob("*") if p.is_file()}
    assert {n for n in here if not n.endswith(".pyc")} <= there
