"""One logging call in the training process, beside the tools that a training job might use instead.

    make bench-peers        # a virtual environment with all of them, then: python -m bench.peers

Every contestant logs the same 8 numbers a step from a process of its own. When the last call has
returned, the whole process group is killed with SIGKILL, as a pod is, and what is on disk is
counted: a quick call that leaves nothing behind has not logged yet. Contestants take turns in
rounds whose order changes. Figures are microseconds per call; compare within one run only.
"""

from __future__ import annotations

import argparse
import mmap
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from statistics import fmean

from bench.peers.loggers import CONTESTANTS

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300.0


def play(name: str, calls: int, pause: float, work: Path) -> None:
    """The contestant's process: log, note how long each call took, die."""
    with (work / "times").open("r+b") as file:
        taken = memoryview(mmap.mmap(file.fileno(), 0)).cast("Q")  # outlives the kill
    folder = work / "folder"
    log = CONTESTANTS[name][0](folder)
    clock = time.perf_counter_ns
    for index in range(calls):
        if pause:
            time.sleep(pause)  # the training step
        before = clock()
        log(index)
        taken[index] = clock() - before
    os.killpg(0, signal.SIGKILL)


def round_of(name: str, calls: int, pause: float) -> tuple[list[int], int]:
    """Nanoseconds of every call, and how many steps the kill has left."""
    with tempfile.TemporaryDirectory(
        prefix="lens-ship-bench-", ignore_cleanup_errors=True
    ) as folder:
        work = Path(folder)
        (work / "folder").mkdir()
        (work / "times").write_bytes(bytes(8 * calls))
        arguments = ("--play", name, *map(str, (calls, pause, work)))
        with (work / "log").open("wb") as log:
            player = subprocess.Popen(
                (sys.executable, "-m", "bench.peers", *arguments),
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            code = player.wait(PATIENCE_SECONDS)
        if code != -signal.SIGKILL:
            raise SystemExit(f"{name} ended with {code}:\n{(work / 'log').read_text()[-2000:]}")
        taken = list(memoryview((work / "times").read_bytes()).cast("Q"))
        return taken, CONTESTANTS[name][1](work / "folder")


def main() -> None:
    """Play the rounds, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.001, help="seconds of training per step")
    parser.add_argument("--play", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.play:
        play(given.play[0], int(given.play[1]), float(given.play[2]), Path(given.play[3]))
        return
    names = list(CONTESTANTS)
    times: dict[str, list[int]] = {name: [] for name in names}
    left: dict[str, list[int]] = {name: [] for name in names}
    for _ in range(given.rounds):
        for name in names:
            taken, survived = round_of(name, given.calls, given.pause)
            times[name] += taken[given.calls // 10 :]  # the first tenth is everybody's warm-up
            left[name].append(survived)
        names = names[1:] + names[:1]
    show(times, left, given.calls)


def show(times: dict[str, list[int]], left: dict[str, list[int]], calls: int) -> None:
    """The table, with the ratio of the median to ours."""
    from rich.console import Console
    from rich.table import Table

    versions = [f"{name} {metadata.version(name)}" for name in _PEERS]
    table = Table(title=f"µs per call, 8 metrics; {', '.join(versions)}")
    table.add_column("what")
    for column in ("mean", "p50", "p99", "p99.9", "max", "p50 / ours", "on disk after SIGKILL"):
        table.add_column(column, justify="right")
    ours = _at(sorted(times["lens-ship spool"]), 0.5)
    for name, taken in times.items():
        taken = sorted(taken)
        figures = [fmean(taken) / 1000, *(_at(taken, q) for q in (0.5, 0.99, 0.999, 1.0))]
        table.add_row(
            name,
            *(f"{figure:.1f}" for figure in figures),
            f"{_at(taken, 0.5) / ours:.1f}",
            f"{fmean(left[name]) / calls:.1%}",
        )
    Console(width=max(110, Console().width)).print(table)


_PEERS = ("wandb", "persist-queue", "neptune-scale", "trackio")


def _at(taken: list[int], quantile: float) -> float:
    return taken[min(len(taken) - 1, int(len(taken) * quantile))] / 1000


if __name__ == "__main__":
    main()
