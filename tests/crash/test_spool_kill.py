"""The recorder is killed in the midst of commits, rotations and seals: the spool stays whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shipper.discovery import find_spools
from spooler.spool import codec
from spooler.spool.reader import Reader

HERE = Path(__file__).parent
KILLS = int(os.environ.get("LENS_SHIP_KILLS", "200")) * 2


@pytest.mark.promise("G1")
def test_a_committed_record_survives_a_kill_in_the_midst_of_rotation(tmp_path: Path) -> None:
    spool, report = tmp_path / "spool", tmp_path / "report.jsonl"
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    subprocess.run(
        [sys.executable, HERE / "spool_zygote.py", f"{KILLS}", f"{seed}", spool, report],
        env={
            **os.environ,
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(spool),
            "PRIMUS_LENS_SPOOL_SEGMENT_RECORDS": "40",
        },
        check=True,
    )
    trials = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    by_workload = {
        Reader(path).identity().workload_uid: Reader(path) for path in find_spools(spool)
    }
    assert len(trials) == KILLS == len(by_workload)
    rotated = 0
    for trial in trials:
        reader = by_workload[f"trial-{trial['trial']}"]
        assert not reader.is_owned(), "a dead process does not own its spool"
        chunk = reader.read(0, 10**6)
        steps = [codec.unpack(record.body)["step"] for record in chunk.records]
        assert not chunk.damage, f"{trial}, seed {seed}: {chunk.damage}"
        assert chunk.at_end
        assert steps == list(range(len(steps)))
        assert trial["returned"] <= len(steps) <= trial["returned"] + 1, f"{trial}, seed {seed}"
        assert chunk.through == reader.last_seq() == len(steps)
        rotated += len(reader.segments()) > 2
    assert rotated > KILLS // 20, "the kills should come among rotations, not before them"
