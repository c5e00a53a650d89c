"""What a spool and the service take: bytes a step, and memory with a backlog.

Writes spools as training processes do, for steps of several sizes, and ships them with a real
`lens-ship run` to the telemetry-processor of the tests. Beside what a sealed record takes stands
what msgpack alone makes of it, to which the spool adds its number, kind, checksum and pages.
Nothing here is asserted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from aims import aim

from spooler.spool import codec
from spooler.spool.filesystem import bytes_in
from spooler.spool.identity import Identity
from spooler.spool.writer import Limits, Writer
from tests.kit.processor import Receiver

STEPS = 20_000  # of the spools that are weighed
BACKLOG = 2_000  # of each that is shipped
SPOOLS = 8
DAY = 86_400


def write(root: Path, number: int, metrics: int, steps: int) -> tuple[Path, float]:
    """A spool of steps with so many metrics, closed; the bytes of msgpack a step."""
    name = f"20240102T030405-{os.getpid()}-{number:08x}"
    who = Identity(spool=name, created=time.time(), pid=os.getpid(), host="h", workload_uid=name)
    writer = Writer(
        root=root,
        below=("node_0", f"rank_{number}"),
        spool=name,
        identity=codec.pack(who.to_map()),
        limits=Limits(),
    )
    packed = 0
    for step in range(steps):
        data = {f"train/metric_{n}": step / (n + 3) for n in range(metrics)}
        body = {"run": "4x7k2m9q", "step": step, "time": time.time(), "closed": True, "data": data}
        record = codec.pack(body)
        packed += len(record)
        writer.append("step", record)
        writer.maintain()
    writer.close()
    return writer.directory, packed / steps


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
    print(
        f"{'metrics a step':>14} {'bytes a step':>13} {'of msgpack':>11} {'a day at 1 step/s':>18}"
    )
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for metrics in (1, 8, 64):
            directory, packed = write(Path(folder) / str(metrics), 0, metrics, STEPS)
            size = bytes_in(directory) / STEPS
            print(f"{metrics:>14} {size:>13.0f} {packed:>11.0f} {size * DAY / 1e6:>15.0f} MB")
            limit = round(1.2 * packed + 24, 1)
            text = f"{metrics} metrics, sealed, against 1.2 of msgpack + 24"
            lines.append(aim(text, size, limit, " bytes"))
        print("\n".join(lines))
        root = Path(folder) / "backlog"
        for number in range(SPOOLS):
            write(root, number, 8, BACKLOG)
        with Receiver(path=Path(folder) / "received.sqlite") as receiver:
            memory = most_memory(root, Path(folder) / "state", receiver.url)
    print(f"\nshipping a backlog of {SPOOLS} jobs: at most {memory:.0f} MiB of memory")


if __name__ == "__main__":
    main()
