"""A training process that runs the code it is given, line by line, and can be killed."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.kit import spools

_CODE = """
import fcntl, multiprocessing, os, shutil, sys, tarfile, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
{first}
import spooler.recorder
from spooler.recorder import recorder
from tests.kit.spools import PATIENCE_SECONDS, step
spooler.recorder._SHUTDOWN_SECONDS = PATIENCE_SECONDS  # also on a slow machine
def log(*numbers):
    for number in numbers:
        assert recorder().record("step", step(number))
log(0)
print(recorder().directory, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


_begun: list[Puppet] = []


def close_all() -> None:
    """End every process that a test has begun, whatever became of it."""
    while _begun:
        _begun.pop().close()


class Puppet:
    """One process with a spool, whose step 0 is recorded."""

    def __init__(
        self, root: Path, *, first: str = "", before: Sequence[str] = (), workload: str = "w"
    ) -> None:
        """`first` is code that comes before the recorder's; `before` a command that runs it."""
        environ = spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root),
            PYTHONPATH=str(spools.REPOSITORY),
            WORKLOAD_UID=workload,
        )
        self.process = subprocess.Popen(
            [*before, sys.executable, "-c", _CODE.format(first=first)],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        _begun.append(self)
        assert self.process.stdout is not None
        self.directory = Path(self.process.stdout.readline().strip())

    def do(self, line: str) -> None:
        """Run a line of code there; returns once it has run."""
        self.say(line)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "done\n", line

    def say(self, line: str) -> None:
        """Run a line of code there that does not return."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def close(self) -> None:
        """End it, whatever it does."""
        self.process.kill()
        with contextlib.suppress(ValueError):  # its pipes are closed
            self.process.communicate(timeout=spools.PATIENCE_SECONDS)

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        # Before its input is closed, which a child of its own would take for the end.
        self.process.wait(spools.PATIENCE_SECONDS)
        self.process.communicate(timeout=spools.PATIENCE_SECONDS)

    def end(self) -> None:
        """Let it end in order."""
        self.process.communicate(timeout=spools.PATIENCE_SECONDS)
        assert self.process.returncode == 0
