"""Runs one server of Swift in the foreground; run by `.venv-cloud` alone.

`daemon.py ETC NAME`: ETC/NAME.conf is its configuration, standard error its log.
"""

from __future__ import annotations

import sys

from swift.common.wsgi import run_wsgi

if __name__ == "__main__":
    etc, name = sys.argv[1:]
    sys.exit(run_wsgi(f"{etc}/{name}.conf", f"{name}-server", verbose=True))
