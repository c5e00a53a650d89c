"""Which system calls a program makes, by strace."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit import spools


def traced(code: str, place: Path, *, calls: str, inject: str = "") -> tuple[str, int]:
    """Run `code` below strace; what the calling thread and its children asked, and the return code.

    Lines of other threads, the background thread's, are left out.
    """
    program = shutil.which("strace")
    if program is None:
        pytest.skip("no strace here")
    log = place / "strace"
    options = [program, "-f", "-y", "-s", "9", "-o", str(log), "-e", f"trace={calls}"]
    done = subprocess.run(
        [*options, *(["-e", f"inject={inject}"] if inject else []), sys.executable, "-c", code],
        env=spools.environment(PRIMUS_LENS_WANDB_OUTPUT_PATH=str(place / "spool")),
        cwd=spools.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=spools.PATIENCE_SECONDS,
        check=False,
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr.strip()}")
    assert done.returncode in (0, -9, 137), done.stderr
    return log.read_text(), done.returncode


def between(log: str, begin: str, end: str) -> list[str]:
    """The calls of the thread that writes `begin` and then `end` to stderr, in between."""
    lines = log.splitlines()
    first = next(n for n, line in enumerate(lines) if f'"{begin}"' in line)
    last = next(n for n, line in enumerate(lines) if f'"{end}"' in line)
    thread = lines[first].split()[0]
    return [
        re.sub(r"\(.*", "", line.split(maxsplit=1)[1])
        for line in lines[first + 1 : last]
        if line.split()[0] == thread
    ]
