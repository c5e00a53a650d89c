"""Reports: the JSON is DLRover's, and what no master could take does not pass the door."""

from __future__ import annotations

import datetime
import enum
import json
import os
from typing import Any

import pytest

from spooler import DiagnosisDataType, WorkerTrainingMetric
from spooler.collectors.stack import StackCollector
from spooler.dlrover.metric import taken
from spooler.errors import ReportRefused
from spooler.records.report import FIELDS
from spooler.spool import identity

NOW = 1_700_000_100.75


def metric(**fields: Any) -> WorkerTrainingMetric:
    given: dict[str, Any] = {"timestamp": 1_700_000_000, "data_content": "x"}
    return WorkerTrainingMetric(**{**given, **fields})


class Theirs:
    """As DLRover's own objects: private attributes, of which some have public names."""

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            setattr(self, f"_{name}", value)

    @property
    def data_type(self) -> Any:
        return self._data_type  # type: ignore[attr-defined]


def test_the_json_has_exactly_the_eight_fields_in_their_order() -> None:
    made = metric(data_type=DiagnosisDataType.STACK_TRACE, node_id=3, source={"end": 7})
    assert list(json.loads(made.to_json())) == list(FIELDS)
    assert json.loads(made.to_json())["data_type"] == "STACK_TRACE"


def test_json_goes_there_and_back() -> None:
    made = metric(data_type="XPU_TIMER_METRIC", data_content='ä\n"\0', node_rank=-5)
    assert WorkerTrainingMetric.from_json(made.to_json()) == made


def test_a_key_that_a_metric_has_not_is_refused_as_a_master_does() -> None:
    with pytest.raises(TypeError):
        WorkerTrainingMetric.from_json('{"surplus": 1}')


def test_who_reports_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_ID", "7")
    monkeypatch.setenv("NODE_TYPE", "chief")
    monkeypatch.delenv("NODE_RANK", raising=False)
    monkeypatch.setenv("WORKER_RANK", "5")
    assert (metric().node_id, metric().node_type, metric().node_rank) == (7, "chief", 5)
    monkeypatch.setenv("NODE_RANK", "6")
    assert metric().node_rank == 6
    monkeypatch.setenv("NODE_ID", "seven")
    assert metric().node_id == 0


@pytest.mark.parametrize("name", ["GROUP_RANK", "SLURM_NODEID"])
def test_a_report_has_the_node_rank_of_the_spool_s_folder(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in ("NODE_RANK", "WORKER_RANK", "GROUP_RANK", "SLURM_NODEID"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "3")
    assert metric().node_rank == 3
    assert identity.directory_of(os.environ)[0] == "node_3"


def test_the_stacks_of_a_process_name_the_rank_that_its_launcher_gave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_PROCID", "9")
    assert "(rank 9)" in StackCollector()._format_stacks({"thread": "line"})


def test_without_a_timestamp_it_is_now_in_whole_seconds() -> None:
    made = WorkerTrainingMetric(data_type=DiagnosisDataType.TRAINING_LOG)
    assert isinstance(made.timestamp, int)
    assert made.timestamp > NOW


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        (1_700_000_000, 1_700_000_000),
        (1_700_000_000.9, 1_700_000_000),
        (1_700_000_000_123, 1_700_000_000),
        (1_700_000_000_123_456, 1_700_000_000),
        (1_700_000_000_123_456_789, 1_700_000_000),
        ("1700000000", 1_700_000_000),
        ("1700000000123", 1_700_000_000),
        (datetime.datetime.fromtimestamp(1_700_000_000, tz=datetime.timezone.utc), 1_700_000_000),
        (0, int(NOW)),
        (None, int(NOW)),
        ("", int(NOW)),
    ],
)
def test_a_timestamp_that_can_mean_one_time_only_becomes_that(given: Any, seconds: int) -> None:
    fields = {name: getattr(metric(), name) for name in FIELDS}
    found = taken(Theirs(**{**fields, "timestamp": given}), now=NOW)["timestamp"]
    assert found == seconds
    assert type(found) is int


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("timestamp", "yesterday", "report-timestamp"),
        ("timestamp", float("nan"), "report-timestamp"),
        ("timestamp", float("inf"), "report-timestamp"),
        ("timestamp", -5, "report-timestamp"),
        ("timestamp", 81234.5, "report-timestamp"),
        ("timestamp", True, "report-timestamp"),
        ("timestamp", 90_000_000_000, "report-timestamp"),
        ("timestamp", [1], "report-timestamp"),
        ("data_content", {"a": 1}, "report-content"),
        ("data_content", 5, "report-content"),
        ("data_type", {"a": 1}, "report-type"),
        ("node_id", "first", "report-node"),
        ("node_id", 1.5, "report-node"),
        ("node_rank", True, "report-node"),
        ("node_type", 5, "report-node"),
    ],
)
def test_what_means_nothing_is_refused_with_a_reason(field: str, value: Any, reason: str) -> None:
    made = metric(data_type="GENERIC")
    setattr(made, field, value)
    with pytest.raises(ReportRefused) as refused:
        taken(made, now=NOW)
    assert refused.value.reason == reason
    assert str(refused.value)


def test_something_else_altogether_is_refused() -> None:
    with pytest.raises(ReportRefused, match="int is not a WorkerTrainingMetric"):
        taken(5, now=NOW)


def test_objects_with_private_attributes_and_enums_of_any_kind_are_taken() -> None:
    other = enum.Enum("other", {"TRAINING_LOG": 1})
    theirs = Theirs(
        timestamp=1_700_000_000,
        data_type=other["TRAINING_LOG"],
        data_content=b"a\xff",
        node_id="3",
        node_type="worker",
        node_rank=4,
        is_final_result=True,
        need_report=None,
    )
    assert taken(theirs, now=NOW) == {
        "timestamp": 1_700_000_000,
        "data_type": "TRAINING_LOG",
        "data_content": "a\ufffd",
        "node_id": 3,
        "node_type": "worker",
        "node_rank": 4,
        "is_final_result": True,
        "need_report": False,
    }


def test_what_is_missing_comes_from_the_client_and_then_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NODE_RANK", "8")
    found = taken(Theirs(data_type="TRAINING_LOG"), now=NOW, own={"node_id": 2, "node_type": "ps"})
    assert (found["node_id"], found["node_type"], found["node_rank"]) == (2, "ps", 8)
    assert found["data_content"] == ""
