"""A service with real workers over stores in memory, for tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from pictures import colour, decode, encode
from PIL import Image

from image_repo import names
from image_repo.answered import Answered
from image_repo.cache import Cache
from image_repo.formats import by_kind
from image_repo.geometry import Box
from image_repo.levels import MemoryLevel, MemoryOptions, StoreLevel
from image_repo.modifiers import Fit
from image_repo.names import DerivedName, ImageName
from image_repo.originals import Originals
from image_repo.purge import NoPurge, Purger
from image_repo.service import Condition, Service, ServiceOptions
from image_repo.stores.memory import MemoryStore
from image_repo.stores.spool import Spool
from image_repo.transform.pool import Pool

S = TypeVar("S", bound=MemoryStore)

X = names.image_name("x")
RECIPE = names.recipe("test")


class Recorder(Purger):
    """Stands for nginx: keeps what it was told to forget."""

    def __init__(self) -> None:
        super().__init__(NoPurge(), Answered(60))
        self.purged: list[tuple[str, list[str]]] = []
        self.noted: list[str] = []

    def answered(self, image: ImageName, path: str) -> None:
        super().answered(image, path)
        self.noted.append(path)

    async def purge(
        self, image: ImageName, made: Iterable[str], tag: names.Tag | None = None
    ) -> tuple[str, ...]:
        self.purged.append((image, list(made)))
        return await super().purge(image, made, tag)


@dataclass
class Bench(Generic[S]):
    service: Service
    originals: S
    kept: MemoryStore
    nginx: Recorder

    async def put(self, body: bytes, allowed: Condition = lambda _: None) -> None:
        async with Spool(10**8) as spool:
            await spool.write(body)
            await self.service.upload(X, spool, allowed)

    async def delete(self) -> None:
        await self.service.delete(X, lambda _: None)

    async def kept_keys(self) -> list[str]:
        await asyncio.sleep(0.05)
        return [key async for key in self.kept.list()]


@asynccontextmanager
async def open_bench(
    originals: S, pool: Pool, options: ServiceOptions | None = None
) -> AsyncIterator[Bench[S]]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(originals)
        kept = await stack.enter_async_context(MemoryStore())
        levels = (MemoryLevel(MemoryOptions()), StoreLevel(kept))
        cache = await stack.enter_async_context(Cache(levels))
        nginx = Recorder()
        service = await stack.enter_async_context(
            Service(
                originals=Originals(originals),
                cache=cache,
                pool=pool,
                purger=nginx,
                recipe=RECIPE,
                options=options or ServiceOptions(),
            )
        )
        yield Bench(service, originals, kept, nginx)


def derived(width: int = 20, kind: str = "png") -> DerivedName:
    return DerivedName(X, (Fit(Box(width, None)),), by_kind(kind))


def plain(shade: str, side: int = 40) -> bytes:
    return encode(Image.new("RGB", (side, side), shade), "PNG")


def seen(body: bytes) -> tuple[int, ...]:
    return colour(decode(body), (3, 3))
