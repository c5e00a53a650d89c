"""What a step costs the service while jobs run, and how late it is: processor time and latency.

    python bench/live.py [--spools 100] [--rate 10] [--seconds 40] [--idle 20] [--new 20]

Writers of so many spools in another process; a real `lens-ship run` with its defaults delivers them
to the thin receiver, which notes when each request came. First nothing is written for `--idle`
seconds: what the service uses of a core then. Then each spool gets steps of 8 metrics at that rate:
what a step costs, and how long after its append it was at the receiver, as all are on one clock.
Then `--new` spools are begun beside them, one a second: how long the first record of each takes.
The start of the service is not counted.
"""

from __future__ import annotations

import argparse
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import scale
import thin_receiver
from aims import aim

FLUSH_SECONDS = 5.0  # the service's default
_SETTLE_SECONDS = 10.0  # two flush intervals, after which everybody is in step
_STEP = re.compile(rb'"step":\d+,"timestamp":([0-9.]+)')
_NEW = b'"workload_uid":"wnew'


@dataclass(kw_only=True)
class Arrivals:
    """When steps came, against when they were appended; filled by the receiver's threads."""

    late: list[float] = field(default_factory=list)  # seconds, of every step
    first: dict[bytes, float] = field(default_factory=dict)  # a new spool's workload -> seconds
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, head: bytes, body: bytes) -> None:
        """A request is there, read whole. A step's metrics tell one time: it counts once."""
        now = time.time()
        if b"/wandb/metrics" not in head:
            return
        moments = sorted({float(moment) for moment in _STEP.findall(body)})
        with self.lock:
            self.late += [now - moment for moment in moments]
            if _NEW in body:
                workload = body[body.index(_NEW) :].split(b'"')[3]
                self.first.setdefault(workload, now - moments[0])

    def forget(self) -> None:
        """Begin anew."""
        with self.lock:
            self.late.clear()

    def known(self) -> int:
        """How many steps have come."""
        with self.lock:
            return len(self.late)


def write_live(root: Path, given: argparse.Namespace) -> None:
    """Be the living writer of them all until standard input ends; run as a process."""
    writers = [scale.writer_of(root, number, "dddd") for number in range(given.spools)]
    _append(writers, 0)
    print("open", flush=True)
    sys.stdin.readline()  # from here on they write
    begun, index, fresh, new = time.monotonic(), 1, 0, list[object]()
    new_from = begun + _SETTLE_SECONDS + given.seconds
    while not ended(begun + index / given.rate):
        _append(writers, index)
        if fresh < given.new and time.monotonic() >= new_from + fresh:
            new.append(scale.writer_of(root, fresh, "ffff", workload=f"wnew{fresh}"))
            _append(new[-1:], 0)
            fresh += 1
        index += 1
    os._exit(0)


def _append(writers: list[object], index: int) -> None:
    from spooler.records import step
    from spooler.spool import codec

    data = {f"train/metric_{number}": 0.5 + number for number in range(8)}
    for writer in writers:
        body = step.encode(run="r", step=index, time=time.time(), closed=True, data=data)
        writer.append(step.NAME, codec.pack(body))  # type: ignore[attr-defined]
        if index % 100 == 99:
            writer.maintain()  # type: ignore[attr-defined]


def ended(moment: float) -> bool:
    """Wait until a monotonic time; whether standard input has ended meanwhile."""
    return bool(select.select([sys.stdin], [], [], max(0.0, moment - time.monotonic()))[0])


def measure(work: Path, given: argparse.Namespace) -> None:
    """Idle, then live; prints."""
    arrivals = Arrivals()
    url = thin_receiver.serve(arrivals.note)
    root, state = work / "spool", work / "state"
    arguments = ("--spools", given.spools, "--rate", given.rate, "--seconds", given.seconds)
    arguments += ("--new", given.new)
    writers = subprocess.Popen(
        (sys.executable, __file__, *map(str, arguments), "--root", str(root)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writers.stdout is not None
    assert writers.stdin is not None
    writers.stdout.readline()
    service = scale.Service(root, state, url)
    try:
        while arrivals.known() < given.spools:
            time.sleep(0.2)
        time.sleep(_SETTLE_SECONDS)
        cpu = service.cpu()
        time.sleep(given.idle)
        idle = 100 * (service.cpu() - cpu) / max(1e-9, given.idle)
        writers.stdin.write("\n")
        writers.stdin.flush()
        time.sleep(_SETTLE_SECONDS)
        arrivals.forget()
        cpu = service.cpu()
        time.sleep(given.seconds)
        cpu, steps = service.cpu() - cpu, arrivals.known()
        late = sorted(arrivals.late)
        time.sleep(given.new + FLUSH_SECONDS if given.new else 0.0)
        first = sorted(arrivals.first.values())
        memory = service.memory()
    finally:
        service.end()
        writers.communicate("")
    show(given, idle, cpu, steps, memory)
    show_late(given, late, first)


def show(given: argparse.Namespace, idle: float, cpu: float, steps: int, memory: float) -> None:
    """Processor time and memory."""
    print(
        f"{given.spools} spools at {given.rate:g} steps/s each: {steps / given.seconds:,.0f}"
        f" steps/s delivered, {100 * cpu / given.seconds:.1f} % of a core,"
        f" {cpu / max(1, steps) * 1e6:.1f} µs of processor time a step, at most {memory:.0f} MiB"
    )
    print(aim(f"idle, {given.spools} living spools", idle, 0.2, " % of a core"))


def show_late(given: argparse.Namespace, late: list[float], first: list[float]) -> None:
    """From append to receiver."""
    quantiles = [late[min(len(late) - 1, int(len(late) * q))] for q in (0.5, 0.99, 0.999)]
    print(
        f"  from append to receiver: p50 {quantiles[0]:.2f} s, p99 {quantiles[1]:.2f} s,"
        f" p99.9 {quantiles[2]:.2f} s, last {late[-1]:.2f} s; flush interval {FLUSH_SECONDS:g} s"
    )
    print(aim("a step at p99, beyond the flush interval", quantiles[1] - FLUSH_SECONDS, 0.1, " s"))
    if given.new:
        print(f"  {len(first)} of {given.new} spools that were begun beside them have arrived")
    if first:
        print(aim("the first record of a new spool, median", first[len(first) // 2], 1, " s"))
        print(aim("the first record of a new spool, the last of them", first[-1], 1, " s"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--spools", type=int, default=100)
    parser.add_argument("--rate", type=float, default=10.0, help="steps a second of each")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--idle", type=float, default=20.0)
    parser.add_argument("--new", type=int, default=20, help="spools begun meanwhile")
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.root:
        write_live(given.root, given)
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        measure(Path(folder), given)


if __name__ == "__main__":
    main()
