"""Stops a child of ours at a lock that it asks for, or so many instructions after it.

By ptrace: the child runs from system call to system call until it asks for the lock in question,
then instruction by instruction. Linux on x86-64 only, as it reads the registers that hold a call's
arguments from /proc.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STEP, _SYSCALL, _DETACH, _SEIZE, _INTERRUPT = 9, 24, 17, 0x4206, 0x4207
_READ, _FCNTL = 0, 72
_SET_LOCK = (6, 7)  # F_SETLK, F_SETLKW
_EXCLUSIVE = 1
_FLOCK = struct.Struct("<hhiqq")  # l_type, l_whence, padding, l_start, l_len
_CHECKPOINT_BYTE = 121  # of the -shm file: whoever checkpoints holds it alone


# A child that waits for its next order reads from this descriptor: there is nothing to stop at.
IDLE = 60


@functools.cache
def missing() -> str:
    """Why a child cannot be stepped through here; "" where it can."""
    if platform.machine() != "x86_64":
        return f"stepping through a process is known for x86_64, not {platform.machine()}"
    child = os.fork()
    if child == 0:
        os.dup2(os.pipe()[0], IDLE)
        os.read(IDLE, 1)
        os._exit(0)
    try:
        with Stepped(child):
            pass
    except OSError as error:
        return f"ptrace is not permitted: {error}"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return ""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A lock on a file that was asked for."""

    start: int
    length: int
    is_exclusive: bool

    @property
    def is_to_checkpoint(self) -> bool:
        """Whether SQLite asks for it in order to checkpoint, and for nothing else."""
        return self.is_exclusive and self.start == _CHECKPOINT_BYTE and self.length == 1


class Stepped:
    """A child that waits for an order, then is traced; it stands between calls of these methods."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> Stepped:
        while not _is_idle(self._pid):
            time.sleep(0.0005)
        _ptrace(_SEIZE, self._pid)
        _ptrace(_INTERRUPT, self._pid)
        self._wait()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            _ptrace(_DETACH, self._pid)

    def locks(self) -> Iterator[Lock]:
        """Run on; stop after each lock that it has asked for, until it waits for the next order."""
        is_inside = has_begun = False
        while True:
            _ptrace(_SYSCALL, self._pid)
            self._wait()
            call, arguments = _words(self._pid)
            is_idle = _is_idle(self._pid)
            if is_idle and has_begun:
                return
            has_begun = has_begun or not is_idle
            if call != _FCNTL or arguments[1] not in _SET_LOCK:
                is_inside = False
                continue
            is_inside = not is_inside  # it stops before each call and after it
            if not is_inside:
                yield _lock(self._pid, arguments[2])

    def step(self, instructions: int) -> None:
        """Run so many instructions."""
        for _ in range(instructions):
            _ptrace(_STEP, self._pid)
            self._wait()

    def _wait(self) -> None:
        _, status = os.waitpid(self._pid, 0)
        if not os.WIFSTOPPED(status):
            raise RuntimeError(f"the process that was stepped through has ended: {status}")


def _words(pid: int) -> tuple[int, list[int]]:
    """The system call that a stopped process is in, and its arguments."""
    text = Path(f"/proc/{pid}/syscall").read_text(encoding="ascii").split()
    if text[0] in ("running", "-1"):
        return -1, [0, 0, 0]
    return int(text[0]), [int(word, 16) for word in text[1:7]]


def _is_idle(pid: int) -> bool:
    call, arguments = _words(pid)
    return call == _READ and arguments[0] == IDLE


def _lock(pid: int, address: int) -> Lock:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        kind, _, _, start, length = _FLOCK.unpack(memory.read(_FLOCK.size))
    return Lock(start=start, length=length, is_exclusive=kind == _EXCLUSIVE)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int) -> None:
    if _libc.ptrace(request, pid, None, None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
