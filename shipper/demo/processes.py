"""The processes of the demo: where they work, what surrounds them, how they start and die.

Rules:

- Every process has a session of its own, so that Ctrl-C reaches the demo alone, and whoever leaves
  the `Stage` (at the end, by a failure, by Ctrl-C) leaves none of them alive.
- They see nothing of the settings in the caller's environment, which may be those of a real job.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO

WORKLOAD = "demo-workload"
POD = "demo-pod"
STACK_SIGNAL = signal.SIGUSR2

_FOREIGN = ("PRIMUS_LENS_", "LENS_SHIP_", "WANDB_", "SLURM_", "OMPI_", "PMI_", "DLROVER_")
_FOREIGN_NAMES = frozenset(
    {
        *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "POD_UID", "JOB_UID"),
        *("STATE_DIRECTORY", "TRAINING_LOG_FILE", "XPU_TIMER_PORT"),
    }
)
_LENS_SHIP = ("-c", "from shipper.cli import main; main()")
_STOP_SECONDS = 15.0
_TAIL_LINES = 12


class DemoFailed(Exception):
    """Raised when the story cannot go on: a process ended by itself or did not become ready."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folder of one demo; `scratch` is for temporary files of the training, sockets included.

    A socket's path must be short, so `scratch` is not below a `root` that the user may have chosen.
    """

    root: Path
    scratch: Path

    @property
    def spool(self) -> Path:
        """The spool root."""
        return self.root / "spool"

    @property
    def state(self) -> Path:
        """The shipper's state."""
        return self.root / "state"

    @property
    def received(self) -> Path:
        """The receiver's database."""
        return self.root / "received.sqlite"

    @property
    def training(self) -> Path:
        """Where the training works: its checkpoint and wandb's own files."""
        return self.root / "training"

    @property
    def training_log(self) -> Path:
        """The log that the training itself writes."""
        return self.training / "training.log"

    def stored(self, life: int) -> Path:
        """What the training master kept in one of its lives."""
        return self.root / f"master-{life}.jsonl"

    @property
    def logs(self) -> Path:
        """What every process printed."""
        return self.root / "logs"

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.spool, self.training, self.logs):
            folder.mkdir(parents=True, exist_ok=True)


class Child:
    """One process; `name` is also that of its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """Its exit code (minus the signal that killed it), None while it lives."""
        return self._process.poll()

    def catches(self, number: signal.Signals) -> bool:
        """Whether it has a handler for a signal by now."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
        return bool(int(caught.split()[1], 16) >> (number - 1) & 1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> int:
        """SIGKILL; return the exit code once it is gone."""
        self._process.send_signal(signal.SIGKILL)
        return self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and SIGKILL when that does not help; return the exit code."""
        self._process.terminate()
        try:
            return self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return self.kill()

    def wait(self, seconds: float) -> int:
        """Wait for its end; kill it when that takes longer than `seconds`."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def clear(self) -> None:
        """Kill whatever is left of its process group."""
        if self.ended is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self) -> list[str]:
        """The last lines it printed."""
        return self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]


class Stage:
    """Starts the processes of one demo, and clears them away when it is left."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.children: list[Child] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in self.children:
            child.clear()

    def lens_ship(self, name: str, *arguments: str, out: str = "") -> Child:
        """Start a `lens-ship` command of this very installation."""
        return self.start(name, [*_LENS_SHIP, *arguments], environment(), out=out)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        *,
        out: str = "",
        python: str = sys.executable,
    ) -> Child:
        """Start Python with these arguments; `out` is a separate file for its stdout."""
        log = self.place.logs / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as errors, (self.place.logs / (out or log.name)).open("ab") as output:
            child = Child(name, self._open([python, *arguments], environ, output, errors), log)
        self.children.append(child)
        return child

    def _open(
        self,
        command: Sequence[str],
        environ: Mapping[str, str],
        output: IO[bytes],
        errors: IO[bytes],
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env=dict(environ),
            cwd=self.place.training,
            start_new_session=True,
        )


def environment() -> dict[str, str]:
    """This process's own without the settings of other jobs, and past any proxy."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_FOREIGN) and name not in _FOREIGN_NAMES
    }
    return {**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1"}


def training_environment(place: Place) -> dict[str, str]:
    """What a cluster sets for a job: where to record, and who it is. One thread is plenty."""
    return {
        **environment(),
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(place.spool),
        "WORKLOAD_UID": WORKLOAD,
        "POD_NAME": POD,
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(place.training),
        "TMPDIR": str(place.scratch),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "TRAINING_LOG_FILE": str(place.training_log),
        "PRIMUS_LENS_COLLECTORS": "log,stack",
        "PRIMUS_LENS_LOG_SECONDS": "1",
        "PRIMUS_LENS_STACK_SECONDS": "0",
        "PRIMUS_LENS_STACK_SIGNAL": STACK_SIGNAL.name,
    }


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
