"""A filter for Swift's proxy: a dictionary in place of memcached.

Right for one proxy process. Values pass through JSON, as memcached's do, so that what
was read can be changed without changing what is kept.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable
from typing import Any

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class DictCache:
    def __init__(self) -> None:
        self._kept: dict[str, tuple[float, str]] = {}

    def set(self, key: str, value: object, time: float = 0, **_: object) -> None:
        """Keep *value* for so many seconds: 0 is for ever, less is not at all."""
        text = json.dumps(value.decode() if isinstance(value, bytes) else value)
        self._kept[key] = (now() + time if time else math.inf, text)

    def get(self, key: str, **_: object) -> Any:
        until, text = self._kept.get(key, (0, "null"))
        return json.loads(text) if until > now() else None

    def delete(self, key: str, **_: object) -> None:
        self._kept.pop(key, None)


def now() -> float:
    return time.monotonic()


def filter_factory(
    _conf: dict[str, str], **_options: str
) -> Callable[[Application], Application]:
    """Put a cache where Swift and keystonemiddleware look for it in each request."""
    cache = DictCache()

    def wrap(application: Application) -> Application:
        def cached(
            environ: dict[str, Any], start_response: Callable[..., Any]
        ) -> Iterable[bytes]:
            environ["swift.cache"] = cache
            return application(environ, start_response)

        return cached

    return wrap
