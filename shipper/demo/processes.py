"""The processes of the demo: their files, their environment, how they start and end.

- Every process has a session of its own, so Ctrl-C reaches the demo alone. When the `ProcessGroup`
  is left (at the end, by a failure, by Ctrl-C), it kills what still runs.
- They get none of the settings in the environment of the caller, which may be those of a real job.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

WORKLOAD = "demo-workload"

_JOB_PREFIXES = ("PRIMUS_LENS_", "LENS_SHIP_", "WANDB_", "SLURM_", "OMPI_", "PMI_", "DLROVER_")
_JOB_NAMES = frozenset(
    {
        *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "POD_UID", "JOB_UID"),
        *("STATE_DIRECTORY", "TRAINING_LOG_FILE", "XPU_TIMER_PORT"),
    }
)
_LENS_SHIP = ("-c", "from shipper.cli import main; main()")
_STOP_SECONDS = 15.0
_TAIL_LINES = 12


class DemoFiles:
    """The directories of one demo, below `root`.

    `scratch` is for temporary files of the training, sockets included. The path of a socket must be
    short, so `scratch` is not below `root`, which the user may have chosen.
    """

    def __init__(self, root: Path, scratch: Path) -> None:
        self.root = root
        self.scratch = scratch
        self.spool = root / "spool"
        self.state = root / "state"  # of the service
        self.received = root / "received.sqlite"
        self.training = root / "training"  # checkpoint, files of wandb
        self.logs = root / "logs"  # output of every process


class DemoProcess:
    """One process. Its log has its name."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = popen.pid
        self._log = log
        self._popen = popen

    @property
    def exit_code(self) -> int | None:
        """Minus the number of the signal that killed it. None while it runs."""
        return self._popen.poll()

    def kill(self) -> int:
        self._popen.kill()
        return self._popen.wait()

    def stop(self) -> int:
        self._popen.terminate()
        return self.wait(_STOP_SECONDS)

    def wait(self, seconds: float) -> int:
        """Wait for the end, and kill the process if that takes longer."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            return self.kill()

    def tail(self) -> list[str]:
        return self._log.read_text(errors="replace").splitlines()[-_TAIL_LINES:]


class ProcessGroup:
    """Starts the processes of one demo, and kills what still runs at its end."""

    def __init__(self, files: DemoFiles) -> None:
        self.files = files
        self.started: list[DemoProcess] = []

    def __enter__(self) -> ProcessGroup:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            if process.exit_code is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.kill()

    def lens_ship(self, name: str, *arguments: str) -> DemoProcess:
        """Start a `lens-ship` command of this installation."""
        return self.start(name, [*_LENS_SHIP, *arguments], clean_environment())

    def start(
        self, name: str, arguments: Sequence[str], environ: Mapping[str, str], *, out: str = ""
    ) -> DemoProcess:
        """Start Python with these arguments. `out` is a separate file for its stdout."""
        log = self.files.logs / f"{name.replace(' ', '-')}.log"
        with log.open("ab") as errors, (self.files.logs / (out or log.name)).open("ab") as output:
            popen = subprocess.Popen(
                [sys.executable, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=dict(environ),
                cwd=self.files.training,
                start_new_session=True,
            )
        self.started.append(DemoProcess(name, popen, log))
        return self.started[-1]


def clean_environment() -> dict[str, str]:
    """The environment of this process without settings of other jobs and without proxies."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(_JOB_PREFIXES) and name not in _JOB_NAMES
    }
    return {**kept, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONUNBUFFERED": "1"}


def training_environment(files: DemoFiles) -> dict[str, str]:
    """What a cluster sets for a job: where to record, and the identity. One thread is enough."""
    return {
        **clean_environment(),
        "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(files.spool),
        "WORKLOAD_UID": WORKLOAD,
        "POD_NAME": "demo-pod",
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(files.training),
        "TMPDIR": str(files.scratch),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
