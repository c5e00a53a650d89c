"""What the hook adds to `wandb.log`, and what an append costs beside a bare INSERT.

All contestants take turns in one process and one run, in blocks whose order changes every round, so
that the machine's mood meets them alike. Real wandb, offline. Figures are microseconds per call;
what to compare is the ratio and the difference, not the figures.

    python bench/hook_cost.py [--calls 20000] [--metrics 8]

wandb sends from a thread of its own, which needs the interpreter's lock. A loop that does nothing
but log never gives that lock away, so bare calls may look quick at the median while the thread's
work comes in bursts; the hook's INSERT releases the lock, and some of that work moves into the
median. The average is what a job pays.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROUNDS = 20


def contestants(work: Path, metrics: int) -> dict[str, Callable[[int], Any]]:
    """Name -> what one call of it does."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work / "spool")
    os.environ["WANDB_MODE"] = "offline"
    os.environ["WORKLOAD_UID"] = "bench"
    import wandb

    import spooler
    from spooler import hook
    from spooler.recorder import recorder
    from spooler.spool import codec
    from spooler.spool import format as fmt
    from spooler.spool.writer import Limits, Writer

    spooler.install()
    run = wandb.init(
        project="bench", dir=str(work), settings=wandb.Settings(console="off", silent=True)
    )
    bare_log = type(run).log._lens_ship_original  # the method that the hook wraps
    data = {f"metric/{number}": number + 0.5 for number in range(metrics)}
    packed = codec.pack(
        {"run": run.id, "step": 1, "time": time.time(), "closed": True, "data": data}
    )
    writer = Writer(
        root=work / "appends",
        below=("node_0", "rank_0"),
        spool="20260101T000000-1-00000000",
        identity=codec.pack({"spool": "20260101T000000-1-00000000"}),
        limits=Limits(),
    )
    recorder().defer(lambda: (work / "bare.sqlite").exists() and writer.tend() is None)
    bare = sqlite3.connect(work / "bare.sqlite", isolation_level=None)
    for pragma in ("page_size=1024", "journal_mode=WAL", "synchronous=NORMAL"):
        bare.execute(f"PRAGMA {pragma}")
    bare.execute("PRAGMA wal_autocheckpoint=0")
    bare.execute(fmt.SCHEMA[1])
    numbers = iter(range(1, 10**9))
    floor = os.open(work / "floor", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    return {
        "os.write of the same bytes": lambda _: os.write(floor, packed),
        "bare sqlite3 INSERT": lambda _: bare.execute(
            fmt.INSERT_RECORD, (next(numbers), "step", packed, 1234567890)
        ),
        "spool append": lambda _: writer.append("step", packed),
        "the hook's own part": lambda _: hook._observe_log(run, 1, data),
        "bare wandb.log": lambda _: bare_log(run, data),
        "wandb.log with the hook": lambda _: run.log(data),
    }


def measure(calls: int, metrics: int) -> dict[str, list[int]]:
    """Nanoseconds of every call, by contestant, sorted."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as work:
        doing = contestants(Path(work), metrics)
        times: dict[str, list[int]] = {name: [] for name in doing}
        names = list(doing)
        for _round in range(ROUNDS):
            for name in names:
                _block(doing[name], calls // ROUNDS, times[name])
            names = names[1:] + names[:1]
        import wandb

        wandb.finish()
    return {name: sorted(taken) for name, taken in times.items()}


def _block(call: Callable[[int], Any], calls: int, taken: list[int]) -> None:
    clock = time.perf_counter_ns
    for number in range(calls):
        before = clock()
        call(number)
        taken.append(clock() - before)


def show(times: dict[str, list[int]], metrics: int) -> None:
    """Print the table and the comparisons."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=max(80, Console().width))
    table = Table(title=f"µs per call, {metrics} metrics, {len(next(iter(times.values())))} calls")
    table.add_column("what")
    for column in ("mean", "p50", "p99", "p99.9", "max"):
        table.add_column(column, justify="right")
    for name, taken in times.items():
        figures = [mean(taken), *(at(taken, q) for q in (0.5, 0.99, 0.999, 1.0))]
        table.add_row(name, *(f"{figure:.1f}" for figure in figures))
    console.print(table)
    hooked, bare = times["wandb.log with the hook"], times["bare wandb.log"]
    own = times["the hook's own part"]
    console.print(f"the hook itself takes {at(own, 0.5):.1f} µs at p50, {at(own, 0.99):.1f} at p99")
    differences = [mean(hooked) - mean(bare), *(at(hooked, q) - at(bare, q) for q in (0.5, 0.99))]
    average, median, tail = differences
    console.print(
        f"wandb.log with it takes longer by {average:.1f} µs on average, {median:.1f} at p50,"
        f" {tail:.1f} at p99"
    )
    ratio = at(times["spool append"], 0.5) / at(times["bare sqlite3 INSERT"], 0.5)
    console.print(f"a spool append takes {ratio:.2f} times a bare INSERT at p50")


def mean(taken: list[int]) -> float:
    """Microseconds a call took on average."""
    return sum(taken) / len(taken) / 1000


def at(taken: list[int], quantile: float) -> float:
    """The quantile of sorted nanoseconds, in microseconds."""
    return taken[min(len(taken) - 1, int(len(taken) * quantile))] / 1000


def main() -> None:
    """Measure and show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=20000)
    parser.add_argument("--metrics", type=int, default=8)
    options = parser.parse_args()
    show(measure(options.calls, options.metrics), options.metrics)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    main()
