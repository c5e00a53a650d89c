"""Makes the Nth system call of a kind fail in a child process, by strace.

The process is forked from one that has imported everything and waits until it is traced, so that
only what it does from then on is counted; strace counts for each thread on its own.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PTRACER = 0x59616D61
_ANY = -1


@functools.cache
def missing() -> str:
    """Why system calls cannot be made to fail here; "" where they can."""
    if shutil.which("strace") is None:
        return "strace is not installed (Debian package strace)"
    probe = ["strace", "-qq", "-o", "/dev/null", "-e", "inject=chdir:error=EIO", "true"]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    return f"strace cannot trace: {done.stderr.strip()[:120]}" if done.returncode else ""


@dataclass(frozen=True, kw_only=True)
class CallFault:
    """Fail call number `at` of `call` with `error`; all from there on if `forever`."""

    call: str
    error: str
    at: int
    forever: bool

    def __str__(self) -> str:
        return f"{self.call} {self.at}{'+' if self.forever else ''} {self.error}"


class Notes:
    """A page of bytes that a child writes without any system call."""

    def __init__(self, size: int = 65536) -> None:
        self._page = mmap.mmap(-1, size)

    def __setitem__(self, place: int, value: int) -> None:
        self._page[place] = value

    def __getitem__(self, place: int) -> int:
        return self._page[place]

    def close(self) -> None:
        """Give the page back."""
        self._page.close()


@dataclass(frozen=True, kw_only=True)
class TracedResult:
    """How a traced process ended: its wait status (None: it hung), and whether the fault struck."""

    status: int | None
    struck: bool


def run(work: Callable[[], int], fault: CallFault, trace: Path, timeout: float) -> TracedResult:
    """Do `work` in a child with a fault; what it returns is the exit code."""
    ready, go = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        code = 99
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANY)
            os.read(ready, 1)
            code = work()
        finally:
            os._exit(code)
    os.close(ready)
    when = f"{fault.at}{'+' if fault.forever else ''}"
    tracer = subprocess.Popen(
        [
            *("strace", "-f", "-o", str(trace), "-p", str(pid)),
            *("-e", f"trace={fault.call}"),
            *("-e", f"inject={fault.call}:error={fault.error}:when={when}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tracer.stderr is not None
    # Before it says so, the child may be traced and yet make calls that are not counted.
    said = tracer.stderr.readline()
    os.close(go)
    status = _wait(pid, timeout)
    tracer.communicate()
    if "attached" not in said:
        raise RuntimeError(f"strace does not trace: {said}")
    struck = "(INJECTED)" in trace.read_text(encoding="utf-8", errors="replace")
    return TracedResult(status=status, struck=struck)


def _wait(pid: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        time.sleep(0.002)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return None
