"""Runs all checks, and says what each has found."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from image_repo import config
from image_repo.checks.front import FRONT
from image_repo.checks.machine import MACHINE
from image_repo.checks.swift import SWIFT
from image_repo.checks.world import PATIENCE, Check, DoubtError, World
from image_repo.errors import ConfigError, ImageRepoError

CHECKS: Final = (*MACHINE, *SWIFT, *FRONT)
"""All of them, in the order in which they are said."""

WRONG: Final = 2
"""Exit status of a wrong configuration; that of a world that is wrong is 1."""


def main(file: Path | None, environ: Mapping[str, str]) -> int:
    """Check everything, and write a line for each; return the exit status.

    Args:
        file: The YAML file; None: there is none.
        environ: As `os.environ`.
    """
    logging.disable()  # what is wrong is said once, by a line
    name = "the environment" if file is None else str(file)
    try:
        loaded = config.examine(file, environ)
    except ConfigError as error:
        return _say("wrong", str(error)) or WRONG
    for warning in loaded.warnings:
        _say("warning", warning)
    for fault in loaded.faults:
        _say("wrong", fault)
    if loaded.faults:
        return WRONG
    try:
        images = config.described_store(loaded.config, environ)
    except ConfigError as error:
        return _say("wrong", str(error)) or WRONG
    _say("ok", f"{name}: {images}")
    return asyncio.run(_look(World(loaded.config, environ)))


def _say(verdict: str, text: str) -> int:
    sys.stdout.write(f"{verdict:<8}{text}\n")
    sys.stdout.flush()
    return 0


async def _look(world: World) -> int:
    """Look at all there is to look at; return the exit status."""
    needed = [check for check in CHECKS if check.needed(world)]
    looks = [asyncio.create_task(_reason(check, world)) for check in needed]
    status = 0
    for check, look in zip(needed, looks, strict=True):
        verdict, text = await look
        status = 1 if verdict == "wrong" else status
        _say(
            verdict, f"{check.option}: {text.removeprefix(f'option {check.option}: ')}"
        )
    return status


async def _reason(check: Check, world: World) -> tuple[str, str]:
    try:
        async with asyncio.timeout(PATIENCE):
            return "ok", await check.look(world)
    except TimeoutError:
        return "wrong", f"no answer within {PATIENCE:g} s"
    except DoubtError as error:
        return "warning", str(error)
    except ImageRepoError as error:
        return "wrong", str(error)
