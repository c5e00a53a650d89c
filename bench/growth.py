"""What grows with what: append time with a spool, drain time with a backlog, memory with spools.

    python bench/growth.py [--long] [--only append,drain,spools]    # needs matplotlib

Draws `bench/growth-append.png`, `growth-drain.png` and `growth-spools.png`, and prints the figures.

- Append: one writer, flat out, steps of 8 metrics, a million records, its `maintain` on another
  thread as in a training process; by how full the segment was, and by how long the spool already
  was. Bare `os.write` of the same bytes takes turns with it in blocks: where both rise, it was the
  machine.
- Drain: processor time per step of a real `lens-ship run --once` with backlogs of 10^4 to 10^6
  steps (10^7 with `--long`), its start apart, and the most memory that it had.
- Spools: a real `lens-ship run` with 1 to 1,000 living spools that are delivered: memory, and the
  share of a core that it takes while nothing happens.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BLOCK = 500  # appends in a row
GROUPS = 32  # points of a curve
APPENDS = 1_000_000


def draw(name: str, title: str, panels: Sequence[dict[str, Any]]) -> None:
    """One picture; a panel: names of its axes, curves (name -> x, y), whether logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 3.4), dpi=80)
    for axis, panel in zip([axes] if len(panels) == 1 else axes, panels, strict=True):
        for label, (x, y) in panel["curves"].items():
            axis.plot(x, y, marker=".", label=label)
        axis.set_xlabel(panel["x"])
        axis.set_ylabel(panel["y"])
        axis.set_xscale("log" if panel.get("log") else "linear")
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(panel["curves"]) > 1:
            axis.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    figure.savefig(HERE / name, metadata={"Software": None})
    pyplot.close(figure)
    print(f"drawn: bench/{name}")


# --- append ---------------------------------------------------------------------------------------


def time_appends(work: Path, records: int) -> tuple[list[int], list[int], int]:
    """Nanoseconds of every append and of every bare write; records in a segment."""
    from spooler.spool import codec
    from spooler.spool.writer import Limits, Writer

    spool = "20260101T000000-1-00000000"
    limits = Limits(max_bytes=1 << 40)
    writer = Writer(
        root=work / "spool",
        below=("node_0", "rank_0"),
        spool=spool,
        identity=codec.pack({"spool": spool}),
        limits=limits,
    )
    woken, ended = threading.Event(), threading.Event()
    writer.wake = woken.set
    keeper = threading.Thread(target=_maintain, args=(writer, woken, ended))
    keeper.start()
    data = {f"train/metric_{number}": number + 0.5 for number in range(8)}
    body = codec.pack({"run": "r", "step": 1, "time": 1.7e9, "closed": True, "data": data})
    floor = os.open(work / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    appends: list[int] = []
    writes: list[int] = []
    for _ in range(records // BLOCK):
        _block(lambda: writer.append("step", body), appends)
        _block(lambda: os.write(floor, body), writes)
    ended.set()
    woken.set()
    keeper.join()
    writer.close()
    return appends, writes, limits.segment_records


def _maintain(writer: Any, woken: threading.Event, ended: threading.Event) -> None:
    while not ended.is_set():
        writer.maintain()
        woken.wait(1.0)
        woken.clear()


def _block(call: Any, taken: list[int]) -> None:
    clock = time.perf_counter_ns
    for _ in range(BLOCK):
        before = clock()
        call()
        taken.append(clock() - before)


def at(taken: Iterable[int], quantile: float) -> float:
    """A quantile of nanoseconds, in microseconds."""
    ordered = sorted(taken)
    return ordered[min(len(ordered) - 1, int(len(ordered) * quantile))] / 1000


def quantiles(groups: dict[float, list[int]]) -> dict[str, tuple[list[float], list[float]]]:
    """The median and the tail of each group, as curves."""
    keys = sorted(groups)
    return {f"p{100 * q:g}": (keys, [at(groups[key], q) for key in keys]) for q in (0.5, 0.99)}


def grouped(taken: list[int], place: Any) -> dict[float, list[int]]:
    """Times by what `place` says of their number."""
    groups: dict[float, list[int]] = {}
    for number, one in enumerate(taken):
        groups.setdefault(place(number), []).append(one)
    return groups


def append_growth(records: int) -> None:
    """Measure, print, draw."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        appends, writes, segment = time_appends(Path(folder), records)
    fill, age = max(1, segment // GROUPS), max(1, records // GROUPS)
    by_fill = quantiles(grouped(appends, lambda number: number % segment // fill * fill))
    by_age = quantiles(grouped(appends, lambda number: number // age * age))
    floor = quantiles(grouped(writes, lambda number: number // age * age))
    for text, curves in (("segment", by_fill), ("spool", by_age), ("os.write", floor)):
        for name, (_, y) in curves.items():
            third = len(y) // 3
            print(
                f"append by {text}, {name}: first third {mean(y[:third]):.1f} µs,"
                f" last third {mean(y[-third:]):.1f} µs"
            )
    floors = {f"os.write, {name}": curve for name, curve in floor.items()}
    draw(
        "growth-append.png",
        f"one append of 8 metrics, {records:,} records",
        [
            {"x": "records in the segment", "y": "µs", "curves": by_fill},
            {"x": "records in the spool", "y": "µs", "curves": {**by_age, **floors}},
        ],
    )


def mean(figures: Sequence[float]) -> float:
    """The average; 0 of nothing."""
    return sum(figures) / max(1, len(figures))


# --- drain ----------------------------------------------------------------------------------------


def drain_growth(sizes: Sequence[int]) -> None:
    """Measure, print, draw."""
    import drain

    per_step: list[float] = []
    memory: list[float] = []
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
        work = Path(folder)
        start = min(_drained(drain, work, 1).cpu for _ in range(3))
        print(f"the start of the service: {start:.2f} s of processor time")
        for steps in sizes:
            done = _drained(drain, work, steps)
            per_step.append(max(0.0, done.cpu - start) / steps * 1e6)
            memory.append(done.peak)
            print(
                f"drain of {steps:>10,} steps: {per_step[-1]:.1f} µs of processor time a step,"
                f" at most {done.peak:.0f} MiB"
            )
    draw(
        "growth-drain.png",
        "a backlog of steps of 8 metrics leaves",
        [
            {
                "x": "steps",
                "y": "µs of processor time a step",
                "log": True,
                "curves": {"without the start": (list(sizes), per_step)},
            },
            {
                "x": "steps",
                "y": "MiB at most",
                "log": True,
                "curves": {"resident": (list(sizes), memory)},
            },
        ],
    )


def _drained(drain: Any, work: Path, steps: int) -> Any:
    with tempfile.TemporaryDirectory(dir=work) as folder:
        root = Path(folder) / "spool"
        drain.write_backlog(root, steps=steps, metrics=8, spools=1)
        return drain.drain(root, Path(folder), steps=steps, metrics=8)


# --- spools ---------------------------------------------------------------------------------------


def spool_growth(numbers: Sequence[int], seconds: float) -> None:
    """Measure, print, draw."""
    import scale

    memory: list[float] = []
    share: list[float] = []
    for number in numbers:
        with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as folder:
            idle, resident, files, pickup = scale.idle(Path(folder), number, seconds)
        memory.append(resident)
        share.append(idle)
        print(
            f"{number:>5} living spools: {resident:.0f} MiB, {idle:.2f} % of a core idle,"
            f" {files} files open, a new spool after {pickup:.2f} s"
        )
    slope = (memory[-1] - memory[0]) / max(1, numbers[-1] - numbers[0]) * 1024
    print(f"memory: {slope:.1f} KiB a spool")
    draw(
        "growth-spools.png",
        "a service with living spools and nothing to send",
        [
            {"x": "spools", "y": "MiB resident", "curves": {"": (list(numbers), memory)}},
            {"x": "spools", "y": "% of a core", "curves": {"": (list(numbers), share)}},
        ],
    )


def main() -> None:
    """Everything, or what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="append,drain,spools", help="which, with commas")
    parser.add_argument("--long", action="store_true", help="a backlog of 10^7 steps too")
    parser.add_argument("--records", type=int, default=APPENDS, help="appends")
    parser.add_argument("--sizes", default="10000,30000,100000,300000,1000000")
    parser.add_argument("--spools", default="1,100,300,600,1000")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long it is idle")
    given = parser.parse_args()
    wanted = given.only.split(",")
    sizes = [int(size) for size in given.sizes.split(",")] + [10_000_000] * given.long
    if "append" in wanted:
        append_growth(given.records)
    if "drain" in wanted:
        drain_growth(sizes)
    if "spools" in wanted:
        spool_growth([int(number) for number in given.spools.split(",")], given.seconds)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent))
    main()
