"""What syncing in the background costs the thread that logs.

Usage: python bench/sync_cost.py [RECORDS [ROUNDS]]

Appends of 8 metrics through the recorder, with and without the sync, in turns: as fast as possible,
and at 200 a second, where a job is. The worst of the appends is what a training step can notice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 4
ARMS = ("0", "1", "0.1")


def one_round(records: int, pause: float) -> list[float]:
    """Microseconds of each append, ascending."""
    from spooler.recorder import recorder

    took = []
    for number in range(records):
        data = {f"metric/{i}": number + i / 8 for i in range(8)}
        body = {"run": "r", "step": number, "time": time.time(), "closed": True, "data": data}
        began = time.perf_counter_ns()
        assert recorder().record("step", body)
        took.append((time.perf_counter_ns() - began) / 1000)
        if pause:
            time.sleep(pause)
    return took


def child(seconds: str, records: int, pause: float) -> list[float]:
    """A round in a process of its own, on a spool of its own."""
    with tempfile.TemporaryDirectory(prefix="lens-ship-bench-") as root:
        done = subprocess.run(
            [sys.executable, __file__, "--child", str(records), str(pause)],
            env={
                **os.environ,
                "PRIMUS_LENS_WANDB_OUTPUT_PATH": root,
                "PRIMUS_LENS_SPOOL_SYNC_SECONDS": seconds,
                "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
            },
            stdout=subprocess.PIPE,
            check=True,
        )
    took: list[float] = json.loads(done.stdout)
    return took


def main() -> None:
    """Print both tables."""
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(one_round(int(sys.argv[2]), float(sys.argv[3]))))
        return
    records = int(sys.argv[1]) if sys.argv[1:] else 40000
    rounds = int(sys.argv[2]) if sys.argv[2:] else ROUNDS
    for title, count, pause in (("full speed", records, 0.0), ("200 a second", 2000, 0.005)):
        arms: dict[str, list[float]] = {seconds: [] for seconds in ARMS}
        for _ in range(rounds):
            for seconds, all_of in arms.items():
                all_of += child(seconds, count, pause)
        print(f"{title}, µs an append      p50      p99    p99.9   p99.99      max")
        for seconds, all_of in arms.items():
            all_of.sort()
            figures = [all_of[int(len(all_of) * part)] for part in (0.5, 0.99, 0.999, 0.9999)]
            text = "".join(f"{figure:9.1f}" for figure in (*figures, all_of[-1]))
            print(f"  sync {'off' if seconds == '0' else seconds + ' s':18}{text}")


if __name__ == "__main__":
    main()
