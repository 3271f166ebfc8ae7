from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transform.samples import opened

from image_repo.transform import frames

VALUES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20)
HEADS = st.dictionaries(st.text(max_size=10), VALUES | st.lists(VALUES), max_size=5)


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


@given(head=HEADS, body=st.binary(max_size=2000))
def test_a_message_comes_out_as_it_went_in(
    head: dict[str, frames.Value], body: bytes
) -> None:
    ours, theirs = pair()
    with ours, theirs:
        ours.sendall(frames.encode(head, body))

        assert frames.receive(theirs) == (frames.Message(dict(head), body), [])


def test_files_travel_with_a_message_in_their_order() -> None:
    ours, theirs = pair()
    with ours, theirs, opened(b"original") as file, opened(b"") as other:
        frames.send_with_files(ours, {"op": "probe"}, [file.fileno(), other.fileno()])

        message, received = frames.receive(theirs)

        assert message.head == {"op": "probe"}
        assert [os.pread(one, 100, 0) for one in received] == [b"original", b""]
        for one in received:
            os.close(one)


@given(data=st.binary(max_size=200))
def test_whatever_arrives_is_a_message_or_an_error(data: bytes) -> None:
    ours, theirs = pair()
    with theirs:
        with ours:
            ours.sendall(data)
        try:
            message, _ = frames.receive(theirs)
        except frames.FrameError:
            return
        assert isinstance(message.head, dict)


@pytest.mark.parametrize("text", [b"[]", b"{", b"\xff", b"[" * 60_000, b"3"])
def test_a_head_that_is_no_object_is_an_error(text: bytes) -> None:
    with pytest.raises(frames.FrameError):
        frames.decode(text)


@pytest.mark.parametrize("sizes", [(frames.MAX_HEAD + 1, 0), (2, frames.MAX_BODY + 1)])
def test_lengths_beyond_all_messages_are_an_error(sizes: tuple[int, int]) -> None:
    with pytest.raises(frames.FrameError):
        frames.lengths(frames.LENGTHS.pack(*sizes))


def test_a_file_of_a_broken_message_is_closed() -> None:
    ours, theirs = pair()
    with theirs, tempfile.TemporaryFile() as file:
        with ours:
            socket.send_fds(ours, [frames.LENGTHS.pack(5, 0)], [file.fileno()])
        before = len(list(Path("/proc/self/fd").iterdir()))

        with pytest.raises(frames.FrameError):
            frames.receive(theirs)

        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_sending_to_one_who_has_ended_is_an_error() -> None:
    ours, theirs = pair()
    theirs.close()
    with ours, tempfile.TemporaryFile() as file, pytest.raises(frames.FrameError):
        frames.send_with_files(ours, {}, [file.fileno()])


def test_a_message_that_does_not_fit_at_once_is_an_error() -> None:
    ours, theirs = pair()
    with ours, theirs, tempfile.TemporaryFile() as file:
        ours.setblocking(False)
        with pytest.raises(frames.FrameError, match="in part"):
            frames.send_with_files(ours, {"x": "y" * 10**7}, [file.fileno()])
