"""The page's eyes: everything is looked at when something has happened, and little otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shipper.admin import Probes
from shipper.admin.metrics import MetricsState
from shipper.admin.refresher import WHOLE_SECONDS, StatusRefresher
from shipper.delivery.counters import Meters
from shipper.ledger.ledger import Ledger, Position, Settled
from shipper.ledger.service_status import Sign, beat
from shipper.status.collect import StatusCollector, StatusInputs
from tests.kit import shipping
from tests.kit.shipping import Clock, step


class Counted(StatusCollector):
    """A survey that tells how often it looked at everything."""

    def __init__(self, means: StatusInputs) -> None:
        super().__init__(means)
        self.takes = 0

    def take(self, *, only: str = "") -> object:  # type: ignore[override]
        self.takes += 1
        return super().take(only=only)


class Setup:
    """A lookout without its thread, over one spool of three records."""

    def __init__(self, folder: Path) -> None:
        directory, _ = shipping.spool(folder / "spool", [step(n) for n in range(3)])
        self.spool = directory.name
        self.ledger = Ledger(folder / "state")
        self.ledger.remember_spool(self.spool, directory, {})
        self.clock = Clock()
        self.felt: object | None = 0
        self.survey = Counted(
            StatusInputs(
                root=folder / "spool",
                state=folder / "state",
                sinks=("processor",),
                ledger=self.ledger,
            )
        )
        self.source = MetricsState(Meters())
        life = Probes(
            healthy=lambda: "",
            ready=lambda: "",
            moved=lambda: 0.0,
            news=lambda: None if self.felt is None else (self.felt, self.ledger.stamp()),
        )
        self.lookout = StatusRefresher(("127.0.0.1", 0), self.survey, self.source, life, self.clock)

    def look(self) -> int:
        """One look; how often everything was looked at so far."""
        self.clock.pass_by(10.0)
        self.source.overview = self.lookout._overview()
        return self.survey.takes


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(tmp_path)
    yield made
    made.ledger.close()


def sign(**rates: float) -> Sign:
    return Sign(pid=1, version="1", started=1.0, beat=2.0, rates=rates)


def test_while_nothing_happens_everything_is_looked_at_once(setup: Setup) -> None:
    assert [setup.look() for _ in range(20)] == [1] * 20


def test_a_sign_of_life_is_no_news_and_is_shown(setup: Setup) -> None:
    setup.look()
    beat(setup.ledger, sign(processor=7.0))
    assert setup.look() == 1
    assert setup.source.overview is not None
    assert setup.source.overview.sign == sign(processor=7.0)
    assert setup.source.overview.running
    assert setup.source.overview.sinks[0].rate == 7.0


def test_a_position_that_moves_is_news(setup: Setup) -> None:
    setup.look()
    setup.ledger.acknowledge(setup.spool, "processor", Position(seq=2), Settled(delivered=2))
    assert setup.look() == 2
    assert setup.source.overview is not None
    assert setup.source.overview.pending == 1


def test_what_another_process_writes_is_news(setup: Setup) -> None:
    setup.look()
    beside = Ledger(setup.ledger.directory, exclusive=False)
    beside.acknowledge(setup.spool, "processor", Position(seq=3), Settled(delivered=3))
    beside.close()
    assert setup.look() == 2


def test_a_spool_that_is_felt_is_news(setup: Setup) -> None:
    setup.look()
    setup.felt = 1
    assert setup.look() == 2
    assert setup.look() == 2


def test_where_nothing_is_felt_everything_is_looked_at_each_time(setup: Setup) -> None:
    setup.felt = None
    assert [setup.look() for _ in range(3)] == [1, 2, 3]


def test_after_a_while_everything_is_looked_at_all_the_same(setup: Setup) -> None:
    setup.look()
    setup.clock.pass_by(WHOLE_SECONDS)
    assert setup.look() == 2
