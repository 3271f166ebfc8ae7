"""Makes the rings of a Swift with one device; run by `.venv-cloud` alone.

`rings.py ETC ACCOUNT CONTAINER OBJECT`: the three are the ports of their servers.
"""

from __future__ import annotations

import sys

from swift.common.ring import RingBuilder


def main(etc: str, *ports: str) -> None:
    for name, port in zip(("account", "container", "object"), ports, strict=True):
        builder = RingBuilder(1, 1, 1)
        where = {"ip": "127.0.0.1", "port": int(port), "device": "d1"}
        builder.add_dev({"id": 0, "region": 1, "zone": 1, "weight": 1.0, **where})
        builder.rebalance(seed=1)
        builder.get_ring().save(f"{etc}/{name}.ring.gz")


if __name__ == "__main__":
    main(*sys.argv[1:])
