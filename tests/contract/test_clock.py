"""The wall clock jumps by days in the training process and in the service (libfaketime)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit import master as kit
from tests.kit import spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.delivery import arrived, is_ordered
from tests.kit.fake_time import LIBRARIES, MISSING, FakeTime
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.master import needs_master
from tests.kit.spools import PATIENCE_SECONDS, wait_until
from tests.kit.trainer import Trainer

pytestmark = pytest.mark.promise("G14")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


@pytest.mark.skipif(not LIBRARIES, reason=MISSING)
@pytest.mark.parametrize("days", [-10, 10])
def test_a_jump_in_either_process_changes_no_order_and_loses_nothing(
    tmp_path: Path, receiver: FaultyReceiver, days: int
) -> None:
    training, shipping = FakeTime(tmp_path, "training"), FakeTime(tmp_path, "shipping")
    trainer = Trainer(tmp_path / "spool", WORKLOAD_UID="w", **training.environ)
    service = start_lens_ship(
        *("run", "--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")),
        *("--processor-url", receiver.url, "--flush-interval", "0.2"),
        **shipping.environ,
    )
    try:
        wait_until(lambda: 49 in arrived(receiver.store, "w").steps)
        # A request that is cut before its answer would rightly be repeated.
        receiver.wait_for(lambda seen: all(post.answered for post in seen))
        training.jump(days)
        shipping.jump(-days)
        receiver.stop()
        trainer.record_more()
        receiver.start()
        wait_until(lambda: 99 in arrived(receiver.store, "w").steps)
        training.jump(-days)
        trainer.end()
    finally:
        service.terminate()
        service.communicate(timeout=PATIENCE_SECONDS)
    there = arrived(receiver.store, "w")
    assert sorted(there.steps) == list(range(100))
    assert is_ordered(there.order)


_REPORTS = """
from spooler import SpoolMasterClient, WorkerTrainingMetric
client = SpoolMasterClient()
for number in range(3):
    assert client.report_diagnosis_agent_metrics(
        WorkerTrainingMetric(data_type="XPU_TIMER_METRIC", data_content=f"report {number}")
    )
"""


@needs_master
@pytest.mark.skipif(not LIBRARIES, reason=MISSING)
@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("days", [-1, -1 / 24, 1 / 24, 1])
def test_no_report_expires_or_is_a_dead_letter_because_two_clocks_differ(
    tmp_path: Path, days: float, elsewhere: bool
) -> None:
    training, shipping = FakeTime(tmp_path, "training"), FakeTime(tmp_path, "shipping")
    shipping.jump(days)
    root = tmp_path / "spool"
    flags = ("--spool", str(root), "--state", str(tmp_path / "state"))
    with kit.running(tmp_path / "master", "http") as master:
        environ = {
            "PRIMUS_LENS_WANDB_OUTPUT_PATH": str(root),
            "DLROVER_MASTER_ADDR": master.address,
            "DLROVER_MASTER_SERVICE_TYPE": "http",
        }
        hidden = "from spooler.spool import owner; owner.boot_id = lambda: 'of another host'\n"
        code = hidden * elsewhere + _REPORTS
        done = spools.python(code, **environ, **training.environ)
        assert done.returncode == 0, done.stderr
        told = lens_ship("run", "--once", *flags, **shipping.environ)
        assert told.code == 0, told.err
        assert kit.numbers(master.stored()) == [0, 1, 2]
        audited = lens_ship("audit", *flags)
    assert audited.code == 0, audited.out
    assert "expired" not in audited.out + told.err
