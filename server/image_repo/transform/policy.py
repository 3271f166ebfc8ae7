"""What a worker may do: its environment, its limits, its system calls.

A decoder may hold a fault that lets an image take the process over. So a worker has
no secret to lose, and can neither open a file nor a connection nor start a program. It
has the files that it is given with a job, and none can grow beyond a kept picture.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from image_repo.transform.headers import Limits
from image_repo.transform.reduced import MOST_BYTES

FOLDER = Path(__file__).parent
"""Where ImageMagick finds policy.xml."""

_PASSED = frozenset(
    {"PATH", "LANG", "LC_ALL", "MAGICK_HOME", "WAND_MAGICK_LIBRARY_SUFFIX"}
)


_AUTOGROUP = Path("/proc/self/autogroup")
_TRIES, _PAUSE = 100, 0.05
"""How often a worker asks to stand back, and the seconds between."""


def environment(
    limits: Limits, memory: int, folder: Path, parent: Mapping[str, str]
) -> dict[str, str]:
    """Return the whole environment of a worker; nothing else of *parent* gets in.

    Args:
        limits: ImageMagick's own limits follow from these, behind those of ours.
        memory: Most bytes of address space; pixels may take half of it.
        folder: For temporary files, of which there should be none.
        parent: The server's environment.
    """
    passed = {
        name: value
        for name, value in parent.items()
        if name in _PASSED or name.startswith("COVERAGE")
    }
    return passed | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if Path(path).is_dir()),
        "MAGICK_CONFIGURE_PATH": str(FOLDER),
        "MAGICK_TEMPORARY_PATH": str(folder),
        "TMPDIR": str(folder),
        "MAGICK_THREAD_LIMIT": "1",
        "MAGICK_DISK_LIMIT": "0",
        "MAGICK_MEMORY_LIMIT": str(memory // 2),
        "MAGICK_MAP_LIMIT": str(memory // 2),
        "MAGICK_WIDTH_LIMIT": str(limits.side),
        "MAGICK_HEIGHT_LIMIT": str(limits.side),
        "MAGICK_AREA_LIMIT": str(limits.pixels),
        # ImageMagick 6 does not clear the memory of pixels: without this an
        # incomplete image can show those of the one before it.
        "MALLOC_PERTURB_": "255",
        # Keep the memory between images: 0.7 to 0.9 of the time of asking anew.
        "MALLOC_MMAP_THRESHOLD_": str(2**30),
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
    }


def limit(memory: int) -> None:
    """Give this process its limits that hold from the start."""
    _lower(resource.RLIMIT_AS, memory)
    _lower(resource.RLIMIT_CORE, 0)


def stand_back(nice: int) -> None:
    """Let all others go first where a processor is wanted by several.

    Args:
        nice: How far, as in nice(1).
    """
    os.nice(nice)
    # Where sessions are weighed against each other first, of which each worker is one,
    # that alone would mean nothing; see sched(7), "The autogroup feature".
    for _ in range(_TRIES):
        try:
            _AUTOGROUP.write_text(str(nice))
        except (
            BlockingIOError
        ):  # who isn't root may do this once in a tenth of a second
            time.sleep(_PAUSE)
        except OSError:
            return
        else:
            return


def confine() -> None:
    """Take from this process all that an image needs no more; for ever.

    To be called when every coder is loaded, since it can load none after.
    """
    _lower(resource.RLIMIT_FSIZE, MOST_BYTES)
    _lower(resource.RLIMIT_NPROC, 0)
    _lower(resource.RLIMIT_NOFILE, 8)
    _deny(platform.machine())


def _lower(which: int, value: int) -> None:
    _, hard = resource.getrlimit(which)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(which, (value, value))


# Files, connections, programs, other processes, and what could do that in their stead.
# Not clone: encoders have threads. Number on x86_64, then on aarch64 (-: not there).
# Source: Linux, asm/unistd_64.h and asm-generic/unistd.h.
_CALLS = """
open 2 -            openat 257 56       openat2 437 437     creat 85 -
truncate 76 45      rename 82 -         renameat 264 38     renameat2 316 276
mkdir 83 -          mkdirat 258 34      mknod 133 -         mknodat 259 33
rmdir 84 -          unlink 87 -         unlinkat 263 35     link 86 -
linkat 265 37       symlink 88 -        symlinkat 266 36    chmod 90 -
fchmodat 268 53     chown 92 -          lchown 94 -         fchownat 260 54
socket 41 198       socketpair 53 199   connect 42 203      bind 49 200
listen 50 201       execve 59 221       execveat 322 281    fork 57 -
vfork 58 -          kill 62 129         tkill 200 130       tgkill 234 131
ptrace 101 117      process_vm_readv 310 270                process_vm_writev 311 271
rt_sigqueueinfo 129 138                 rt_tgsigqueueinfo 297 240
pidfd_open 434 434  pidfd_getfd 438 438 pidfd_send_signal 424 424
bpf 321 280         io_uring_setup 425 425                  io_uring_enter 426 426
"""
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # linux/audit.h
_COLUMNS = {"x86_64": 1, "aarch64": 2}
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # linux/bpf_common.h
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # linux/seccomp.h
_X32 = 0x40000000  # the other numbers of the same calls on x86_64


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _deny(machine: str) -> None:
    """Let the calls of the table fail with EPERM from now on."""
    if machine not in _COLUMNS:  # the limits on resources must do
        return
    words = _CALLS.split()
    column = words[_COLUMNS[machine] :: 3]
    calls = [int(number) for number in column if number != "-"]
    count = len(calls)
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_AT_LEAST, count + 1, 0, _X32),
        *((_EQUAL, count - at, 0, call) for at, call in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    if libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")
