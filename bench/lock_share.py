"""How long the background thread keeps the interpreter's lock from the program.

    python bench/lock_share.py [--seconds 8] [--rounds 4]

The main thread does what training does between two calls into the device: it runs Python. Every
millisecond it appends a step of 8 metrics, else it spins and looks at the clock; a gap between two
looks is time in which it did not run. In turns: bare `os.write` of the same bytes and no thread of
ours; the writer with its background thread, whose segments are so small that one is prepared,
sealed and synced every second, two thousand times as often as at a step a second. The machine takes
time away in both; what the second shows beyond the first is ours.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from aims import aim

GAP = 50_000  # nanoseconds between two looks at the clock, above which something was in the way
LARGE = 1_000_000
_BEAT = 0.001  # seconds between two appends


@dataclass(kw_only=True)
class Stalls:
    """Gaps of one arm."""

    seconds: float = 0.0
    shares: list[float] = field(default_factory=list)  # of each round, in percent
    largest: list[float] = field(default_factory=list)  # of each round, in milliseconds
    large: int = 0
    thread: float = 0.0  # processor seconds of the background thread


def spin(call: Callable[[], Any], seconds: float, stalls: Stalls) -> None:
    """Run Python for so long and note what was in the way."""
    clock = time.perf_counter_ns
    end = clock() + int(seconds * 1e9)
    due = clock()
    gaps: list[int] = []
    now = clock()
    while now < end:
        if now >= due:
            call()
            due += int(_BEAT * 1e9)
            now = clock()  # what the call itself takes is told elsewhere
        then = clock()
        if then - now > GAP:
            gaps.append(then - now)
        now = then
    stalls.seconds += seconds
    stalls.shares.append(100 * sum(gaps) / 1e9 / seconds)
    stalls.largest.append(max(gaps, default=0) / 1e6)
    stalls.large += sum(gap > LARGE for gap in gaps)


def measure(seconds: float, rounds: int) -> dict[str, Stalls]:
    """Both arms, in turns."""
    from spooler.background import BackgroundThread
    from spooler.spool import codec
    from spooler.spool.writer import Limits, Writer

    data = {f"train/metric_{number}": number + 0.5 for number in range(8)}
    body = {"run": "r", "step": 1, "time": time.time(), "closed": True, "data": data}
    packed = codec.pack(body)
    arms = {"os.write, no thread of ours": Stalls(), "append, with ours": Stalls()}
    bare, ours = arms.values()
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        floor = os.open(Path(folder) / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        for number in range(rounds):
            spin(lambda: os.write(floor, packed), seconds, bare)
            spool = f"20260101T000000-1-{number:08x}"
            writer = Writer(
                root=Path(folder) / "spool",
                below=("node_0", "rank_0"),
                spool=spool,
                identity=codec.pack({"spool": spool}),
                limits=Limits(segment_records=1000, sync_seconds=1.0),
            )
            keeper = BackgroundThread(writer.maintain)
            writer.wake = keeper.wake
            keeper.start()
            spin(lambda one=writer: one.append("step", packed), seconds, ours)  # type: ignore[misc]
            thread = Path(f"/proc/self/task/{keeper._thread.native_id}/schedstat").read_text()
            ours.thread += int(thread.split()[0]) / 1e9
            keeper.finish(lambda: False, 10.0)
            writer.close()
    return arms


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=4)
    given = parser.parse_args()
    arms = measure(given.seconds, given.rounds)
    print(
        f"gaps above {GAP / 1000:.0f} µs in which the main thread did not run,"
        f" {given.rounds} rounds of {given.seconds:g} s"
    )
    for name, stalls in arms.items():
        print(
            f"  {name:<30} {median(stalls.shares):.3f} % of the time, largest"
            f" {median(stalls.largest):.2f} ms (median of rounds), {stalls.large} above 1 ms"
        )
    bare, ours = arms.values()
    print(
        f"  ours beyond the bare one: {median(ours.shares) - median(bare.shares):+.3f} % of the"
        " time, with a segment sealed every second"
    )
    print(
        f"  the background thread used {100 * ours.thread / ours.seconds:.3f} % of a core, which"
        " bounds what it can have held the lock"
    )
    print(aim("gaps above 1 ms, against those of the bare one", ours.large, bare.large))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
