"""A fleet that comes back does not trample its receiver: the simulation, small, and its control."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.fleet import Fleet, World
from shipper.sinks.processor import client

# Two thirds of the receiver are taken by what is recorded meanwhile, and all nodes together keep
# it busy for longer than one of them would wait by default: the hardest of the cases that end.
HARD = {"nodes": 600, "capacity": 10.0, "outage": 600.0}


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level("CRITICAL", logger="shipper"):
        yield


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_fleet_comes_back_without_a_herd(seed: int) -> None:
    result = Fleet(World(nodes=600, capacity=40.0, outage=600.0, seed=seed)).run()
    assert result.peak_of_ten <= 2.0
    assert result.drained <= 1.5 * result.ideal
    assert result.fairness > 0.6


def test_a_slow_receiver_does_its_work_once() -> None:
    result = Fleet(World(**HARD)).run()
    assert result.wasted < 0.05
    assert result.drained <= 1.5 * result.ideal


def test_hanging_up_at_a_fixed_time_would_not_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: without a growing timeout the same fleet makes the receiver work twice."""
    monkeypatch.setattr(client, "TIMEOUT_GROWTH", 1.0)
    result = Fleet(World(**HARD)).run()
    assert result.wasted > 0.2
    assert result.drained > 1.5 * result.ideal
