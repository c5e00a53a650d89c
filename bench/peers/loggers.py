"""The contestants: each logs the same 8 numbers a step, in its own documented way.

A contestant is a function that gets an empty folder and returns the call to time and a function
that, in another process and after the first was killed, counts the steps that are left on disk.
Nothing is tuned; where a tool has a local-only or offline mode, that is used.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

DATA = {f"train/metric_{number}": number + 0.5 for number in range(8)}
Log = Callable[[int], Any]


def lens_ship(work: Path) -> Log:
    """Our own spool, as the hook writes it: one committed record a step."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work)
    import time

    from spooler.recorder import recorder
    from spooler.records import step

    mine = recorder()
    return lambda index: mine.record(
        step.NAME, step.encode(run="r", step=index, time=time.time(), closed=True, data=DATA)
    )


def wandb_hooked(work: Path) -> Log:
    """`wandb.log`, offline, with the hook."""
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = str(work)
    import spooler

    spooler.install()
    return wandb_offline(work)


def wandb_offline(work: Path) -> Log:
    """`wandb.log`, offline, alone."""
    import wandb

    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(project="bench", dir=str(work), mode="offline", settings=settings)
    return lambda index: run.log(DATA, step=index)


def queue_and_jsonl(work: Path) -> Log:
    """What a hook with a queue does: the point into memory, a thread appends lines of JSON."""
    waiting: SimpleQueue[tuple[int, dict[str, float]]] = SimpleQueue()

    def write() -> None:
        batch = []
        while True:
            batch.append(waiting.get())
            if len(batch) >= 100:
                with (work / "wandb_metrics.jsonl").open("a", encoding="utf-8") as file:
                    for index, data in batch:
                        file.write(json.dumps({"step": index, "data": data}) + "\n")
                batch.clear()

    threading.Thread(target=write, daemon=True).start()
    return lambda index: waiting.put((index, dict(DATA)))


def persist_queue(work: Path) -> Log:
    """persist-queue's `SQLiteQueue`, committing each item."""
    import persistqueue

    queue = persistqueue.SQLiteQueue(str(work / "queue"), auto_commit=True, multithreading=True)
    return lambda index: queue.put({"step": index, "data": DATA})


def neptune_scale(work: Path) -> Log:
    """neptune-scale, offline."""
    from neptune_scale import Run

    run = Run(
        experiment_name="bench", project="bench/bench", mode="offline", log_directory=str(work)
    )
    return lambda index: run.log_metrics(DATA, step=index)


def trackio(work: Path) -> Log:
    """trackio, local, without its hardware metrics."""
    os.environ["TRACKIO_DIR"] = str(work)
    import trackio as library

    library.init(project="bench", embed=False, auto_log_cpu=False, auto_log_gpu=False)
    return lambda index: library.log(DATA, step=index)


def left_by_lens_ship(work: Path) -> int:
    """Steps in the spool."""
    from shipper.discovery.layout import find_spools
    from spooler.spool.reader import Reader

    found = 0
    for directory in find_spools(work):
        reader, through, at_end = Reader(directory), 0, False
        while not at_end:
            chunk = reader.read(through, 10_000)
            found += sum(stored.kind == "step" for stored in chunk.records)
            through, at_end = chunk.through, chunk.at_end
    return found


def left_by_wandb(work: Path) -> int:
    """Steps in the `.wandb` file, up to its last whole record."""
    from shipper.importers import open_imports

    return sum(
        stored.kind == "step"
        for file in work.rglob("*.wandb")
        for source in open_imports(file)
        for stored in source.read(0, 10**9).records
    )


def left_by_jsonl(work: Path) -> int:
    """Whole lines."""
    file = work / "wandb_metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def left_by_sqlite(table: str, only: str = "1") -> Callable[[Path], int]:
    """Rows of one table, over every database below the folder."""

    def left(work: Path) -> int:
        total = 0
        for file in work.rglob("*"):
            if not file.is_file() or file.read_bytes()[:15] != b"SQLite format 3":
                continue
            connection = sqlite3.connect(file)
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if table in names:
                total += connection.execute(
                    f"SELECT count(*) FROM {table} WHERE {only}"
                ).fetchone()[0]
            connection.close()
        return total

    return left


CONTESTANTS: dict[str, tuple[Callable[[Path], Log], Callable[[Path], int]]] = {
    "lens-ship spool": (lens_ship, left_by_lens_ship),
    "wandb.log with lens-ship": (wandb_hooked, left_by_lens_ship),
    "wandb.log alone": (wandb_offline, left_by_wandb),
    "queue and JSONL": (queue_and_jsonl, left_by_jsonl),
    "persist-queue": (persist_queue, left_by_sqlite("queue_default")),
    "neptune-scale": (
        neptune_scale,
        left_by_sqlite("run_operations", "sequence_id > 2"),
    ),  # two create it
    "trackio": (trackio, left_by_sqlite("metrics")),
}
