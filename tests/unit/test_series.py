from __future__ import annotations

import math
from importlib import import_module
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipper.sinks import PlanInput
from shipper.sinks.grouping import group
from shipper.sinks.timeseries.series import (
    CUT_OFF,
    ERROR,
    FATAL,
    INFO,
    WARN,
    Item,
    LoggingProcess,
    SeriesOptions,
    collect,
    cut_off_item,
    instance,
    otel_attributes,
    series_of,
    service_name,
)
from shipper.steps import cut_off
from spooler.collectors.stack import StackCollector
from spooler.records import REGISTRY, decision, failure, report
from tests.kit.shipping import T0, Record, finish, goodbye, step, stored
from tests.kit.spools import identity

WHO = identity(workload_uid="w", rank=3)
ALL = SeriesOptions(logs=True)


def items(*records: Record, options: SeriesOptions = ALL, who: Any = WHO) -> list[Item]:
    chunk = PlanInput(identity=who, records=stored(*records), ended=True)
    return collect(chunk, options).items


def points(item: Item) -> dict[str, float | int]:
    return {series.name: value for series, value in item.points}


def test_a_number_is_a_point_beside_its_step() -> None:
    (item,) = items(step(7, loss=0.5, ok=True, count=2**63))
    assert points(item) == {
        "training.loss": 0.5,
        "training.ok": 1.0,
        "training.count": 2.0**63,
        "training.step": 7,
    }
    assert item.time == round((T0 + 7) * 1000)
    assert {series.labels for series, _ in item.points} == {(("rank", "3"), ("run", "r"))}


def test_rows_of_one_step_are_points_at_one_time_and_a_log_record_each() -> None:
    kind, body = step(7, loss=0.5, t=50, acc=0.25)
    axes = {"t": [None, ["loss", "t"]], "e": [None, ["acc", "e"]]}
    (item,) = items((kind, {**body, "axes": axes, "data": {**body["data"], "e": 3}}))
    assert points(item) == {
        "training.loss": 0.5,
        "training.t": 50,
        "training.acc": 0.25,
        "training.e": 3,
        "training.step": 50,
    }
    other = {series.name: number for series, number in item.other_steps.items()}
    assert other == {"training.acc": 3, "training.e": 3}
    assert [dict(log.attributes)["step"] for log in item.logs] == [50, 3]
    assert item.logs[1].time == item.logs[0].time + 1 == item.time * 10**6 + 1
    assert item.values == 4


def test_a_value_that_is_not_finite_is_announced() -> None:
    (item,) = items(step(1, loss=math.nan, other=1.0))
    assert points(item) == {
        "training.loss/nonfinite": 1.0,
        "training.other": 1.0,
        "training.step": 1,
    }
    assert (item.values, item.nonfinite) == (1, 1)


def test_names_that_receivers_fold_into_one_stay_apart() -> None:
    names = ["loss/a", "loss.a", "loss_a", "loss a", "loss-a", "step", "a" * 300, "a" * 301]
    found = [series_of("training.", name, "r", LoggingProcess(None)) for name in names]
    folded = {(one.name.replace(".", "_").replace("/", "_"), one.labels) for one in found}
    assert len(folded) == len(names)
    assert all(len(one.name) <= 255 for one in found)


@given(st.text(), st.text())
def test_two_names_are_never_one_series(one: str, other: str) -> None:
    found = [series_of("training.", name, "r", LoggingProcess(0)) for name in (one, other)]
    assert (found[0] == found[1]) == (one == other) or "\0" in one + other


def test_a_process_that_counts_on_its_own_has_series_of_its_own() -> None:
    kind, body = step(4)
    (item,) = items((kind, {**body, "inherited": True}))
    assert {dict(series.labels)["process"] for series, _ in item.points} == {str(WHO.pid)}


def test_the_users_step_is_not_the_sinks() -> None:
    (item,) = items(step(1, step=99.0))
    values = {dict(series.labels).get("lens.name", ""): value for series, value in item.points}
    assert values == {"step": 99.0, "": 1}


def test_the_status_of_a_run_is_a_series() -> None:
    run = ("run", {"run": "r", "time": T0, "project": "p"})
    failed = ("finish", {"run": "s", "time": T0, "step": None, "exit_code": 1})
    status = "training.run.status"
    found = items(run, finish(), failed, goodbye(), options=SeriesOptions())
    assert [points(item)[status] for item in found] == [0, 1, 2]
    (last,) = cut_off(stored(step(4)))
    assert points(cut_off_item(last, WHO, ALL))[status] == CUT_OFF


def test_what_has_nothing_to_send_is_skipped_once() -> None:
    chunk = PlanInput(
        identity=WHO,
        records=stored(step(1, text="a"), step(2, none=None), goodbye(), finish()),
        ended=True,
    )
    found = collect(chunk, SeriesOptions(numbers=False))
    assert not found.items
    assert sorted(one.seq for one in found.skipped) == [1, 2, 3, 4]
    assert [one.left_out for one in found.skipped if one.seq < 3] == [1, 1]


def test_a_log_has_a_record_for_each_line() -> None:
    text = "step 1 loss 2.5\n\nWARNING: slow\nTraceback (most recent call last):\n"
    body = {**report.EXAMPLE, "data_content": text, "source": {"path": "/var/log/train.log"}}
    (item,) = items(("report", body))
    assert [(log.severity, log.body) for log in item.logs] == [
        (INFO, "step 1 loss 2.5"),
        (WARN, "WARNING: slow"),
        (ERROR, "Traceback (most recent call last):"),
    ]
    times = [log.time for log in item.logs]
    assert times == sorted(set(times))
    assert dict(item.logs[0].attributes)["log.file.path"] == "/var/log/train.log"
    assert dict(item.logs[0].attributes)["lens.seq"] == 1


def test_without_logs_a_report_is_skipped() -> None:
    chunk = PlanInput(
        identity=WHO, records=stored(("report", report.EXAMPLE), goodbye()), ended=True
    )
    found = collect(chunk, SeriesOptions())
    assert (found.items, [one.seq for one in found.skipped]) == ([], [1, 2])


def test_stacks_and_decisions_are_log_records() -> None:
    stack = {**report.EXAMPLE, "data_type": "STACK_TRACE", "data_content": "a\nb"}
    found = items(("report", stack), ("decision", decision.EXAMPLE))
    logs = [log for item in found for log in item.logs]
    assert [(log.event, log.severity) for log in logs] == [
        ("training.stack", INFO),
        ("training.decision", ERROR),
    ]
    assert logs[0].body == "a\nb"


@pytest.mark.parametrize(
    ("body", "severity"),
    [
        ({**decision.EXAMPLE, "action": "NONE"}, INFO),
        ({**decision.EXAMPLE, "action": "RELAUNCH_WORKER"}, ERROR),
        ({**decision.EXAMPLE, "action": "JOB_ABORT"}, FATAL),
        ({**failure.EXAMPLE, "level": "node_error"}, ERROR),
        ({**failure.EXAMPLE, "level": "warning"}, WARN),
        ({**failure.EXAMPLE, "level": "info"}, INFO),
        ({**failure.EXAMPLE, "level": "of next year"}, ERROR),
    ],
)
def test_the_severity_says_how_bad_a_failure_is(body: dict[str, Any], severity: int) -> None:
    ((log,),) = (item.logs for item in items(("decision" if "action" in body else "failure", body)))
    assert log.severity == severity


@pytest.mark.parametrize("kind", REGISTRY)
def test_a_record_of_any_kind_is_a_log_record(kind: str) -> None:
    (item,) = items((kind, import_module(REGISTRY[kind]).EXAMPLE))
    (log,) = item.logs
    assert log.event == ("" if kind == "report" else f"training.{kind}")
    assert dict(log.attributes)["lens.seq"] == 1


def test_a_gap_that_a_step_reports_is_no_log_record_of_its_own() -> None:
    gap = ("gap", import_module(REGISTRY["gap"]).EXAMPLE)
    (first, second) = items(gap, step(1), gap)
    assert first.seqs == (1, 2)
    assert '"lens-ship/dropped/disk-full":12' in first.logs[0].body
    assert [(log.event, log.severity) for log in second.logs] == [("training.gap", WARN)]
    chunk = PlanInput(identity=WHO, records=stored(gap), ended=True, deleted={1: 0})
    assert not collect(chunk, ALL).items, "all of these records have arrived"


def test_the_stacks_of_a_hang_are_an_error() -> None:
    formatted = StackCollector()._format_stacks({"main": "  File"}, f"{report.HANG}30 s")
    stack = {**report.EXAMPLE, "data_type": "STACK_TRACE", "data_content": formatted}
    (item,) = items(("report", stack))
    assert [(log.event, log.severity) for log in item.logs] == [("training.hang", ERROR)]


def test_a_repetition_is_identical() -> None:
    records = [step(number, loss=number / 7, text="é\ud800") for number in range(5)]
    assert items(*records) == items(*records)


def test_a_step_beyond_64_bits_is_rejected() -> None:
    chunk = PlanInput(identity=WHO, records=stored(step(2**63), step(1)), ended=True)
    found = collect(chunk, ALL)
    assert [one.reason for one in found.rejected] == ["unsendable"]
    assert [item.step for item in found.items] == [1]


def test_a_record_that_cannot_be_read_is_rejected_once() -> None:
    broken: Record = ("finish", {"run": 5})
    unread: Record = ("report", {"time": "x"})
    chunk = PlanInput(identity=WHO, records=stored(broken, unread), ended=True)
    found = collect(chunk, ALL)
    assert sorted(one.stored.seq for one in found.rejected) == [1, 2]
    assert not found.skipped


def test_requests_stay_within_their_limits_and_runs_apart() -> None:
    found = items(*(step(n, run=f"r{n % 2}", a=1.0, b=2.0) for n in range(20)), options=ALL)
    requests = group(found, most=8, most_text=10**6)
    assert all(sum(item.size for item in one) <= 8 for one in requests)
    assert all(len({item.run for item in one}) == 1 for one in requests)
    assert sorted(item.seqs for one in requests for item in one) == [(n,) for n in range(1, 21)]
    assert len(group(found, most=1, most_text=1)) == 20


def test_a_job_is_named_as_it_names_itself() -> None:
    attributes = "service.name=from%20attributes,team=a%2Cb,=x,bad"
    who = identity(otel_resource_attributes=attributes, rank=1)
    assert otel_attributes(who) == {"service.name": "from attributes", "team": "a,b", "bad": ""}
    assert service_name(who, "") == "from attributes"
    assert service_name(identity(otel_service_name="o"), "") == "o"
    assert service_name(identity(otel_service_name="o"), "given") == "given"
    assert service_name(identity(), "") == "training"
    assert instance(who, "run-1") == "run-1-rank1"
    assert instance(identity(workload_uid="w"), "run-1") == "w"
