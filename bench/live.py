"""What a step costs the service while jobs run, beside what it costs to drain: processor time.

    python bench/live.py [--spools 100] [--rate 10] [--seconds 40]

Writers of so many spools in another process log steps of 8 metrics at that rate each; a real
`lens-ship run` with its defaults delivers them to the thin receiver. Its start is not counted.
"""

from __future__ import annotations

import argparse
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import scale


def write_live(root: Path, spools: int, rate: float) -> None:
    """Be the living writer of them all until standard input ends; run as a process."""
    from spooler.records import step
    from spooler.spool import codec

    writers = [scale.writer_of(root, number, "dddd") for number in range(spools)]
    print("writing", flush=True)
    data = {f"train/metric_{index}": 0.5 + index for index in range(8)}
    begun, index = time.monotonic(), 0
    while not ended(begun + index / rate):
        body = step.make(run="r", step=index, time=time.time(), closed=True, data=data)
        packed = codec.pack(body)
        for writer in writers:
            writer.append(step.NAME, packed)  # type: ignore[attr-defined]
            if index % 100 == 99:
                writer.tend()  # type: ignore[attr-defined]
        index += 1
    os._exit(0)


def ended(moment: float) -> bool:
    """Wait until a monotonic time; whether standard input has ended meanwhile."""
    return bool(select.select([sys.stdin], [], [], max(0.0, moment - time.monotonic()))[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--spools", type=int, default=100)
    parser.add_argument("--rate", type=float, default=10.0, help="steps a second of each")
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.root:
        write_live(given.root, given.spools, given.rate)
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder, scale.receiver() as url:
        cpu, steps = measure(Path(folder), url, given)
    print(
        f"{given.spools} spools at {given.rate:g} steps/s each: {steps / given.seconds:,.0f}"
        f" steps/s delivered, {100 * cpu / given.seconds:.1f} % of a core,"
        f" {cpu / max(1, steps) * 1e6:.1f} µs of processor time a step"
    )


def measure(work: Path, url: str, given: argparse.Namespace) -> tuple[float, int]:
    """Seconds of processor time and steps delivered, in the middle of it."""
    root, state = work / "spool", work / "state"
    arguments = ("--spools", str(given.spools), "--rate", str(given.rate), "--root", str(root))
    writers = subprocess.Popen(
        (sys.executable, __file__, *arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writers.stdout is not None
    writers.stdout.readline()
    service = scale.Service(root, state, url)
    try:
        while scale.settled(state)[0] < given.spools:
            time.sleep(0.5)
        time.sleep(10)
        cpu, steps = service.cpu(), scale.settled(state)[1]
        time.sleep(given.seconds)
        return service.cpu() - cpu, scale.settled(state)[1] - steps
    finally:
        service.end()
        writers.communicate("")


if __name__ == "__main__":
    main()
