"""A training process that records through the recorder, and can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.kit import spools

_RECORD = """
import os, sys, time
from spooler import recorder as r
mine = r.recorder()
def record(numbers):
    for n in numbers:
        assert mine.record("step", {"run": "r", "step": n, "time": 1.0, "closed": True,
                                    "data": {"loss": n + 0.5}})
record(range(50))
print(mine.directory, flush=True)
for line in sys.stdin:
    if line == "more\\n":
        record(range(50, 100))
        print("recorded", flush=True)
    if line == "kill\\n":
        os.kill(os.getpid(), 9)
"""


class Trainer:
    """A process that records, told what to do."""

    def __init__(self, root: Path, **more: str) -> None:
        environ = spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), PYTHONPATH=str(spools.REPOSITORY), **more
        )
        self._process = subprocess.Popen(
            [sys.executable, "-c", _RECORD],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.directory = Path(self._process.stdout.readline().strip())

    def record_more(self) -> None:
        self._say("more")
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "recorded\n"

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it in the meantime: it lives, and touches nothing."""
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self._say("kill")
        self.end()
        assert self._process.returncode == -signal.SIGKILL

    def end(self) -> None:
        self._process.communicate(timeout=spools.PATIENCE_SECONDS)

    def _say(self, word: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
