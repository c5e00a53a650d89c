"""What a spool and the service take: bytes a step, and memory with a backlog.

Writes spools as training processes do, for steps of several sizes, and ships them with a real
`lens-ship run` to the embedded receiver. Prints a table; nothing here is asserted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from shipper.receiver import Receiver
from spooler.spool import codec
from spooler.spool.filesystem import bytes_in
from spooler.spool.identity import Identity
from spooler.spool.writer import Limits, Writer

STEPS = 20_000  # of the spools that are weighed
BACKLOG = 2_000  # of each that is shipped
SPOOLS = 8
DAY = 86_400


def write(root: Path, number: int, metrics: int, steps: int) -> Path:
    """A spool of steps with so many metrics, closed."""
    name = f"20240102T030405-{os.getpid()}-{number:08x}"
    who = Identity(spool=name, created=time.time(), pid=os.getpid(), host="h", workload_uid=name)
    writer = Writer(
        root=root,
        below=("node_0", f"rank_{number}"),
        spool=name,
        identity=codec.pack(who.to_map()),
        limits=Limits(),
    )
    for step in range(steps):
        data = {f"train/metric_{n}": step / (n + 3) for n in range(metrics)}
        body = {"run": "4x7k2m9q", "step": step, "time": time.time(), "closed": True, "data": data}
        writer.append("step", codec.pack(body))
        writer.tend()
    writer.close()
    return writer.directory


def most_memory(root: Path, state: Path, url: str) -> float:
    """The most memory the service had while it shipped everything, in MiB."""
    run = ["-c", "from shipper.cli import main; main()", "run", "--once", "--timeout", "600"]
    given = ["--spool", str(root), "--state", str(state), "--processor-url", url]
    with subprocess.Popen([sys.executable, *run, *given], stderr=subprocess.DEVNULL) as service:
        _, code, usage = os.wait4(service.pid, 0)
        service.returncode = os.waitstatus_to_exitcode(code)
    return usage.ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    print(f"{'metrics a step':>14} {'bytes a step':>13} {'a day at 1 step/s':>18}")
    with tempfile.TemporaryDirectory() as folder:
        for metrics in (1, 8, 64):
            directory = write(Path(folder) / str(metrics), 0, metrics, STEPS)
            size = bytes_in(directory) / STEPS
            print(f"{metrics:>14} {size:>13.0f} {size * DAY / 1e6:>15.0f} MB")
        root = Path(folder) / "backlog"
        for number in range(SPOOLS):
            write(root, number, 8, BACKLOG)
        with Receiver(path=Path(folder) / "received.sqlite") as receiver:
            memory = most_memory(root, Path(folder) / "state", receiver.url)
    print(f"\nshipping a backlog of {SPOOLS} jobs: at most {memory:.0f} MiB of memory")


if __name__ == "__main__":
    main()
