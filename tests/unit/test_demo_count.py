"""The demo's count: it must see a loss, a changed value and a wrong order wherever there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from shipper.demo.count import (
    LogCall,
    ReceivedData,
    StepCounts,
    TrainingProcess,
    count_steps,
    merge_calls,
    metric_of,
    steps_in_both,
    total,
)

Logged = Sequence[tuple[int, Mapping[str, Any]]]

FIRST: Logged = [(0, {"loss": 1.5}), (1, {"loss": 1.25}), (2, {"loss": 1.0, "v": {"loss": 2.0}})]
# Goes on from a checkpoint of step 2, with another value there.
SECOND: Logged = [(2, {"loss": 1.0625}), (3, {"loss": 0.75})]


def source(run: str, logged: Logged, *, cut: int = 0, first_seq: int = 3) -> TrainingProcess:
    """A process that reported all calls but the last `cut`, and recorded all."""
    calls = [LogCall(step=step, data=data) for step, data in logged]
    recorded = [
        LogCall(step=call.step, data=call.data, seq=seq)
        for seq, call in enumerate(calls, first_seq)
    ]
    return TrainingProcess(
        name=f"training {run}",
        spool=f"spool-{run}",
        run=run,
        written=tuple(calls[: len(calls) - cut]),
        recorded=tuple(recorded),
    )


class Telemetry:
    """What the dev server has stored."""

    def __init__(self) -> None:
        self.writes: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []

    def take(
        self, whom: TrainingProcess, *, only: slice = slice(None), status: int = 200
    ) -> Telemetry:
        """Receive these records of a source in one request."""
        calls = whom.recorded[only]
        for step, values in merge_calls(calls).items():
            self.write(whom.run, step, values)
        header = f"{whom.spool}/processor/{calls[0].seq}-{calls[-1].seq}"
        self.requests.append({"lens_ship_records": header, "status": status})
        return self

    def write(self, run: str, step: int, values: Mapping[str, Any]) -> None:
        """What a request brings for one step."""
        self.writes.append({"run_id": run, "step": step, "data": values})

    def all(self) -> ReceivedData:
        """What the demo reads at the end."""
        return ReceivedData(writes=self.writes, requests=self.requests)


def test_everything_arrived():
    first, second = source("a", FIRST), source("b", SECOND)
    received = Telemetry().take(first).take(second).all()

    one, other = count_steps(first, received), count_steps(second, received)

    assert one == StepCounts(written=3, recorded=3, delivered=3)
    assert other == StepCounts(written=2, recorded=2, delivered=2)
    assert total([one, other]) == StepCounts(written=5, recorded=5, delivered=5)
    assert total([one, other]).is_clean
    assert steps_in_both(first, second) == 1


def test_a_step_that_was_trained_again_is_compared_with_its_own_run():
    """The row of step 2 holds both runs: each counts, and neither may stand for the other."""
    first, second = source("a", FIRST), source("b", SECOND)
    only_second = Telemetry().take(first, only=slice(2)).take(second).all()

    assert count_steps(first, only_second).lost == 1
    assert count_steps(second, only_second).is_clean


def test_a_lost_step():
    first = source("a", FIRST)
    received = Telemetry().take(first).all()
    gap = ReceivedData(writes=[w for w in received.writes if w["step"] != 1], requests=[])

    counted = count_steps(first, gap)

    assert (counted.delivered, counted.lost, counted.changed) == (2, 1, 0)
    assert not counted.is_clean


@pytest.mark.parametrize(
    ("step", "values"),
    [
        pytest.param(1, {"loss": 1.2500000000000002}, id="a value that differs in its last bit"),
        pytest.param(1, {"loss": 1.25, "ghost": 0.0}, id="a name that nobody logged"),
        pytest.param(1, {"Loss": 1.25}, id="another name"),
        pytest.param(2, {"loss": 1.0}, id="a part of a step that is missing"),
    ],
)
def test_a_changed_step(step: int, values: Mapping[str, Any]):
    first = source("a", FIRST)
    telemetry = Telemetry().take(first)
    telemetry.writes = [write for write in telemetry.writes if write["step"] != step]
    telemetry.write("a", step, values)

    counted = count_steps(first, telemetry.all())

    assert (counted.delivered, counted.lost, counted.changed) == (2, 0, 1)
    assert not counted.is_clean


def test_a_value_that_was_changed_on_its_way_into_the_spool():
    """Spool and receiver agree, but not with what returned to the caller."""
    told = source("a", FIRST)
    recorded = source("a", [(0, {"loss": 1.5}), (1, {"loss": 9.0}), FIRST[2]]).recorded
    both = TrainingProcess(
        name="x", spool=told.spool, run="a", written=told.written, recorded=tuple(recorded)
    )

    counted = count_steps(both, Telemetry().take(both).all())

    assert (counted.delivered, counted.changed) == (2, 1)


def test_a_step_that_returned_and_was_never_recorded_is_lost():
    whole = source("a", FIRST)
    part = TrainingProcess(
        name="x", spool=whole.spool, run="a", written=whole.written, recorded=whole.recorded[:2]
    )

    counted = count_steps(part, Telemetry().take(part).all())

    assert (counted.written, counted.recorded, counted.lost) == (3, 2, 1)


def test_a_record_whose_call_did_not_return_may_arrive():
    first = source("a", FIRST, cut=1)

    counted = count_steps(first, Telemetry().take(first).all())

    assert counted == StepCounts(written=2, recorded=3, delivered=3)
    assert counted.is_clean


def test_a_process_that_recorded_nothing_has_lost_all_it_wrote():
    told = source("a", FIRST)
    nothing = TrainingProcess(name="x", spool="", run="", written=told.written, recorded=())

    assert count_steps(nothing, Telemetry().take(source("b", SECOND)).all()).lost == 3


def test_a_repetition_is_no_fault():
    first = source("a", FIRST)
    again = Telemetry().take(first, only=slice(2)).take(first).all()

    counted = count_steps(first, again)

    assert counted == StepCounts(written=3, recorded=3, delivered=3, duplicated=2)
    assert counted.is_clean


def test_a_refused_request_is_no_repetition():
    first = source("a", FIRST)
    telemetry = Telemetry().take(first)
    telemetry.requests.insert(0, {**telemetry.requests[0], "status": 500})

    assert count_steps(first, telemetry.all()).duplicated == 0


def test_other_requests_are_passed_over():
    first = source("a", FIRST)
    telemetry = Telemetry().take(first)
    telemetry.requests += [
        {"lens_ship_records": None, "status": 200},
        {"lens_ship_records": "spool-a/processor-detection/1-9", "status": 200},
        {"lens_ship_records": "spool-b/processor/1-9", "status": 200},
    ]

    assert count_steps(first, telemetry.all()).duplicated == 0


def test_requests_out_of_order():
    first = source("a", FIRST)
    received = Telemetry().take(first, only=slice(1, 3)).take(first, only=slice(1)).all()

    assert count_steps(first, received).disordered == 1


def test_steps_out_of_order_within_a_request():
    first = source("a", FIRST)
    telemetry = Telemetry()
    for step, data in reversed(FIRST):
        telemetry.write("a", step, merge_calls([LogCall(step=step, data=data)])[step])

    counted = count_steps(first, telemetry.all())

    assert (counted.delivered, counted.disordered) == (3, 2)
    assert not counted.is_clean


def test_parts_of_a_step_are_merged_and_nested_names_joined():
    calls = [
        LogCall(step=4, data={"a": {"b": {"c": 1}}, "x": 1}),
        LogCall(step=4, data={"x": 2}),
        LogCall(step=5, data={"y": 3}),
    ]

    assert merge_calls(calls) == {4: {"a.b.c": 1, "x": 2}, 5: {"y": 3}}


def test_the_curve_is_what_the_receiver_has_last():
    writes = Telemetry().take(source("a", FIRST)).take(source("b", SECOND)).all().writes

    assert metric_of(writes, "loss") == {0: 1.5, 1: 1.25, 2: 1.0625, 3: 0.75}
