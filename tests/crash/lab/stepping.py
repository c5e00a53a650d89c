"""Stops a child process before and after each of its system calls.

By ptrace. Linux on x86-64 and arm64, whose number of `read` is known.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.crash.lab.children import Child, Tell

_SYSCALL, _DETACH, _SEIZE, _INTERRUPT = 24, 17, 0x4206, 0x4207
_READ = {"x86_64": 0, "aarch64": 63}
# A child that waits for its next order reads from this descriptor: there is nothing to stop at.
_IDLE = 60


class ChildEnded(Exception):
    """A process that was stepped through has ended."""


@functools.cache
def missing() -> str:
    """Why a child cannot be stepped through here; "" where it can."""
    if platform.machine() not in _READ:
        return f"stepping through a process is not known for {platform.machine()}"
    worker = SteppedChild(lambda _order, _tell: None)
    try:
        worker.order(1)
        worker.wait()
        with held(worker.child.pid):
            pass
    except OSError as error:
        return f"ptrace is not permitted: {error}"
    finally:
        worker.kill()
    return ""


class SteppedChild:
    """A child with one thread that carries out orders, one at a time; an order is a byte."""

    def __init__(self, work: Callable[[int, Tell], None]) -> None:
        orders, self._orders = os.pipe()
        done_here, done = os.pipe()

        def live(tell: Tell) -> None:
            os.dup2(orders, _IDLE)
            while order := os.read(_IDLE, 1):
                work(order[0], tell)
                os.write(done, b".")

        self.child = Child(live)
        os.close(orders)
        os.close(done)
        self._done = done_here

    def order(self, number: int) -> None:
        """Let it begin."""
        os.write(self._orders, bytes([number]))

    def wait(self) -> bool:
        """Until it is done; False when it has died of it."""
        return bool(os.read(self._done, 1))

    def stops(self, order: int) -> Iterator[None]:
        """Let it carry out an order; it stands before and after each call while one looks.

        Raises:
            Ended: it has died of it.
        """
        with held(self.child.pid) as calls:
            self.order(order)
            yield from calls
        self.wait()

    def kill(self) -> None:
        """End it with SIGKILL, wherever it stands."""
        self.child.kill()
        os.close(self._orders)
        os.close(self._done)


@contextlib.contextmanager
def held(pid: int) -> Iterator[Iterator[None]]:
    """A child that waits for an order: where it stops from then on, until it waits again."""
    while not _is_idle(pid):
        time.sleep(0.0005)
    _ptrace(_SEIZE, pid)
    _ptrace(_INTERRUPT, pid)
    _wait(pid)
    try:
        yield _calls(pid)
    finally:
        with contextlib.suppress(OSError):
            _ptrace(_DETACH, pid)


def _calls(pid: int) -> Iterator[None]:
    has_begun = False
    while True:
        _ptrace(_SYSCALL, pid)
        _wait(pid)
        is_idle = _is_idle(pid)
        if is_idle and has_begun:
            return
        has_begun = has_begun or not is_idle
        yield


def _wait(pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    if not os.WIFSTOPPED(status):
        raise ChildEnded(f"status {status}")


def _is_idle(pid: int) -> bool:
    """Whether a stopped process is in the call that waits for an order."""
    words = Path(f"/proc/{pid}/syscall").read_text(encoding="ascii").split()
    if words[0] in ("running", "-1"):
        return False
    return int(words[0]) == _READ[platform.machine()] and int(words[1], 16) == _IDLE


_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int) -> None:
    if _libc.ptrace(request, pid, None, None) < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
