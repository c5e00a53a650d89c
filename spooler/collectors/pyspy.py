"""Stacks of other processes, by py-spy where it is installed; the one place that runs a program."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

_SECONDS = 30.0


def program() -> str | None:
    """Where py-spy is: beside the interpreter, or on the path; None when it is not."""
    beside = Path(sys.executable).parent / "py-spy"
    return str(beside) if os.access(beside, os.X_OK) else shutil.which("py-spy")


def stacks_of(pid: int) -> str:
    """The stacks of the process `pid`, or one line that says why there are none."""
    found = program()
    if found is None:
        return "py-spy is not installed: pip install 'lens-ship[stacks]'"
    try:
        done = subprocess.run(
            [found, "dump", "--pid", str(pid)],
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"py-spy failed: {error}"
    text = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode or not text:
        said = done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        return f"py-spy failed: {said}"
    return text


def child_processes() -> tuple[int, ...]:
    """The Python processes that this one has started."""
    found: list[int] = []
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            found += map(int, task.read_text().split())
    return tuple(pid for pid in sorted(found) if _is_python(pid))


def _is_python(pid: int) -> bool:
    try:
        return "python" in os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return False
