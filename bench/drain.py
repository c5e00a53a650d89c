"""How fast a cold backlog leaves: steps and metrics per second, and per second of one core.

The spools are written by the real writer, the service is a real `lens-ship run --once` in a process
of its own, and the receiver (`thin_receiver.py`, another process) only reads, counts and answers.
The service's own processor time, which no neighbour on the machine can spend, is what its rate per
core is reckoned from.

    python bench/drain.py [--steps 200000] [--metrics 8] [--spools 1] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from aims import aim
from scale import memory_of

HERE = Path(__file__).resolve().parent
_COMMAND = (sys.executable, "-c", "from shipper.cli import main; main()")


@dataclass(frozen=True, kw_only=True)
class Drained:
    """One drain of a backlog of `steps`."""

    steps: int
    metrics: int
    wall: float  # seconds, from the start of the process to its end
    cpu: float  # seconds of processor time, user and system
    peak: float  # MiB resident at most


def write_backlog(root: Path, *, steps: int, metrics: int, spools: int) -> int:
    """`spools` spools of one run each, `steps` in all; the bytes they take."""
    from spooler.records import finish, run, step
    from spooler.spool import codec
    from spooler.spool import format as fmt
    from spooler.spool.identity import Identity
    from spooler.spool.writer import Limits, Writer

    draw = random.Random(7)
    names = [f"train/metric_{number}" for number in range(metrics)]
    for number in range(spools):
        spool = fmt.spool_id("20260101T000000", os.getpid(), f"{number:08x}")
        who = Identity(
            spool=spool,
            created=time.time(),
            pid=os.getpid(),
            host="bench",
            workload_uid=f"w{number}",
        )
        writer = Writer(
            root=root,
            below=("node_0", f"rank_{number}"),
            spool=spool,
            identity=codec.pack(who.to_map()),
            limits=Limits(max_bytes=1 << 40),
        )
        writer.append(run.NAME, codec.pack(run.encode(run="r", time=time.time())))
        for index in range(steps // spools):
            data = {name: draw.random() for name in names}
            writer.append(
                step.NAME,
                codec.pack(
                    step.encode(run="r", step=index, time=1.7e9 + index, closed=True, data=data)
                ),
            )
            if index % 1000 == 0:
                writer.maintain()
        writer.append(
            finish.NAME,
            codec.pack(finish.encode(run="r", time=time.time(), step=index, exit_code=0)),
        )
        writer.close()
    return sum(file.stat().st_size for file in root.rglob("*") if file.is_file())


def drain(root: Path, work: Path, *, steps: int, metrics: int, sink: str = "") -> Drained:
    """Ship everything below `root` from a fresh state directory, by the default sinks.

    `sink` are the lines of a table [sinks.one] instead, with `{url}` for the receiver's address.
    """
    with tempfile.TemporaryDirectory(dir=work) as state:
        receiver = subprocess.Popen(
            (sys.executable, str(HERE / "thin_receiver.py")),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert receiver.stdout is not None
        port = int(receiver.stdout.readline())
        command = (
            *_COMMAND,
            *("run", "--once", "--timeout", "3600", "--log-level", "error"),
            *("--spool", str(root), "--state", state),
            *_configured(Path(state), sink, f"http://127.0.0.1:{port}"),
        )
        began = time.perf_counter()
        service = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        with _watched(service.pid) as peaks:
            _, status, usage = os.wait4(service.pid, 0)
        wall = time.perf_counter() - began
        receiver.terminate()
        receiver.wait()
    if status != 0:
        raise SystemExit(f"the service ended with {os.waitstatus_to_exitcode(status)}")
    return Drained(
        steps=steps,
        metrics=metrics,
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=max(peaks),
    )


def _configured(folder: Path, sink: str, url: str) -> tuple[str, str]:
    if not sink:
        return "--processor-url", f"{url}/v1"
    file = folder / "lens.toml"
    file.write_text(f"[sinks.one]\n{sink.format(url=url)}\n")
    return "--config", str(file)


@contextmanager
def _watched(pid: int) -> Iterator[list[float]]:
    """The most memory a process has had, MiB, every now and then.

    What `wait4` tells counts what the process was before it became another program: this one.
    """
    peaks, ended = [0.0], threading.Event()

    def look() -> None:
        while not ended.wait(0.1):
            peaks.append(memory_of(pid) or 0.0)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Write the backlog once, drain it `--rounds` times, print medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--metrics", type=int, default=8)
    parser.add_argument("--spools", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as work:
        root = Path(work) / "spool"
        size = write_backlog(root, steps=given.steps, metrics=given.metrics, spools=given.spools)
        print(
            f"{given.steps} steps of {given.metrics} metrics,"
            f" {size / given.steps:.0f} bytes each on disk"
        )
        results = [
            drain(root, Path(work), steps=given.steps, metrics=given.metrics)
            for _ in range(given.rounds)
        ]
    cpu = median(one.cpu for one in results)
    wall = median(one.wall for one in results)
    print(f"wall {wall:.2f} s: {given.steps / wall:,.0f} steps/s")
    print(
        f"processor time {cpu:.2f} s: {given.steps / cpu:,.0f} steps/s,"
        f" {given.steps * given.metrics / cpu:,.0f} metrics/s per core;"
        f" {cpu / given.steps * 1e6:.1f} µs a step"
    )
    print(f"memory at most {max(one.peak for one in results):.0f} MiB")
    print(aim("steps per second of processor time", given.steps / cpu, 25_000, least=True))


if __name__ == "__main__":
    main()
