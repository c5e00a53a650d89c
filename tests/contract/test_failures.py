"""A failure and the decision about it reach DLRover's real master, and make it relaunch nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from shipper.sinks.dlrover import age as ages
from spooler.records import decision, failure
from spooler.spool import owner
from tests.kit import master as kit
from tests.kit import spools
from tests.kit.master import Master, Wire, needs_master
from tests.kit.shipping import Record, append, config, spool


@pytest.fixture(scope="module", params=["grpc", "http"])
def master(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Master]:
    """One for all tests, each with restart counts of its own: a master logs one failure of each."""
    with kit.running(tmp_path_factory.mktemp(request.param), request.param) as one:
        yield one


class Since:
    """What a master got since this was made; all of it after a restart."""

    def __init__(self, master: Master) -> None:
        self._master, self._life, self._before = master, master.lives, len(master.rows())

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self._master.rows()[self._before if self._master.lives == self._life else 0 :]

    def all(self, kind: str) -> list[Any]:
        return [row[kind] for row in self.rows if kind in row]

    @property
    def restarts(self) -> list[int]:
        """The restart counts of the failures."""
        return [told["restart_count"] for told in self.all("failure")]


def failed(restarts: int = 0, age: float = 0.0, **more: Any) -> Record:
    """A record of a failure, `age` seconds old."""
    given = {
        "error_data": f'{{"0": {{"message": "failure {restarts}"}}}}',
        "level": "process_error",
        "node_id": 0,
        "node_type": "worker",
        "time": time.time() - age,
        "monotonic": time.monotonic(),
        **more,
    }
    return failure.NAME, failure.encode(restart_count=restarts, **given)


def decided(age: float = 0.0, **more: Any) -> Record:
    body = {**decision.EXAMPLE, "time": time.time() - age}
    return decision.NAME, {**body, "monotonic": time.monotonic(), **more}


def job(root: Path, address: str, service: str, *records: Record, **more: Any) -> Any:
    """The writer of a spool of a job with a master."""
    known = {"master_addr": address, "master_service": service, "boot_id": owner.boot_id()}
    who = spools.identity(spools.spool_id(1), node_id=0, rank=3, **known)
    return spool(root / "spool", records, who=who, **more)[1]


def account(root: Path) -> Account:
    with closing(Ledger(root / "state", exclusive=False)) as ledger:
        (one,) = run_audit(ledger, root / "spool", ["master"])
    assert one.balances, one
    return one


# --- the whole way --------------------------------------------------------------------------------

_PROGRAM = """
import spooler
agent = spooler.DiagnosisAgent.singleton_instance(node_rank=3)
agent.diagnose_training_failure(failures={"error": "CUDA out of memory"}, restart_count=1)
agent.diagnose_training_failure(failures={}, restart_count=1)
"""


@needs_master
@pytest.mark.promise("G18")
def test_from_the_diagnosis_to_the_master_s_log(tmp_path: Path, master: Master) -> None:
    got = Since(master)
    done = spools.python(
        _PROGRAM,
        PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"),
        DLROVER_MASTER_ADDR=master.address,
        DLROVER_MASTER_SERVICE_TYPE=master.service,
        RANK="3",
    )
    assert done.returncode == 0, done.stderr
    assert ship_once(config(tmp_path), timeout=60) == []
    judged, told, event, nothing = got.rows
    assert judged == {"relaunches": False}
    assert told["node"] == "worker-0"
    assert (told["failure"]["restart_count"], told["failure"]["level"]) == (1, "process_error")
    error = json.loads(told["failure"]["error_data"])
    assert error["3"]["message"] == "error: CUDA out of memory"
    assert event["event"]["msg"].startswith("RESTART_WORKER: the memory of the GPU")
    assert event["event"]["instance"] == "worker-0"
    assert event["event"]["labels"]["rule"] == "gpu-memory"
    assert event["event"]["labels"]["rank"] == "3"
    assert nothing["event"]["event_type"] == "info"
    assert "worker-0 restart 1 fails: " in master.log.read_text()
    assert account(tmp_path).delivered == 3


@pytest.mark.promise("G1")
def test_the_failure_is_on_disk_before_anything_is_decided(tmp_path: Path) -> None:
    root = tmp_path / "spool"
    code = """
import os, signal
from spooler import DiagnosisAgent
from spooler.diagnosis import rules
rules.decide = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
DiagnosisAgent().diagnose_training_failure("Signal 11", restart_count=2)
"""
    done = spools.python(code, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root))
    assert done.returncode == -9, done.stderr
    found = spools.read_whole(spools.spools_below(root)[0])
    (record,) = found.bodies("failure")
    assert (record["restart_count"], record["level"]) == (2, "process_error")
    assert json.loads(record["error_data"])["0"]["message"] == "Signal 11"
    assert found.bodies("decision") == []


# --- repetitions, restarts, outages ---------------------------------------------------------------


@needs_master
@pytest.mark.promise("G19")
def test_a_failure_whose_answer_was_lost_counts_once(tmp_path: Path, master: Master) -> None:
    got = Since(master)
    with Wire(master.port) as torn:
        job(tmp_path, torn.address, master.service, failed(11), decided())
        torn.lose_answer(3 + kit.MORE_QUESTIONS)
        assert ship_once(config(tmp_path), timeout=60) == []
        assert torn.lost == 1
    assert got.restarts == [11, 11]
    assert got.all("relaunches") == [False, False]
    assert len(got.all("event")) == 1
    assert master.log.read_text().count("worker-0 restart 11 fails: ") == 1
    assert account(tmp_path).delivered == 2


@needs_master
@pytest.mark.promise("G18")
def test_a_restarted_master_gets_the_failure_again_and_relaunches_nothing(
    tmp_path: Path, master: Master
) -> None:
    got = Since(master)
    writer = job(tmp_path, master.address, master.service, failed(21), decided(), close=False)
    assert ship_once(config(tmp_path), timeout=60) == []
    master.kill()
    master.start()
    append(writer, [failed(22)])
    writer.close()
    assert ship_once(config(tmp_path), timeout=60) == []
    assert got.restarts == [21, 22]
    assert got.all("relaunches") == [False, False]
    assert account(tmp_path).resent == 2


@needs_master
@pytest.mark.promise("G19")
def test_after_an_outage_of_an_hour_the_failure_has_expired(
    tmp_path: Path, master: Master, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour that is to come: this machine may have started minutes ago."""
    got, now = Since(master), time.monotonic()
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600.0)
    monkeypatch.setattr(ages, "time", later)
    old = [failed(31, 3600.0, monotonic=now), decided(3600.0, monotonic=now)]
    new = [failed(32, 60.0, monotonic=now + 3540.0), decided(60.0, monotonic=now + 3540.0)]
    job(tmp_path, master.address, master.service, *old, *new)
    assert ship_once(config(tmp_path), timeout=60) == []
    assert got.restarts == [32]
    assert len(got.all("event")) == 1
    told = account(tmp_path)
    assert (told.delivered, told.dropped_by_policy) == (2, {"expired": 2})


@needs_master
@pytest.mark.promise("G19")
def test_no_level_makes_the_master_relaunch_a_node(tmp_path: Path, master: Master) -> None:
    """With `node_error` it would: it starts another node in place of this one."""
    got = Since(master)
    levels = ["node_error", "process_error", "error", "warning", "info", ""]
    records = [failed(number, level=level) for number, level in enumerate(levels, 41)]
    job(tmp_path, master.address, master.service, *records)
    assert ship_once(config(tmp_path), timeout=60) == []
    assert [told["level"] for told in got.all("failure")] == ["process_error", *levels[1:]]
    assert got.all("relaunches") == [False] * len(levels)


# --- no master ------------------------------------------------------------------------------------


def test_without_a_master_failures_are_skipped_and_alert_no_one(tmp_path: Path) -> None:
    job(tmp_path, "", "grpc", failed(1), decided())
    assert ship_once(config(tmp_path), timeout=60) == []
    told = account(tmp_path)
    assert (told.skipped, told.dropped_by_policy, told.dead_letters) == (2, {}, 0)
