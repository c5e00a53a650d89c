"""The state of one way out: when to try again, and one line in the log per change."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from shipper.delivery.backoff import CAP_SECONDS, FIRST_SECONDS
from shipper.delivery.sink_state import SinkState
from shipper.sinks.outcome import Disposition, Outcome
from tests.kit.shipping import Clock, retry


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def state(clock: Clock) -> SinkState:
    return SinkState("processor", clock)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.INFO, logger="shipper.delivery.sink_state"):
        yield caplog


def levels(said: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in said.records]


def test_at_first_all_is_well_and_may_be_tried_at_once(state: SinkState, clock: Clock) -> None:
    assert state.failure is None
    assert state.ready_at <= clock.now


def test_a_failure_puts_off_the_next_try_by_the_wait_it_returns(
    state: SinkState, clock: Clock
) -> None:
    wait = state.failed(retry())
    assert 0 <= wait <= FIRST_SECONDS
    assert state.ready_at == clock.now + wait
    assert state.failure == retry()


def test_failures_of_one_moment_count_once(state: SinkState, clock: Clock) -> None:
    first = state.failed(Outcome(disposition=Disposition.RETRY, reason="busy", retry_after=30.0))
    ready = state.ready_at
    clock.pass_by(10)
    assert state.failed(retry("another")) == pytest.approx(first - 10)
    assert state.ready_at == ready
    assert state.failure is not None
    assert state.failure.reason == "busy"


def test_failures_one_after_the_other_wait_longer_up_to_the_cap(
    state: SinkState, clock: Clock
) -> None:
    waits = []
    for _ in range(200):
        waits.append(state.failed(retry()))
        clock.pass_by(CAP_SECONDS)
    assert max(waits[:4]) <= FIRST_SECONDS * 8
    assert CAP_SECONDS / 2 < max(waits) <= CAP_SECONDS


def test_a_success_ends_the_trouble_and_the_waiting(state: SinkState, clock: Clock) -> None:
    for _ in range(50):
        state.failed(retry())
        clock.pass_by(CAP_SECONDS)
    state.succeeded()
    assert state.failure is None
    assert state.ready_at <= clock.now
    assert state.failed(retry()) <= FIRST_SECONDS


def test_trouble_is_said_once_until_it_changes(
    state: SinkState, clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    for reason in ("busy", "busy", "busy", "refused", "refused"):
        state.failed(retry(reason))
        clock.pass_by(CAP_SECONDS)
    assert [record.fields["reason"] for record in said.records] == ["busy", "refused"]
    assert all("kept" in record.message for record in said.records)


def test_what_needs_an_operator_is_an_error_and_the_rest_a_warning(
    state: SinkState, clock: Clock, said: pytest.LogCaptureFixture
) -> None:
    state.failed(retry("busy"))
    clock.pass_by(CAP_SECONDS)
    state.failed(retry("wrong-address", alarm=True))
    assert levels(said) == ["WARNING", "ERROR"]


def test_the_end_of_trouble_is_said_and_a_success_without_any_is_not(
    state: SinkState, said: pytest.LogCaptureFixture
) -> None:
    state.succeeded()
    assert not said.records
    state.failed(retry("busy"))
    state.succeeded()
    state.succeeded()
    assert [record.message for record in said.records[1:]] == ["sink resumed"]
