"""A training process that is killed, many times over: forked from one that has imported wandb.

Usage: python trainer_zygote.py TRIALS SEED ROOT REPORT

For each trial a child is forked that starts a real wandb run offline and logs as fast as it can;
after each `wandb.log` has returned, it writes the step's number to a pipe. The parent kills the
child with SIGKILL at a random instant and appends one JSON line to REPORT: the trial, the run's
id, and the last number that came through the pipe.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import struct
import sys
import time
from pathlib import Path

import wandb

LIFE_SECONDS = 0.12


def values(step: int) -> dict[str, float]:
    """What is logged at `step`; the checker reckons it again."""
    return {f"metric/{i}": step + i / 8 for i in range(7)} | {"loss": 1.0 / (step + 1)}


def train(pipe: int, directory: str) -> None:
    """Log until killed; the first message on the pipe is the run's id."""
    run = wandb.init(
        mode="offline",
        project="crash",
        dir=directory,
        settings=wandb.Settings(console="off", silent=True),
    )
    os.write(pipe, run.id.encode().ljust(16))
    step = 0
    while True:
        wandb.log(values(step))
        os.write(pipe, struct.pack("<q", step))
        step += 1


def trial(number: int, rng: random.Random, root: Path) -> dict[str, object]:
    """Fork, let it log, kill it, and tell what had been returned to it."""
    reading, writing = os.pipe()
    os.set_inheritable(writing, False)
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.environ["WORKLOAD_UID"] = f"trial-{number}"
        train(writing, str(root.parent))
        os._exit(1)
    os.close(writing)
    run = os.read(reading, 16).decode().strip()  # arrives once `wandb.init` has returned
    life = rng.uniform(0, LIFE_SECONDS)
    received = b""
    deadline = time.monotonic() + life
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            received += os.read(reading, 65536)
    os.kill(pid, signal.SIGKILL)
    while chunk := os.read(reading, 65536):
        received += chunk
    os.close(reading)
    os.waitpid(pid, 0)
    whole = len(received) // 8 * 8
    returned = struct.unpack(f"<{whole // 8}q", received[:whole])
    assert list(returned) == list(range(len(returned)))
    return {"trial": number, "run": run, "returned": len(returned), "life": life}


def main() -> None:
    """Run all trials."""
    trials, seed, root, report = sys.argv[1:5]
    rng = random.Random(int(seed))
    with Path(report).open("w", encoding="utf-8") as out:
        for number in range(int(trials)):
            out.write(json.dumps(trial(number, rng, Path(root))) + "\n")
            out.flush()


if __name__ == "__main__":
    main()
