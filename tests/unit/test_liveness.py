"""The liveness probe reports the service's own threads, and never its receivers."""

from __future__ import annotations

import threading

import pytest

from shipper.delivery.counters import BUCKETS, Metrics
from shipper.health.liveness import HOUSEKEEPING, LOOP_SECONDS, MAIN, TURN_SECONDS, ServiceLiveness
from tests.kit.shipping import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def meters() -> Metrics:
    return Metrics()


@pytest.fixture
def live(meters: Metrics, clock: Clock) -> ServiceLiveness:
    return ServiceLiveness(meters, clock)


def test_it_is_ready_once_the_root_was_scanned(live: ServiceLiveness) -> None:
    live.loop_ran(MAIN)
    assert "not been scanned" in live.ready()
    live.loop_ran(HOUSEKEEPING)
    assert live.ready() == ""


@pytest.mark.parametrize("hangs", [MAIN, HOUSEKEEPING])
def test_a_loop_that_hangs_is_reported(live: ServiceLiveness, clock: Clock, hangs: str) -> None:
    clock.pass_by(LOOP_SECONDS)
    assert live.healthy() == ""
    clock.pass_by(1)
    live.loop_ran(HOUSEKEEPING if hangs == MAIN else MAIN)
    began = live.last_run
    assert live.healthy() == f"{hangs} has not run for 121 s"
    live.loop_ran(hangs)
    assert live.healthy() == ""
    assert live.last_run > began


def test_a_worker_that_has_ended_is_reported(live: ServiceLiveness) -> None:
    worker = threading.Thread(target=lambda: None, name="worker-3")
    worker.start()
    worker.join()
    live.begin(lambda: [worker])
    assert live.healthy() == "threads have ended: worker-3"


def test_a_turn_that_does_not_end_is_reported(live: ServiceLiveness, clock: Clock) -> None:
    live.turn_started()
    clock.pass_by(TURN_SECONDS + 1)
    live.loop_ran(MAIN)
    live.loop_ran(HOUSEKEEPING)
    assert "1 workers are stuck" in live.healthy()
    live.turn_ended()
    assert live.healthy() == ""


def test_a_turn_that_waits_for_its_receiver_stays_alive(
    live: ServiceLiveness, meters: Metrics, clock: Clock
) -> None:
    live.turn_started()
    meters.request_started()
    clock.pass_by(1000 * TURN_SECONDS)
    live.loop_ran(MAIN)
    live.loop_ran(HOUSEKEEPING)
    assert live.healthy() == ""


def test_outcomes_stay_few_whatever_they_are_called(meters: Metrics) -> None:
    for number in range(500):
        meters.request_finished("processor", f"reason-{number}", 0.1)
    assert len(meters.requests) <= 41
    assert sum(meters.requests.values()) == 500
    assert meters.requests["processor", "other"] > 400


def test_durations_fall_into_the_bucket_whose_bound_they_do_not_pass(meters: Metrics) -> None:
    for seconds in (0.0, BUCKETS[0], BUCKETS[-1], BUCKETS[-1] + 1):
        meters.request_finished("processor", "delivered", seconds)
    counts = meters.durations["processor"].counts
    assert (counts[0], counts[-2], counts[-1], sum(counts)) == (2, 1, 1, 4)
