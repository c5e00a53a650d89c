"""An append beside the floor below it, with nobody reading and with a service in full flight.

    python bench/append_cost.py [--calls 60000] [--paced 6000]

In one process take turns, in blocks whose order changes: `os.write` of the same bytes, a bare
`INSERT` into a table like ours, and the writer's `append` of a step of 8 metrics. The writer's
background thread does what it does in a training process: prepares, seals, syncs. Each round is
played twice, once while a real `lens-ship run` reads the spool and sends it to the thin receiver.
First flat out, which seals several segments a second; then with a millisecond of rest between two
calls, as a quick training loop has it. Figures are microseconds.

What a new segment costs is told apart: the append that goes over to it, the thousand that follow,
during which the one before is sealed, and all others.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import scale
from aims import aim, at

ROUNDS = 3
BLOCK = 100
AFTER = 1000  # appends in whose time the segment before is sealed
APPEND, INSERT, WRITE = "spool append", "bare sqlite3 INSERT", "os.write of the same bytes"


@dataclass(kw_only=True)
class Taken:
    """Nanoseconds of the calls of one arm, by contestant; of the appends also by their place."""

    calls: dict[str, list[int]] = field(default_factory=lambda: {APPEND: [], INSERT: [], WRITE: []})
    over: list[int] = field(default_factory=list)  # the first of a segment
    sealing: list[int] = field(default_factory=list)
    other: list[int] = field(default_factory=list)


def bare_insert(work: Path, packed: bytes) -> Callable[[], Any]:
    """An `INSERT` of `packed` into a table like ours, in a file below `work`."""
    from spooler.spool import format as fmt

    bare = sqlite3.connect(work / "bare.sqlite", isolation_level=None, check_same_thread=False)
    for pragma in ("page_size=1024", "journal_mode=WAL", "synchronous=NORMAL"):
        bare.execute(f"PRAGMA {pragma}")
    bare.execute("PRAGMA wal_autocheckpoint=0")
    bare.execute(fmt.SCHEMA[1])
    numbers = itertools.count(1)
    return lambda: bare.execute(fmt.INSERT_RECORD, (next(numbers), "step", packed, 1234567890))


class Bed:
    """The three contestants in a folder, and the writer's background thread."""

    def __init__(self, work: Path) -> None:
        from spooler.background import BackgroundThread
        from spooler.spool import codec

        self.root = work / "spool"
        writer: Any = scale.writer_of(self.root, 1, "eeee")
        keeper = BackgroundThread(writer.maintain)
        writer.wake = keeper.wake
        keeper.start()
        self._writer, self._background = writer, keeper
        data = {f"train/metric_{number}": number + 0.5 for number in range(8)}
        body = {"run": "r", "step": 1, "time": time.time(), "closed": True, "data": data}
        packed = codec.pack(body)
        bare = bare_insert(work, packed)
        floor = os.open(work / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.contestants: dict[str, Callable[[], Any]] = {
            WRITE: lambda: os.write(floor, packed),
            INSERT: bare,
            APPEND: lambda: writer.append("step", packed),
        }

    def end(self) -> None:
        """Let the background thread go home before the files go."""
        self._background.finish(lambda: False, 10.0)

    @property
    def segment(self) -> int:
        """The number of the segment that is written."""
        number: int = self._writer._segment.number
        return number

    def play(self, calls: int, pause: float, taken: Taken, turn: int) -> None:
        """So many calls of each, in blocks."""
        names = list(self.contestants)
        names = names[turn % 3 :] + names[: turn % 3]
        block = BLOCK if not pause else 10
        since = AFTER
        for _ in range(calls // block):
            for name in names:
                if name == APPEND:
                    since = self._appends(block, pause, taken, since)
                else:
                    _times(self.contestants[name], block, pause, taken.calls[name])
            names = names[1:] + names[:1]

    def _appends(self, calls: int, pause: float, taken: Taken, since: int) -> int:
        """As `_times`, with a look at where each one went; how many since the last new segment."""
        call, clock = self.contestants[APPEND], time.perf_counter_ns
        for _ in range(calls):
            if pause:
                time.sleep(pause)
            segment = self.segment
            before = clock()
            call()
            took = clock() - before
            since = 0 if self.segment != segment else since + 1
            taken.calls[APPEND].append(took)
            place = taken.over if since == 0 else taken.sealing if since <= AFTER else taken.other
            place.append(took)
        return since


def _times(call: Callable[[], Any], calls: int, pause: float, taken: list[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(calls):
        if pause:
            time.sleep(pause)
        before = clock()
        call()
        taken.append(clock() - before)


def measure(calls: int, pause: float) -> dict[str, Taken]:
    """Both arms, in turns."""
    arms = {"nobody reads": Taken(), "lens-ship run reads": Taken()}
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        bed = Bed(Path(folder))
        for turn in range(ROUNDS):
            for name, taken in arms.items():
                with ExitStack() as stack:
                    if name != "nobody reads":
                        url = stack.enter_context(scale.receiver())
                        state = Path(folder) / f"state-{turn}"
                        service = scale.Service(bed.root, state, url)
                        stack.callback(service.end)
                        while scale.settled(state)[1] == 0:
                            bed.contestants[APPEND]()
                            time.sleep(0.02)
                    bed.play(calls // ROUNDS, pause, taken, turn)
        bed.end()
    for taken in arms.values():
        for times in (*taken.calls.values(), taken.over, taken.sealing, taken.other):
            times.sort()
    return arms


def show(title: str, arms: dict[str, Taken], most: float) -> None:
    """The table of one pace; the aim is that an append takes `most` of a bare INSERT."""
    print(f"{title:<50}{'p50':>8}{'p99':>9}{'p99.9':>9}{'max':>10}{'calls':>9}")
    for name, taken in arms.items():
        print(f"  {name}")
        for contestant in (WRITE, INSERT, APPEND):
            row(f"    {contestant}", taken.calls[contestant])
        row("    an append that goes over to the next segment", taken.over)
        row(f"    the {AFTER} after it, while that is sealed", taken.sealing)
        row("    all other appends", taken.other)
    for name, taken in arms.items():
        append = at(taken.calls[APPEND], 0.5)
        print(
            aim(
                f"append p50 / bare INSERT, {name}",
                append / at(taken.calls[INSERT], 0.5),
                most,
            )
        )
        print(f"  append p50 / os.write, {name}: {append / at(taken.calls[WRITE], 0.5):.2f}")
    read = arms["lens-ship run reads"].calls
    print(aim("append p99.9, lens-ship run reads", at(read[APPEND], 0.999), 200, " µs"))
    print(
        f"  bare INSERT p99.9 in the same time: {at(read[INSERT], 0.999):.0f} µs,"
        f" os.write: {at(read[WRITE], 0.999):.0f} µs"
    )


def row(text: str, times: list[int]) -> None:
    """One line of it."""
    if times:
        figures = [at(times, q) for q in (0.5, 0.99, 0.999, 1.0)]
        shown = "{:>8.1f}{:>9.1f}{:>9.1f}{:>10.1f}".format(*figures)
        print(f"{text:<50}{shown}{len(times):>9}")


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=60_000, help="of each, flat out, an arm")
    parser.add_argument("--paced", type=int, default=6_000, help="of each, with rests, an arm")
    given = parser.parse_args()
    show("µs a call, flat out", measure(given.calls, 0.0), 0.75)
    print()
    show("µs a call, a millisecond of rest before each", measure(given.paced, 0.001), 1.1)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
