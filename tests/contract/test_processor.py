"""The receiver validates, resolves and answers as the telemetry-processor does, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.kit.plain_client import Client, log, metric
from tests.kit.processor import Receiver

BAD_FORMAT = "invalid request format"
NO_IDS = "either workload_uid or pod_name is required"
NO_WORKLOAD = "no valid workload found"
TOO_LONG = "w" * 257


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    pods = {
        "pod": [("job", "w")],
        "shared": [("job", "w"), ("parent", "p")],
        "half": [("job", "w"), ("broken", TOO_LONG)],
    }
    with Receiver(path=tmp_path / "received.db", pods=pods) as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    client = Client(receiver.port)
    with closing(client.connection):
        yield client


# --- validation and its order


@pytest.mark.parametrize("part", ["detection", "metrics", "logs"])
def test_refusals_come_in_their_order(client: Client, part: str) -> None:
    wrong_type = client.post(part, source=1)
    no_ids = client.post(part)
    unknown_pod = client.post(part, pod_name="nobody")
    assert [got.status for got in (wrong_type, no_ids, unknown_pod)] == [400, 400, 400]
    assert [got.meta[1] for got in (wrong_type, no_ids, unknown_pod)] == [
        BAD_FORMAT,
        NO_IDS,
        NO_WORKLOAD,
    ]
    assert (client.get("/workloads"), client.get("/detections")) == ([], [])


def test_an_empty_metrics_post_tells_whether_a_pod_is_known(client: Client) -> None:
    known = client.post("metrics", pod_name="pod", metrics=[])
    assert (known.status, known.data["count"], known.data["success_count"]) == (200, 0, 1)
    assert client.post("metrics", pod_name="nobody", metrics=[]).meta == (400, NO_WORKLOAD)


@pytest.mark.parametrize("part", ["metrics", "detection"])
def test_null_as_the_body_lacks_ids(client: Client, part: str) -> None:
    assert client.ask("POST", f"/v1/wandb/{part}", b"null").meta == (400, NO_IDS)


def test_a_type_error_anywhere_stores_nothing(client: Client) -> None:
    good, bad = metric(step=1), {**metric(step=2), "step": 2.0}
    assert client.metrics(good, bad).meta == (400, BAD_FORMAT)
    batch = client.post(
        "batch", metrics={"workload_uid": "w", "metrics": [good]}, logs={"logs": [{"step": "1"}]}
    )
    assert batch.meta == (400, BAD_FORMAT)
    assert client.get("/workloads") == []


# --- workloads and pods


def test_any_workload_uid_is_taken_as_it_is(client: Client) -> None:
    client.metrics(metric(), workload_uid="never heard of", pod_name="shared")
    assert [found["workload_uid"] for found in client.get("/workloads")] == ["never heard of"]


def test_data_of_a_pod_goes_to_every_workload_that_owns_it(client: Client) -> None:
    got = client.metrics(metric(value=3.0), workload_uid="", pod_name="shared")
    assert (got.data["workloads_count"], got.data["success_count"]) == (2, 2)
    for workload in ("w", "p"):
        assert client.rows(workload)[0]["performance"]["loss"] == 3.0


def test_one_workload_that_succeeds_is_enough_for_200(client: Client) -> None:
    got = client.metrics(metric(), workload_uid="", pod_name="half")
    assert (got.status, got.data["workloads_count"], got.data["success_count"]) == (200, 2, 1)


def test_a_pod_may_become_known_later(client: Client, receiver: Receiver) -> None:
    assert client.post("metrics", pod_name="late").status == 400
    receiver.pods["late"] = [("job", "w")]
    assert client.post("metrics", pod_name="late").status == 200


def test_the_map_of_pods_can_be_read(client: Client) -> None:
    got = client.ask("GET", "/v1/pods/workload/cache")
    assert got.meta == (2000, "OK")
    assert got.data["shared"] == [["job", "w"], ["parent", "p"]]


# --- what the endpoints answer


def test_logs_answer(client: Client) -> None:
    assert client.logs(log(loss=1.0), log(1)).data == {
        "message": "training data reported successfully",
        "count": 2,
        "workloads_count": 1,
        "success_count": 1,
    }


def test_detection_answer(client: Client) -> None:
    assert client.post("detection", workload_uid="w", type="framework_detection_raw").data == {
        "message": "detection reported successfully",
        "workloads_count": 1,
        "success_count": 1,
    }


FAILURES: dict[str, tuple[dict[str, Any], str]] = {
    "detection": ({"evidence": {"environment": {"A": "\0"}}}, "failed to process detection"),
    "metrics": ({"metrics": [metric("a\0")]}, "failed to process metrics"),
    "logs": ({"logs": [log(x="a\0")]}, "failed to process logs"),
}


@pytest.mark.parametrize("part", FAILURES)
def test_u0000_decodes_and_then_fails(client: Client, part: str) -> None:
    fields, message = FAILURES[part]
    got = client.post(part, workload_uid="w", **fields)
    assert (got.status, got.meta) == (500, (500, message))


REFUSED_IDS = {
    "workload_uid too long": {"workload_uid": TOO_LONG},
    "workload_uid with U+0000": {"workload_uid": "w\0"},
    "pod_uid too long": {"pod_uid": TOO_LONG},
    "pod_uid with U+0000": {"pod_uid": "p\0"},
    "run_id with U+0000": {"run_id": "r\0"},
}


@pytest.mark.parametrize("ids", REFUSED_IDS.values(), ids=REFUSED_IDS)
def test_ids_that_the_database_refuses(client: Client, ids: dict[str, str]) -> None:
    assert client.metrics(metric(), **ids).status == 500


def test_ids_of_256_characters_are_accepted(client: Client) -> None:
    longest = "ü" * 256
    assert client.metrics(metric(), workload_uid=longest, pod_uid=longest).status == 200
    assert client.rows(quote(longest))[0]["pod_uuid"] == longest


@pytest.mark.parametrize("harmless", ["\\u0000", "\\\\u0000", "u0000"])
def test_a_text_that_only_looks_like_an_escaped_u0000_is_stored(
    client: Client, harmless: str
) -> None:
    assert client.logs(log(text=harmless)).status == 200
    assert client.document()["text"] == harmless


def test_a_failed_step_leaves_the_others_stored(client: Client) -> None:
    got = client.metrics(metric(step=1), metric("bad\0", step=2), metric(step=3))
    assert got.status == 500
    assert [row["iteration"] for row in client.rows()] == [1, 3]


# --- batch


def test_a_batch_has_results_of_the_parts_that_were_sent(client: Client) -> None:
    got = client.post(
        "batch",
        detection={"workload_uid": "w"},
        metrics={"workload_uid": "w", "metrics": [metric(), metric("lr")]},
    )
    assert (got.status, got.meta) == (200, (2000, "OK"))
    assert got.data == {
        "success": True,
        "results": {
            "detection": {"success": True, "workloads_count": 1, "success_count": 1},
            "metrics": {"success": True, "count": 2, "workloads_count": 1, "success_count": 1},
        },
    }


@pytest.mark.parametrize("body", [b"{}", b"null", b'{"metrics":null}'])
def test_an_empty_batch_is_a_success_without_results(client: Client, body: bytes) -> None:
    got = client.ask("POST", "/v1/wandb/batch", body)
    assert (got.status, got.data) == (200, {"success": True, "results": {}})


BATCH_ERRORS = {
    "metrics without ids": ({"metrics": {}}, NO_WORKLOAD),
    "logs of an unknown pod": ({"logs": {"pod_name": "nobody"}}, NO_WORKLOAD),
    "metrics that fail": (
        {"metrics": {"workload_uid": "w", "metrics": [metric("\0"), metric("\0", step=1)]}},
        "failed to store 0 metrics to MetricsStorage, 2 steps to training_performance",
    ),
    "logs that fail": (
        {"logs": {"workload_uid": "w", "logs": [log(), log(a="\0")]}},
        "failed to store 1 training data entries",
    ),
    "a detection that fails": (
        {"detection": {"workload_uid": TOO_LONG}},
        "failed to report WandB detection: the database refused it",
    ),
}


@pytest.mark.parametrize(("parts", "error"), BATCH_ERRORS.values(), ids=BATCH_ERRORS)
def test_a_batch_is_200_whatever_becomes_of_its_parts(
    client: Client, parts: dict[str, Any], error: str
) -> None:
    got = client.post("batch", **parts)
    assert (got.status, got.meta[0], got.data["success"]) == (200, 2000, True)
    assert list(got.data["results"].values()) == [{"success": False, "error": error}]


def test_a_failing_part_does_not_stop_the_next(client: Client) -> None:
    got = client.post("batch", metrics={}, logs={"workload_uid": "w", "logs": [log(loss=1.0)]})
    assert [result["success"] for result in got.data["results"].values()] == [False, True]
    assert client.document()["loss"] == 1.0
