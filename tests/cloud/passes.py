"""Runs once what catches up in a Swift's background; run by `.venv-cloud` alone.

`passes.py ETC`: listings get what was written while their server was away, accounts get
their totals, and expired objects are deleted.
"""

from __future__ import annotations

import sys

from swift.common import utils
from swift.container.updater import ContainerUpdater
from swift.obj.expirer import ObjectExpirer
from swift.obj.updater import ObjectUpdater

PASSES = (
    (ObjectUpdater, "object", "object-updater"),
    (ContainerUpdater, "container", "container-updater"),  # tells the expirer where
    (ObjectExpirer, "expirer", "object-expirer"),
    (ContainerUpdater, "container", "container-updater"),
)


def main(etc: str) -> None:
    utils.set_swift_dir(etc)
    utils.monkey_patch()
    utils.disable_fallocate()
    for daemon, name, section in PASSES:
        conf = utils.readconf(f"{etc}/{name}.conf", section, log_name=section)
        logger = utils.get_logger(conf, section, log_to_console=True)
        daemon(conf, logger=logger).run_once()


if __name__ == "__main__":
    main(*sys.argv[1:])
