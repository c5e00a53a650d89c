"""A process that ends without a goodbye: shipped to its last record, and said so, once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.service import Service, ship_once
from shipper.steps import CUT_OFF_NAME
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver
from tests.kit.shipping import Record, config, detection, finish, goodbye, killed, step
from tests.kit.spools import PATIENCE_SECONDS, wait_until
from tests.kit.trainer import Trainer

pytestmark = pytest.mark.promise("G16")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


def ship(tmp_path: Path, receiver: FaultyReceiver) -> None:
    assert ship_once(config(tmp_path, processor_url=receiver.url), timeout=PATIENCE_SECONDS) == []


def marked(receiver: FaultyReceiver) -> dict[int, float]:
    """Step -> the mark, where there is one."""
    steps = arrived(receiver.store, "w").steps
    return {number: row[CUT_OFF_NAME] for number, row in steps.items() if CUT_OFF_NAME in row}


def test_the_last_step_of_every_open_run_is_marked(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    records = [step(n, run="a") for n in range(5)] + [step(100, run="b"), detection("a")]
    killed(tmp_path / "spool", records)
    ship(tmp_path, receiver)
    assert marked(receiver) == {4: 1.0, 100: 1.0}
    steps = arrived(receiver.store, "w").steps
    assert steps[4]["loss"] == 4.5, "the mark leaves the step's own values alone"


@pytest.mark.parametrize(
    "end", [[finish("a")], [goodbye()], [finish("a"), goodbye()]], ids=["finish", "exit", "both"]
)
def test_a_run_that_ended_in_order_is_not_marked(
    tmp_path: Path, receiver: FaultyReceiver, end: list[Record]
) -> None:
    killed(tmp_path / "spool", [step(0, run="a"), *end])
    ship(tmp_path, receiver)
    assert marked(receiver) == {}


def test_it_is_said_once_however_often_the_service_starts(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    killed(tmp_path / "spool", [step(0)])
    for _ in range(3):
        ship(tmp_path, receiver)
    notes = [s for s in receiver.seen if s.headers["lens-ship-records"].endswith("/cut-off")]
    assert len(notes) == 1


def test_it_is_said_when_the_receiver_is_back(tmp_path: Path, receiver: FaultyReceiver) -> None:
    killed(tmp_path / "spool", [step(0)])
    receiver.then(Answer(status=200, body=b"", processed=True), Answer(status=503))
    ship(tmp_path, receiver)
    assert marked(receiver) == {0: 1.0}


def test_a_process_that_is_killed_is_delivered_to_its_last_record_and_marked_unasked(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """Beside a service that runs; the next look of its pulse finds both."""
    settings = config(tmp_path, processor_url=receiver.url, flush_interval=0.2)
    trainer = Trainer(tmp_path / "spool", WORKLOAD_UID="w")
    service = Service(settings)
    running = threading.Thread(target=service.run)
    running.start()
    try:
        wait_until(lambda: 49 in arrived(receiver.store, "w").steps)
        trainer.record_more()
        trainer.kill()
        wait_until(lambda: CUT_OFF_NAME in arrived(receiver.store, "w").steps.get(99, {}))
    finally:
        service.stop()
        running.join()
    assert sorted(arrived(receiver.store, "w").steps) == list(range(100))
