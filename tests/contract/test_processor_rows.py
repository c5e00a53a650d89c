"""The receiver stores what the telemetry-processor stores, and shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import pytest

from tests.kit.plain_client import Client, log, metric
from tests.kit.processor import Receiver

TOO_LONG = "w" * 257


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with Receiver(path=tmp_path / "received.db") as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    client = Client(receiver.port)
    with closing(client.connection):
        yield client


# --- rows


def test_a_new_row(client: Client) -> None:
    client.metrics(
        metric("loss", 0.5, step=7, at=1_700_000_000.5),
        metric("lr", 1e-4, step=7, at=1.0),
        pod_uid="pod-1",
        run_id="run-1",
        source="something else",
    )
    (row,) = client.rows()
    assert row["performance"] == {
        "source": "wandb",
        "run_id": "run-1",
        "step": 7,
        "loss": 0.5,
        "lr": 1e-4,
        "created_at": "2023-11-14T22:13:20Z",
    }
    assert (row["workload_uid"], row["pod_uuid"], row["serial"]) == ("w", "pod-1", 1)
    assert (row["iteration"], row["data_source"]) == (7, "wandb")
    assert row["created_ns"] == 1_700_000_000_500_000_000


def test_a_row_that_exists_is_merged_and_its_former_self_kept(client: Client) -> None:
    client.metrics(
        metric("loss", 1.0, at=10.0), metric("lr", 5.0, at=10.0), run_id="a", pod_uid="x"
    )
    client.metrics(metric("loss", 2.0, at=20.0), run_id="b", pod_uid="y")
    (row,) = client.rows()
    assert row["performance"] == {
        "source": "wandb",
        "run_id": "b",
        "step": 0,
        "loss": 2.0,
        "lr": 5.0,
        "created_at": "1970-01-01T00:00:10Z",
        "updated_at": "1970-01-01T00:00:20Z",
        "history": [
            {
                "source": "wandb",
                "run_id": "a",
                "step": 0,
                "loss": 1.0,
                "lr": 5.0,
                "created_at": "1970-01-01T00:00:10Z",
                "updated_at": "1970-01-01T00:00:10Z",
            }
        ],
    }
    assert (row["created_ns"], row["pod_uuid"]) == (10 * 10**9, "y")


def test_redelivery_leaves_the_values_and_grows_the_history(client: Client) -> None:
    for _ in range(3):
        client.metrics(metric(value=4.0))
    document = client.document()
    assert document["loss"] == 4.0
    assert [len(old) for old in document["history"]] == [6, 6]
    assert all("history" not in old for old in document["history"])


def test_the_last_arrival_wins_whatever_its_timestamp_says(client: Client) -> None:
    client.metrics(metric(value=2.0, at=200.0))
    client.metrics(metric(value=1.0, at=100.0))
    assert client.document()["loss"] == 1.0


def test_metrics_make_one_write_per_step_and_the_last_of_a_name_wins(client: Client) -> None:
    client.metrics(
        metric(value=1.0, step=1, at=50.0), metric(step=2), metric(value=3.0, step=1, at=60.0)
    )
    first, second = client.rows()
    assert (first["iteration"], second["iteration"]) == (1, 2)
    assert (first["performance"]["loss"], first["created_ns"]) == (3.0, 50 * 10**9)
    assert "history" not in first["performance"]


def test_logs_make_one_write_per_entry(client: Client) -> None:
    client.logs(log(1, a=1), log(1, b="text", c=None, d=[1, {"e": True}]))
    document = client.document()
    assert (document["a"], document["b"], document["c"]) == (1.0, "text", None)
    assert document["d"] == [1.0, {"e": True}]
    assert len(document["history"]) == 1


def test_a_null_metric_is_stored_as_zero_without_a_name(client: Client) -> None:
    assert (
        client.ask("POST", "/v1/wandb/metrics", b'{"workload_uid":"w","metrics":[null]}').data[
            "count"
        ]
        == 1
    )
    document = client.document()
    assert (document[""], document["step"], document["created_at"]) == (
        0.0,
        0,
        "1970-01-01T00:00:00Z",
    )


def test_text_logs_of_the_first_version_store_an_empty_row(client: Client) -> None:
    entry = {"level": "info", "message": "hello", "extra": {"a": 1}}
    assert client.logs(entry).data["count"] == 1
    assert set(client.document()) == {"source", "run_id", "step", "created_at"}


def test_tags_are_discarded(client: Client) -> None:
    client.metrics({**metric(), "tags": {"host": "a\0"}})
    assert set(client.document()) == {"source", "run_id", "step", "loss", "created_at"}


WRAPPED = {2**31 - 1: 2**31 - 1, 2**31: -(2**31), 2**32: 0, 2**63 - 1: -1, -(2**63): 0, -1: -1}


@pytest.mark.parametrize("step", WRAPPED)
def test_the_key_of_a_row_is_the_step_in_32_bits(client: Client, step: int) -> None:
    client.metrics(metric(step=step))
    (row,) = client.rows()
    assert (row["iteration"], row["performance"]["step"]) == (WRAPPED[step], step)


def test_steps_that_wrap_to_the_same_key_merge(client: Client) -> None:
    client.metrics(metric("a", step=0), metric("b", step=2**32))
    document = client.document()
    assert ("a" in document, "b" in document, len(document["history"])) == (True, True, 1)


TIMES = {
    "missing": (None, "1970-01-01T00:00:00Z"),
    "before the epoch": (-1.5, "1969-12-31T23:59:58Z"),
    "milliseconds": (1_700_000_000_000.0, "1677-09-21T00:12:43Z"),
    "far beyond float64 nanoseconds": (1e308, "1677-09-21T00:12:43Z"),
    "nearly the last": (9.2e9, "2261-07-15T11:33:20Z"),
}


@pytest.mark.parametrize(("at", "expected"), TIMES.values(), ids=TIMES)
def test_timestamps_are_seconds_in_int64_nanoseconds(
    client: Client, at: float | None, expected: str
) -> None:
    client.metrics({**metric(), "timestamp": at})
    assert client.rows()[0]["created_at"] == client.document()["created_at"] == expected


def test_metrics_named_like_metadata_replace_it(client: Client) -> None:
    client.metrics(metric("step", 9.0), metric("source", 8.0), metric("created_at", 7.0))
    document = client.document()
    assert (document["step"], document["source"]) == (9.0, 8.0)
    assert document["created_at"] == "1970-01-01T00:00:00Z"


def test_a_metric_named_history_does_not_break_the_next_merge(client: Client) -> None:
    client.metrics(metric("history", 1.0))
    client.metrics(metric("loss", 2.0))
    assert len(client.document()["history"]) == 1


def test_a_refused_merge_loses_the_row(client: Client) -> None:
    client.metrics(metric(step=1), metric(step=2))
    assert client.metrics(metric("bad\0", step=1)).status == 500
    assert [row["iteration"] for row in client.rows()] == [2]


def test_lone_surrogates_are_stored_replaced(client: Client) -> None:
    body = b'{"workload_uid":"w","run_id":"\\ud800","logs":[{"data":{"k\xff":"\\udfff"}}]}'
    assert client.ask("POST", "/v1/wandb/logs", body).status == 200
    assert client.document()["run_id"] == "\ufffd"
    assert client.document()["k\ufffd"] == "\ufffd"


# --- looking at what arrived


def test_available_metrics_and_their_points(client: Client) -> None:
    client.metrics(metric("loss", 2.0, step=2, at=2.0), metric("lr", 3.0, step=2), run_id="r")
    client.metrics(metric("loss", 1.0, step=1, at=1.0), metric("target_iteration", 9.0, step=1))
    client.logs(log(3, at=0.0015, note="text", on=True))
    assert client.get("/workloads/w/metrics/available") == [
        {"name": "loss", "count": 2},
        {"name": "lr", "count": 1},
        {"name": "note", "count": 1},
        {"name": "on", "count": 1},
    ]
    assert client.get("/workloads/w/metrics/data?metrics=loss,note") == [
        {"name": "loss", "iteration": 1, "value": 1.0, "timestamp": 1000, "run_id": ""},
        {"name": "loss", "iteration": 2, "value": 2.0, "timestamp": 2000, "run_id": "r"},
        {"name": "note", "iteration": 3, "value": 0.0, "timestamp": 1, "run_id": ""},
    ]
    assert len(client.get("/workloads/w/metrics/data")) == 5


def test_metric_and_workload_names_may_need_escaping(client: Client) -> None:
    client.metrics(metric("train/loss"), workload_uid="a/b c")
    assert client.get("/workloads") == [
        {"workload_uid": "a/b c", "rows": 1, "first_iteration": 0, "last_iteration": 0}
    ]
    found = client.get("/workloads/a%2Fb%20c/metrics/data?metrics=train%2Floss")
    assert [point["name"] for point in found] == ["train/loss"]


def test_an_unknown_workload_has_nothing(client: Client) -> None:
    assert client.get("/workloads/x/rows") == []
    assert client.get("/workloads/x/metrics/available") == []


def test_detections_of_one_workload_or_of_all(client: Client) -> None:
    client.post("detection", workload_uid="a", evidence={"wandb": {"project": "one"}})
    client.post("detection", workload_uid="b", evidence={"wandb": {"project": "two"}})
    (found,) = client.get("/detections?workload_uid=b")
    assert found["document"]["evidence"]["wandb"]["project"] == "two"
    assert [each["workload_uid"] for each in client.get("/detections")] == ["a", "b"]


def test_every_post_leaves_a_line(client: Client) -> None:
    body = json.dumps(
        {
            "workload_uid": "w",
            "run_id": "r",
            "metrics": [metric(step=5), metric(step=3), metric(step=4)],
        }
    ).encode()
    client.ask("POST", "/v1/wandb/metrics", body, Lens_Ship_Records="seg-1:10-12")
    client.ask("POST", "/v1/wandb/logs", b'{"logs":[{"step":true}]}')
    client.ask("POST", "/v1/elsewhere", b"{}")
    client.post("detection", pod_name="nobody")
    client.post("metrics", workload_uid=TOO_LONG, metrics=[metric()])
    accepted, wrong_type, elsewhere, unknown_pod, failed = client.get("/requests")
    assert isinstance(accepted.pop("received_at"), float)
    assert accepted == {
        "id": 1,
        "path": "/v1/wandb/metrics",
        "status": 200,
        "code": 2000,
        "workload_uid": "w",
        "pod_name": "",
        "run_id": "r",
        "first_step": 5,
        "last_step": 4,
        "items": 3,
        "body_bytes": len(body),
        "body_sha256": sha256(body).hexdigest(),
        "lens_ship_records": "seg-1:10-12",
        "refusal": "",
    }
    assert (wrong_type["status"], wrong_type["code"], wrong_type["items"]) == (400, 400, 0)
    assert wrong_type["refusal"].startswith("logs.[0].step: an integer")
    assert wrong_type["lens_ship_records"] is None
    assert (elsewhere["status"], elsewhere["code"]) == (404, None)
    assert (unknown_pod["status"], unknown_pod["pod_name"]) == (400, "nobody")
    assert (failed["status"], failed["items"]) == (500, 1)


def test_a_line_counts_a_large_step_exactly(client: Client) -> None:
    client.metrics(metric(step=2**63 - 1))
    assert client.get("/requests")[0]["last_step"] == 2**63 - 1


def test_the_root_says_what_this_is(client: Client) -> None:
    got = client.ask("GET", "/")
    assert got.status == 200
    assert b"not for production" in got.body
