"""The service is killed at every point between read, send and save.

Nothing is lost, and nothing but the one request that was in flight is sent twice.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from shipper.receiver import Receiver, queries
from tests.crash.shipper_steps import STEPS
from tests.kit.delivery import METADATA, is_ordered

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.mark.promise("G4")
@pytest.mark.promise("G5")
def test_a_kill_anywhere_loses_nothing_and_repeats_one_request_at_most(tmp_path: Path) -> None:
    with Receiver(path=tmp_path / "telemetry.sqlite") as receiver:
        told = subprocess.run(
            [sys.executable, HERE / "shipper_steps.py", tmp_path, receiver.url],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        ).stdout
        rounds = [json.loads(line) for line in told.splitlines()]
        killed = Counter(entry["place"] for entry in rounds if entry["killed"])
        assert killed["after Poster.post"] > 5, killed
        assert killed["before Ledger.acknowledge"] > 5, killed
        assert killed["after Ledger.bury"] == 1, killed
        for entry in rounds:
            where = f"killed {entry['place']}, crossing {entry['crossing']}"
            assert entry["end"] == 0, f"{where}: the second process left something pending"
            check_round(receiver, entry["round"], where)
            check_dead_letter(tmp_path / f"state-{entry['round']}", where)


def check_round(receiver: Receiver, number: int, where: str) -> None:
    workload = f"round-{number}"
    rows = {row["iteration"]: row["performance"] for row in queries.rows(receiver.store, workload)}
    assert len(rows) == len(STEPS), where
    for (run, step), metrics in STEPS.items():
        row = rows[step]
        assert row["run_id"] == run, where
        assert {n: v for n, v in row.items() if n not in METADATA} == metrics, where
    requests = [r for r in queries.requests(receiver.store) if r["workload_uid"] == workload]
    assert len({(r["lens_ship_records"], r["body_sha256"]) for r in requests}) == len(
        {r["lens_ship_records"] for r in requests}
    ), f"{where}: the same header with another body"
    for sink in ("processor/", "processor-detection/"):
        headers = [r["lens_ship_records"] for r in requests if f"/{sink}" in r["lens_ship_records"]]
        repeated = Counter(headers).total() - len(set(headers))
        assert repeated <= 1, f"{where}: {Counter(headers)}"
    for run in ("a", "b"):
        order = [r["first_step"] for r in requests if r["run_id"] == run]
        assert is_ordered(order), f"{where}: {order}"


def check_dead_letter(state: Path, where: str) -> None:
    ledger = sqlite3.connect(state / "ledger.sqlite")
    try:
        buried = ledger.execute("SELECT sink, kind, reason FROM dead_letter").fetchall()
    finally:
        ledger.close()
    assert buried == [("processor", "step", "unsendable")], where
