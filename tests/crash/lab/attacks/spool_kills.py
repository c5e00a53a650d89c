"""SIGKILL of a process that only records, during commits, rotations and seals."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

from spooler.recorder import recorder
from spooler.records import step as step_record
from spooler.spool import db
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, Tell
from tests.crash.lab.conservation import check_recorded, recorded
from tests.crash.lab.verdict import Findings, Verdict

KILLS = 100
LIFE_SECONDS = 0.03


def record_forever(tell: Tell) -> None:
    """Record steps until killed, telling each one that was taken."""
    number = 0
    while True:
        body = step_record.encode(
            run="r", step=number, time=time.time(), closed=True, data={"loss": number / 3}
        )
        if recorder().record("step", body):
            tell(number)
        number += 1


def trial(seed: int, work: Path) -> Verdict:
    """Kill `KILLS` recording processes, then look at every spool."""
    rng, found = random.Random(seed), Findings()
    os.environ.update(
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(work / "spool"),
        # So few that it always rotates.
        PRIMUS_LENS_SPOOL_SEGMENT_RECORDS=str(rng.choice((2, 7, 40))),
    )
    db.LARGE_BYTES = rng.choice((1, 2**30))  # packed when they are sealed, or not
    returned = {}
    for number in range(KILLS):
        os.environ["WORKLOAD_UID"] = f"child-{number}"
        child = Child(record_forever)
        if rng.random() < 0.9:  # the others may die while their spool is being made
            child.wait_for_first()
        child.watch(rng.uniform(0, LIFE_SECONDS))
        child.kill()
        found.faults += 1
        returned[f"child-{number}"] = len(child.told)
    there = recorded(work / "spool", found)
    for workload, count in returned.items():
        spool = there.get(workload)
        check_recorded(found, workload, spool.steps if spool else (), count)
    found.check(sum(returned.values()) > KILLS, "G1", "nothing was recorded")
    return found.verdict()


ATTACK = Attack(
    meaning="SIGKILL of a recording process during commits, rotations and seals",
    promises=("G1", "G3", "G7"),
    trial=trial,
    trials=Trials(short=4, usual=16, long=70),
    catches=("no-commit-before-return", "rotate-without-closing", "rotate-early"),
)
