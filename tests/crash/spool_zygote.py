"""The recorder alone, killed at a random instant, with segments so small that it always rotates.

Usage: python spool_zygote.py TRIALS SEED ROOT REPORT; see `trainer_zygote` for the scheme.
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

from spooler.recorder import recorder
from spooler.records import step as step_record

LIFE_SECONDS = 0.03


def record_for_ever(pipe: int) -> None:
    """Record steps until killed, telling each one that was taken."""
    number = 0
    while True:
        body = step_record.make(
            run="r", step=number, time=time.time(), closed=True, data={"loss": number / 3}
        )
        if recorder().record("step", body):
            os.write(pipe, struct.pack("<q", number))
        number += 1


def trial(number: int, rng: random.Random) -> dict[str, object]:
    """Fork, let it record, kill it, and tell what had been returned to it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.environ["WORKLOAD_UID"] = f"trial-{number}"
        record_for_ever(writing)
        os._exit(1)
    os.close(writing)
    received = os.read(reading, 8)
    deadline = time.monotonic() + rng.uniform(0, LIFE_SECONDS)
    while (left := deadline - time.monotonic()) > 0:
        if select.select([reading], [], [], left)[0]:
            received += os.read(reading, 65536)
    os.kill(pid, signal.SIGKILL)
    while chunk := os.read(reading, 65536):
        received += chunk
    os.close(reading)
    os.waitpid(pid, 0)
    return {"trial": number, "returned": len(received) // 8}


def main() -> None:
    """Run all trials."""
    trials, seed, _root, report = sys.argv[1:5]
    rng = random.Random(int(seed))
    with Path(report).open("w", encoding="utf-8") as out:
        for number in range(int(trials)):
            out.write(json.dumps(trial(number, rng)) + "\n")


if __name__ == "__main__":
    main()
