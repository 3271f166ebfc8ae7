"""Messages between the server and a worker, over a stream socket.

A message is eight bytes with two lengths, a JSON object, and bytes. Open files may
travel with a message: the worker reads the original itself, and a job costs the
server no copy of it.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Value = str | int | float | bool | None
Head = Mapping[str, "Value | list[Value] | Mapping[str, Value]"]

LENGTHS = struct.Struct(">II")
MAX_FILES = 2
"""An image to read, and a file to write a picture into."""

MAX_HEAD = 64 * 2**10
MAX_BODY = 512 * 2**20
"""More than any image within the limits encodes to."""


class FrameError(Exception):
    """The other side ended, or sent what is no message."""


class Message(NamedTuple):
    """A message as received."""

    head: dict[str, object]
    body: bytes


def encode(head: Head, body: bytes = b"") -> bytes:
    """Return the bytes of a message."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return LENGTHS.pack(len(text), len(body)) + text + body


def lengths(prefix: bytes) -> tuple[int, int]:
    """Return the lengths of head and body that the first eight bytes give.

    Raises:
        FrameError: They are beyond all messages of ours.
    """
    head, body = LENGTHS.unpack(prefix)
    if head > MAX_HEAD or body > MAX_BODY:
        raise FrameError(f"a message of {head} and {body} bytes is too long")
    return head, body


def decode(text: bytes) -> dict[str, object]:
    """Return the head that *text* is.

    Raises:
        FrameError: It is not a JSON object.
    """
    try:
        head = json.loads(text)
    except (ValueError, RecursionError) as e:
        raise FrameError("the head of a message is not JSON") from e
    if not isinstance(head, dict):
        raise FrameError("the head of a message is not an object")
    return head


def receive(sock: socket.socket) -> tuple[Message, list[int]]:
    """Wait for a message; return it and the files that came with it.

    The caller closes the files.

    Raises:
        FrameError: The other side ended, or sent what is no message.
    """
    prefix, files, _, _ = socket.recv_fds(sock, LENGTHS.size, MAX_FILES)
    try:
        prefix += _exactly(sock, LENGTHS.size - len(prefix))
        head, body = lengths(prefix)
        message = Message(decode(_exactly(sock, head)), _exactly(sock, body))
    except FrameError:
        for file in files:
            os.close(file)
        raise
    return message, files


def _exactly(sock: socket.socket, count: int) -> bytes:
    parts = []
    while count:
        part = sock.recv(min(count, 2**20))
        if not part:
            raise FrameError("the other side has ended")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def send_with_files(sock: socket.socket, head: Head, files: Sequence[int]) -> None:
    """Send a message without body, and with it open files, at once.

    Raises:
        FrameError: The other side has ended, or has not read what came before.
    """
    data = encode(head)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
    try:
        sent = sock.sendmsg([data], rights)
    except OSError as e:
        raise FrameError(f"a message can't be sent: {e}") from e
    if sent != len(data):
        raise FrameError("a message was sent in part")
