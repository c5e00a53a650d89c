"""SIGKILL of recording processes and of the service that ships their spools, at the same time."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import shipper.delivery.backoff
from shipper.service import Service, ship_once
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.attacks.spool_kills import record_forever
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ArrivedRecords, check_recorded, recorded
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings

TRAINERS = 15
LIFE_SECONDS = 0.1
SERVICE_SECONDS = 0.12


def trial(seed: int, work: Path) -> Verdict:
    """Kill trainers in a row, and the service beside them again and again."""
    rng, found = random.Random(seed), Findings()
    root = work / "spool"
    shipper.delivery.backoff.FIRST_SECONDS = 0.01
    os.environ.update(
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), PRIMUS_LENS_SPOOL_SEGMENT_RECORDS="60"
    )
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    brisk = {"batch_max_steps": 7, "flush_interval": 0.05, "rescan_interval": 1}
    config = settings(root, work / "state", receiver.url, **brisk)

    def serve(_tell: Tell) -> None:
        Service(config).run()

    returned, deaths = {}, 0
    service, end = Child(serve), time.monotonic() + rng.uniform(0, SERVICE_SECONDS)
    for number in range(TRAINERS):
        os.environ["WORKLOAD_UID"] = f"child-{number}"
        child = Child(record_forever)
        if rng.random() < 0.9:
            child.wait_for_first()
        dies = time.monotonic() + rng.uniform(0, LIFE_SECONDS)
        while (left := dies - time.monotonic()) > 0:
            child.watch(min(left, max(0.0, end - time.monotonic())))
            if time.monotonic() >= end:
                service.kill()
                deaths += 1
                service, end = Child(serve), time.monotonic() + rng.uniform(0, SERVICE_SECONDS)
        child.kill()
        returned[f"child-{number}"] = len(child.told)
    service.kill()
    found.faults = TRAINERS + deaths + 1
    there = recorded(root, found)
    pending = ship_once(config, timeout=120)
    receiver.stop()
    found.check(not pending, "G4", f"still pending: {pending}")
    arrivals = ArrivedRecords(receiver.store)
    for workload, count in returned.items():
        steps = there[workload].steps if workload in there else ()
        check_recorded(found, workload, steps, count)
        arrivals.check(found, workload, steps, deaths=deaths + 1)
    return found.verdict()


ATTACK = Attack(
    meaning="SIGKILL of training processes and of the service beside them, at random instants",
    promises=("G1", "G3", "G4"),
    trial=trial,
    trials=Trials(short=1, usual=10, long=60),
    catches=("no-commit-before-return", "acknowledge-before-send"),
)
