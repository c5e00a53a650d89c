"""For each framework the receiver shows the rows that its user would draw, hooked or replayed.

Runs where `LENS_SHIP_TEST_FRAMEWORKS` names an interpreter with the frameworks, as
`make test-frameworks` does.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgpack
import pytest

from shipper.service import ship_once
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived, settings
from tests.kit.processor import Receiver

PYTHON = os.environ.get("LENS_SHIP_TEST_FRAMEWORKS", "")
TRAININGS = Path(__file__).with_name("trainings.py")
SECONDS = 300

Rows = Mapping[int, Mapping[str, Any]]

pytestmark = pytest.mark.skipif(not PYTHON, reason="make test-frameworks runs it")


def train(work: Path, name: str) -> Rows:
    """The rows that the user of the framework would draw."""
    report = work / "report.json"
    library = work / "library"
    library.mkdir()
    (library / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    done = subprocess.run(
        [PYTHON, str(TRAININGS), name, str(report)],
        cwd=work,
        env=spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(work / "spool"),
            WORKLOAD_UID="w",
            WANDB_MODE="offline",
            WANDB_SILENT="true",
            HF_HUB_OFFLINE="1",
            PYTHONPATH=f"{spools.REPOSITORY}{os.pathsep}{library}",
        ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {int(step): row for step, row in json.loads(report.read_text()).items()}


def hooked(work: Path) -> Rows:
    """What the receiver shows of the spools."""
    with Receiver(path=work / "hooked.db") as receiver:
        url = f"http://127.0.0.1:{receiver.port}/v1"
        assert ship_once(settings(work / "spool", work / "state", url), timeout=60) == []
        return arrived(receiver.store, "w").steps


def replayed(work: Path) -> Rows:
    """What it shows of wandb's own files."""
    with Receiver(path=work / "replayed.db") as receiver:
        url = f"http://127.0.0.1:{receiver.port}/v1"
        places = ["--spool", str(work / "none"), "--state", str(work / "replay")]
        (work / "none").mkdir()
        files = [*places, "--as-workload", "w", str(work / "wandb"), "--processor-url", url]
        done = lens_ship("replay", *files)
        assert done.code == 0, done.err
        return arrived(receiver.store, "w").steps


def numbers(rows: Rows) -> dict[int, dict[str, Any]]:
    """Without media, which a receiver shows as placeholders, and times of TRL's own functions."""
    return {
        step: {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and not name.startswith("profiling/")
        }
        for step, row in rows.items()
    }


@pytest.mark.parametrize("name", ["plain", "openrlhf", "transformers", "lightning", "sft", "grpo"])
def test_the_receiver_shows_the_rows_that_the_user_draws(tmp_path: Path, name: str) -> None:
    drawn = train(tmp_path, name)
    shown = hooked(tmp_path)
    assert len(drawn) > 1
    assert shown.keys() == drawn.keys()
    for step, row in numbers(shown).items():
        assert row == pytest.approx(numbers(drawn)[step], nan_ok=True), step
    assert any("completions" in row for row in shown.values()) == (name == "grpo")
    assert numbers(replayed(tmp_path)) == numbers(shown)
