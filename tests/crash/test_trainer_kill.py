"""A training process is killed at a random instant: what `wandb.log` has returned arrives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipper.batcher import CUT_OFF_NAME
from shipper.receiver import Receiver
from shipper.service import ship_once
from tests.crash.trainer_zygote import values
from tests.kit.delivery import arrived, is_ordered, settings

HERE = Path(__file__).parent
KILLS = int(os.environ.get("LENS_SHIP_KILLS", "200"))
PARTS = 4  # so that two cores share the trials


@pytest.mark.promise("G1")
@pytest.mark.promise("G3")
@pytest.mark.parametrize("part", range(PARTS))
def test_every_step_whose_log_returned_is_delivered_as_it_was_recorded(
    part: int, tmp_path: Path
) -> None:
    spool, report = tmp_path / "spool", tmp_path / "report.jsonl"
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    subprocess.run(
        [sys.executable, HERE / "trainer_zygote.py", f"{KILLS // PARTS}", f"{seed}", spool, report],
        env={
            **os.environ,
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(spool),
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(tmp_path),
        },
        check=True,
    )
    trials = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    assert len(trials) == KILLS // PARTS
    assert sum(trial["returned"] for trial in trials) > KILLS // PARTS, "nothing was logged"

    with Receiver(path=tmp_path / "telemetry.sqlite") as receiver:
        pending = ship_once(settings(spool, tmp_path / "state", receiver.url), timeout=120)
        assert pending == []
        for trial in trials:
            here = arrived(receiver.store, f"trial-{trial['trial']}")
            numbers = sorted(here.steps)
            returned = trial["returned"]
            assert numbers[:returned] == list(range(returned)), f"lost: {trial}, seed {seed}"
            # The one call that was under way when the signal came may have been recorded too.
            assert len(numbers) <= returned + 1, f"too many: {trial}, seed {seed}"
            marked = [step for step, metrics in here.steps.items() if CUT_OFF_NAME in metrics]
            assert marked == numbers[-1:], f"the last step tells of the kill: {trial}"
            for step, metrics in here.steps.items():
                metrics = {n: v for n, v in metrics.items() if n != CUT_OFF_NAME}
                assert metrics == pytest.approx(values(step), abs=0), f"{trial}, seed {seed}"
            assert is_ordered(here.order), f"out of order: {trial}, seed {seed}"
            assert not here.repeated, f"sent twice without need: {trial}, seed {seed}"
