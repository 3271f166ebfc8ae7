"""Serves Keystone in the foreground; run by `.venv-cloud` alone.

`identity_server.py CONF PORT`.
"""

from __future__ import annotations

import os
import socket
import sys

import waitress

if __name__ == "__main__":
    port = int(sys.argv.pop())  # Keystone would read them, too
    os.environ["OS_KEYSTONE_CONFIG_FILES"] = sys.argv.pop()
    from keystone.wsgi.api import application

    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(
        socket.SOL_SOCKET, socket.SO_REUSEPORT, 1
    )  # cluster.py holds it
    listening.bind(("127.0.0.1", port))
    waitress.serve(application, sockets=[listening], threads=4)
