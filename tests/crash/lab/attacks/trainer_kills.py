"""SIGKILL of a training process with a real wandb run: what `wandb.log` has returned arrives."""

from __future__ import annotations

import os
import random
from pathlib import Path

import spooler
from shipper.service import ship_once
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Child, ReceiverProcess, Tell
from tests.crash.lab.conservation import ArrivedRecords, check_recorded, recorded
from tests.crash.lab.verdict import Findings, Verdict
from tests.kit.delivery import settings

KILLS = 50
LIFE_SECONDS = 0.12


def values(step: int) -> dict[str, float]:
    """What is logged at `step`; the checker reckons it again."""
    return {f"metric/{i}": step + i / 8 for i in range(7)} | {"loss": 1.0 / (step + 1)}


def train(tell: Tell, directory: Path) -> None:
    """Log until killed; the first number told is -1, once `wandb.init` has returned."""
    import wandb

    quiet = wandb.Settings(console="off", silent=True)
    wandb.init(mode="offline", project="crash", dir=str(directory), settings=quiet)
    tell(-1)
    step = 0
    while True:
        wandb.log(values(step))
        tell(step)
        step += 1


def trial(seed: int, work: Path) -> Verdict:
    """Kill `KILLS` training processes, then ship what they have left."""
    rng, found = random.Random(seed), Findings()
    root = work / "spool"
    os.environ.update(
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), WANDB_MODE="offline", WANDB_DIR=str(work)
    )
    receiver = ReceiverProcess(work / "telemetry.sqlite")
    spooler.install()
    import wandb  # noqa: F401 - once, for all children

    returned = {}
    for number in range(KILLS):
        os.environ["WORKLOAD_UID"] = f"child-{number}"
        child = Child(lambda tell: train(tell, work))
        child.wait_for_first()
        child.watch(rng.uniform(0, LIFE_SECONDS))
        child.kill()
        found.faults += 1
        returned[f"child-{number}"] = len(child.told) - 1
    there = recorded(root, found)
    pending = ship_once(settings(root, work / "state", receiver.url), timeout=120)
    receiver.stop()
    found.check(not pending, "G4", f"still pending: {pending}")
    found.check(sum(returned.values()) > KILLS, "G1", "nothing was logged")
    arrivals = ArrivedRecords(receiver.store)
    for workload, count in returned.items():
        steps = there[workload].steps
        check_recorded(found, workload, steps, count)
        arrivals.check(found, workload, steps, deaths=0)
        for step, metrics in arrivals.steps(workload).items():
            found.check(metrics == values(step), "G3", f"{workload}: step {step}: {metrics}")
    return found.verdict()


ATTACK = Attack(
    meaning="SIGKILL of a training process that logs to a real wandb run",
    promises=("G1", "G3", "G4"),
    trial=trial,
    trials=Trials(short=2, usual=4, long=20),
    catches=("no-commit-before-return", "duplicates-on-retry"),
)
