"""Whatever kills the process that records a log: its lines are recorded once, in order, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spooler.spool.reader import Reader
from tests.kit import spools

HERE = Path(__file__).parent
KILLS = int(os.environ.get("LENS_SHIP_KILLS", "200")) // 4


@pytest.mark.promise("G20")
@pytest.mark.parametrize("rotation", ["rename", "copy", "both"])
def test_the_recorded_log_is_the_log_to_the_byte(rotation: str, tmp_path: Path) -> None:
    root, folder = tmp_path / "spool", tmp_path / "logs"
    folder.mkdir()
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    subprocess.run(
        [sys.executable, HERE / "log_zygote.py", f"{KILLS}", f"{seed}", folder, rotation],
        env=spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), PYTHONPATH=str(spools.REPOSITORY)
        ),
        check=True,
        timeout=spools.PATIENCE_SECONDS + KILLS,
    )
    begun = [path for path in spools.spools_below(root) if Reader(path).segments()]
    found = sorted(begun, key=lambda path: Reader(path).identity().created)
    assert len(found) > KILLS // 10, "children lived long enough to record something"
    reports = [body for path in found for body in spools.read_whole(path).bodies("report")]
    text = "".join(body["data_content"] for body in reports)
    assert text.encode() == (folder / "expected").read_bytes(), f"seed {seed}"
    assert len(list(folder.glob("train.log.*"))) > KILLS // 10, "it was rotated all the time"
