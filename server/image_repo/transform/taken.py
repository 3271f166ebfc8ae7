"""What workers may take of a machine."""

from __future__ import annotations

from dataclasses import dataclass

from image_repo.options import option


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How many workers there are, and what each may take."""

    count: int = option(0, "worker processes; 0: one for each core", low=0, high=1024)
    deadline: float = option(
        20.0, "seconds after which a derivation is stopped", low=0.1, high=3600
    )
    queue: int = option(
        64, "derivations that may wait for a worker; more are refused", low=0
    )
    memory: int = option(
        2 * 2**30,
        "address space of a worker; its pixels may take half of it",
        low=256 * 2**20,
        high=32 * 2**30,
        size=True,
    )
    nice: int = option(
        10,
        "how far workers stand back where others need the processor too, as in nice(1);"
        " 0: not at all",
        low=0,
        high=19,
    )
