"""The status behind the page: collected as a whole when something has changed, else in part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.admin.refresher import FULL_SECONDS, StatusRefresher
from shipper.delivery.counters import Metrics
from shipper.health.liveness import ServiceLiveness
from shipper.ledger.ledger import CommitDelta, Ledger, Position
from shipper.ledger.service_status import Heartbeat, write_heartbeat
from shipper.status.model import Status
from tests.kit import shipping
from tests.kit.shipping import Clock, step


class Setup:
    """A refresher without its thread, over one spool of three records."""

    def __init__(self, folder: Path) -> None:
        directory, _ = shipping.spool(folder / "spool", [step(n) for n in range(3)])
        self.spool = directory.name
        self.ledger = Ledger(folder / "state")
        self.ledger.remember_spool(self.spool, directory, {})
        self.clock = Clock()
        self.polled: object | None = 0
        meters = Metrics()
        self.refresher = StatusRefresher(
            shipping.config(folder, http_listen="127.0.0.1:0"),
            self.ledger,
            meters,
            ServiceLiveness(meters),
            lambda: None if self.polled is None else (self.polled, self.ledger.stamp()),
            self.clock,
        )
        self.collected = 0
        collect = self.refresher._collector.collect

        def counted() -> Status:
            self.collected += 1
            return collect()

        self.refresher._collector.collect = counted  # type: ignore[method-assign, assignment]

    @property
    def status(self) -> Status:
        assert self.refresher.status is not None
        return self.refresher.status

    def refresh(self) -> int:
        """One refresh; how often everything was collected so far."""
        self.clock.pass_by(10.0)
        self.refresher.refresh()
        return self.collected


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.ledger.close()


def sign(**rates: float) -> Heartbeat:
    return Heartbeat(pid=1, version="1", started=1.0, beat=2.0, rates=rates)


def test_while_nothing_changes_everything_is_collected_once(setup: Setup) -> None:
    assert [setup.refresh() for _ in range(20)] == [1] * 20


def test_a_heartbeat_is_shown_and_is_not_a_change(setup: Setup) -> None:
    setup.refresh()
    write_heartbeat(setup.ledger, sign(processor=7.0))
    assert setup.refresh() == 1
    assert setup.status.heartbeat == sign(processor=7.0)
    assert setup.status.running
    assert setup.status.sinks[0].rate == 7.0


def test_an_acknowledgement_is_a_change(setup: Setup) -> None:
    setup.refresh()
    setup.ledger.acknowledge(setup.spool, "processor", Position(seq=2), CommitDelta(delivered=2))
    assert setup.refresh() == 2
    assert setup.status.sinks[0].pending == 1


def test_what_another_process_writes_is_a_change(setup: Setup) -> None:
    setup.refresh()
    beside = Ledger(setup.ledger.directory, exclusive=False)
    beside.acknowledge(setup.spool, "processor", Position(seq=3), CommitDelta(delivered=3))
    beside.close()
    assert setup.refresh() == 2


def test_a_spool_that_has_grown_is_a_change(setup: Setup) -> None:
    setup.refresh()
    setup.polled = 1
    assert setup.refresh() == 2
    assert setup.refresh() == 2


def test_where_changes_are_unknown_everything_is_collected_each_time(setup: Setup) -> None:
    setup.polled = None
    assert [setup.refresh() for _ in range(3)] == [1, 2, 3]


def test_after_a_while_everything_is_collected_without_a_change(setup: Setup) -> None:
    setup.refresh()
    setup.clock.pass_by(FULL_SECONDS)
    assert setup.refresh() == 2
