"""The power fails while a process records: what the kernel had not written back is gone.

What survives must be all records up to some point, and what is lost no older than the setting
allows, plus what the emulated disk takes for a sync; a start and a detection must be safe
at once.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

from shipper.discovery.layout import find_spools
from spooler.errors import SpoolError
from spooler.spool import codec
from spooler.spool.reader import Reader
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.conservation import ALL
from tests.crash.lab.laboratory import REPOSITORY
from tests.crash.lab.machine import Machine, cut_power, lines, missing
from tests.crash.lab.verdict import Findings, Verdict

# The emulated processor is slow, and shared with whatever else runs here.
SYNC_TAKES = 1.0  # seconds
START_SECONDS = 120.0
# Seconds between two syncs, records in a segment, bytes of one that is packed when it is sealed.
SETTINGS = ((3, 16384, 2**18), (1, 150, 1), (3, 16384, 2**18), (3, 150, 2**18))

PROGRAM = """
import os, time
from spooler.recorder import recorder
from spooler.spool import db, sync, writer
db.LARGE_BYTES = int(os.environ.get("LARGE_BYTES", 1))
def say(kind, number):
    os.write(1, f"{kind} {number} {time.monotonic():.4f}\\n".encode())
def main():
    mine, number = recorder(), 0
    assert mine.record("run", {"run": "r", "time": time.time(), "step": -1})
    say("once", -1)
    while True:
        at_once = number % 170 == 100
        body = {"run": "r", "step": number, "time": time.time(), "closed": True,
                "data": {f"m{i}": number + i / 8 for i in range(8)}}
        assert mine.record("detection" if at_once else "step", body)
        say("once" if at_once else "step", number)
        number += 1
        time.sleep(0.005)
if __name__ == "__main__":
    main()
else:  # only listed: what a first record loads is needed too
    os.environ["PRIMUS_LENS_WANDB_OUTPUT_PATH"] = os.path.abspath("listed")
    assert recorder().record("run", {"run": "r", "time": time.time(), "step": -1})
"""

Told = list[tuple[str, int, float]]  # kind, number, the machine's time


def trial(seed: int, work: Path) -> Verdict:
    """Let a machine record for some seconds, cut its power, look at its disk."""
    rng, found = random.Random(seed), Findings()
    seconds, records, large = SETTINGS[seed % len(SETTINGS)]
    machine = Machine(
        directory=work,
        tree=REPOSITORY,
        program=PROGRAM,
        environ={
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": "/data/spool",
            "PRIMUS_LENS_SPOOL_SYNC_SECONDS": str(seconds),
            "PRIMUS_LENS_SPOOL_SEGMENT_RECORDS": str(records),
            "LARGE_BYTES": str(large),
        },
    )
    machine.build()
    told = _live_and_lose_power(machine, rng.uniform(1.0, 7.0))
    found.faults += 1
    if len(told) < 20:
        raise RuntimeError(f"the machine did not begin to record: {told}")
    survivors = _survivors(machine.survived("spool"), found)
    _compare(told, survivors, float(seconds), found)
    return found.verdict()


def _live_and_lose_power(machine: Machine, seconds: float) -> Told:
    """What was returned, with the machine's own time, by the machine's time of its end."""
    told: Told = []
    running = machine.start()
    watchdog = threading.Timer(START_SECONDS, cut_power, [running])
    watchdog.start()
    try:
        for line in lines(running):
            kind, _, rest = line.strip().partition(" ")
            number, _, when = rest.partition(" ")
            if kind not in {"step", "once"} or "." not in when:
                continue
            told.append((kind, int(number), float(when)))
            if float(when) - told[0][2] >= seconds:
                break
    finally:
        watchdog.cancel()
        cut_power(running)
    return told


def _survivors(root: Path, found: Findings) -> list[int]:
    """The numbers of the records that are there, in order."""
    numbers: list[int] = []
    for path in find_spools(root) if root.is_dir() else []:
        try:
            chunk = Reader(path).read(0, ALL)
        except SpoolError as error:
            found.check(False, "G7", f"the spool cannot be read: {error}")
            continue
        found.check(not chunk.damage, "G7", f"after the power cut: {chunk.damage[:2]}")
        for file in (path, *path.iterdir()):
            os.utime(file, (0, 0))  # a reboot takes longer than a reader waits for more
        found.check(not Reader(path).is_owned(), "G1", "a machine that is off owns its spool")
        numbers += [codec.unpack(stored.body)["step"] for stored in chunk.records]
    return numbers


def _compare(told: Told, survivors: list[int], seconds: float, found: Findings) -> None:
    whole = list(range(-1, len(survivors) - 1))
    found.check(survivors == whole, "G1", f"what survives has holes: {survivors}")
    end = told[-1][2]
    lost = [(kind, when) for kind, number, when in told if number >= len(survivors) - 1]
    tail = end - lost[0][1] if lost else 0.0
    found.worst(f"lost tail s at {seconds:.0f} s", tail)
    found.check(
        tail <= seconds + SYNC_TAKES,
        "G1",
        f"{tail:.2f} s of records are lost, {seconds:.0f} s are allowed ({len(lost)} records)",
    )
    for kind, when in lost:
        found.check(
            kind != "once" or end - when <= SYNC_TAKES,
            "G1",
            f"a record that is synced at once is lost {end - when:.2f} s after it was returned",
        )


ATTACK = Attack(
    meaning="power cut of a virtual machine in which a process records",
    promises=("G1", "G7"),
    trial=trial,
    trials=Trials(short=1, usual=8, long=60),
    catches=("no-sync", "no-sync-at-once", "log-removed-before-the-sync"),
    missing=missing,
)
