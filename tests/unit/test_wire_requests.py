"""Steps become requests within the limits, in order, with ids, and with a name for repetitions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shipper.sinks.processor import encode
from shipper.steps import Step
from spooler.records import detection
from tests.kit.processor.errors import InvalidRequest
from tests.kit.processor.posts import detection_post, logs_post, metrics_post
from tests.kit.spools import identity

WHO = identity(workload_uid="w", pod_uid="p", pod_name="pod-0", namespace="n")
HUGE = 1 << 30


def steps(
    *what: tuple[str, int], text: frozenset[int] = frozenset(), first: int = 1
) -> list[encode.EncodedStep]:
    """Encoded steps (run, number), one record each; those in `text` go to the other path."""
    return [
        encode.encode_step(
            Step(
                run=run,
                step=number,
                time=1.0,
                data={"x": "text" if number in text else number},
                seqs=(seq,),
            ),
            WHO,
            encode.Options(),
        )
        for seq, (run, number) in enumerate(what, first)
    ]


def grouped(
    encoded: list[encode.EncodedStep], *, max_steps: int = 100, max_bytes: int = HUGE
) -> list[tuple[str, str, list[int]]]:
    requests = encode.group(encoded, max_steps=max_steps, max_bytes=max_bytes)
    firsts = [r.steps[0].seqs for r in requests]
    assert firsts == sorted(firsts)
    return [(r.run, r.path.rpartition("/")[2], [s.step for s in r.steps]) for r in requests]


def run_of(count: int, run: str = "r") -> list[tuple[str, int]]:
    return [(run, number) for number in range(count)]


def test_a_request_holds_no_more_steps_than_allowed() -> None:
    parts = grouped(steps(*run_of(7)), max_steps=3)
    assert [numbers for _, _, numbers in parts] == [[0, 1, 2], [3, 4, 5], [6]]


def test_a_request_holds_no_more_bytes_than_allowed() -> None:
    encoded = steps(*run_of(10))
    each = len(encoded[0].fragment) + 1
    requests = encode.group(encoded, max_steps=100, max_bytes=3 * each)
    assert [len(r.steps) for r in requests] == [3, 3, 3, 1]
    for request in requests:
        assert sum(len(step.fragment) + 1 for step in request.steps) <= 3 * each


@pytest.mark.promise("G3")
def test_a_step_is_never_cut_even_when_it_is_too_large() -> None:
    assert [n for _, _, n in grouped(steps(*run_of(3)), max_bytes=1)] == [[0], [1], [2]]


@pytest.mark.promise("G3")
def test_a_change_of_path_begins_a_request_so_that_order_is_kept() -> None:
    parts = grouped(steps(*run_of(5), text=frozenset({2})))
    assert parts == [
        ("r", "metrics", [0, 1]),
        ("r", "logs", [2]),
        ("r", "metrics", [3, 4]),
    ]


@pytest.mark.promise("G3")
def test_runs_between_each_other_have_requests_of_their_own_in_their_own_order() -> None:
    parts = grouped(steps(("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)), max_steps=2)
    assert parts == [("a", "metrics", [1, 2]), ("b", "metrics", [1, 2]), ("a", "metrics", [3])]


def test_nothing_gives_no_request() -> None:
    assert encode.group([], max_steps=1, max_bytes=1) == []


def test_halves_are_the_whole_in_order() -> None:
    (request,) = encode.group(steps(*run_of(5)), max_steps=100, max_bytes=HUGE)
    one, other = request.halves()
    assert [s.step for s in one.steps] == [0, 1]
    assert [s.step for s in other.steps] == [2, 3, 4]
    assert [s.seqs for s in (*one.steps, *other.steps)] == [(1,), (2,), (3,), (4,), (5,)]
    assert one.items + other.items == request.items == 5


def test_the_body_names_whose_data_it_is() -> None:
    (request,) = encode.group(steps(*run_of(2)), max_steps=100, max_bytes=HUGE)
    body = encode.body(request, WHO)
    assert {k: v for k, v in json.loads(body).items() if k != "metrics"} == {
        "source": "wandb",
        "workload_uid": "w",
        "pod_uid": "p",
        "pod_name": "pod-0",
        "run_id": "r",
        "timestamp": 1.0,
    }
    post = metrics_post(body)
    assert (post.ids.workload_uid, post.ids.pod_uid, post.ids.pod_name) == ("w", "p", "pod-0")
    assert [(point.step, point.value) for point in post.metrics] == [(0, 0.0), (1, 1.0)]


def test_entries_of_several_steps_travel_in_one_body() -> None:
    encoded = steps(*run_of(3), text=frozenset(range(3)))
    (request,) = encode.group(encoded, max_steps=100, max_bytes=HUGE)
    assert [(entry.step, entry.data) for entry in logs_post(encode.body(request, WHO)).logs] == [
        (number, {"x": "text"}) for number in range(3)
    ]


@pytest.mark.parametrize("text", ["a\0b", "\ud800", "x" * 1000, "\u00f6" * 300, '"\\'])
def test_ids_of_any_content_are_made_fit(text: str) -> None:
    who = identity(workload_uid=text, pod_uid=text, pod_name=text)
    (request,) = encode.group(steps((text, 1)), max_steps=1, max_bytes=HUGE)
    ids = metrics_post(encode.body(request, who)).ids
    assert len(ids.workload_uid) <= 256
    assert len(ids.pod_uid) <= 256
    assert ids.run_id
    assert "\0" not in ids.workload_uid + ids.pod_uid + ids.pod_name + ids.run_id


@pytest.mark.promise("G5")
def test_the_header_names_spool_sink_and_records_and_nothing_that_changes() -> None:
    header = encode.records_header(WHO, "processor", 3, 17)
    assert header == {"Lens-Ship-Records": f"{WHO.spool}/processor/3-17"}
    other = identity(workload_uid="another", pod_name="moved")
    assert encode.records_header(other, "processor", 3, 17) == header


def test_a_detection_is_what_the_receiver_expects() -> None:
    body = encode.detection_body(detection.decode(detection.EXAMPLE), WHO)
    post = detection_post(body)
    head = json.loads(body)
    assert (head["type"], head["version"]) == ("framework_detection_raw", "1.0")
    assert (head["namespace"], head["timestamp"]) == ("n", detection.EXAMPLE["time"])
    assert post.ids.workload_uid == "w"
    assert post.document["evidence"]["environment"] == {"PRIMUS_CONFIG": "/config.yaml"}
    assert head["hints"] == detection.EXAMPLE["hints"]


@pytest.mark.parametrize(
    "evidence",
    [
        {"system": {"inf": float("inf"), "nul\0": "\0", "half": "\ud800", "raw": b"12"}},
        {"system": {"deep": [[[[1]]]], 5: 6}},
        {},
    ],
)
def test_a_detection_of_odd_values_is_still_taken(evidence: dict[str, Any]) -> None:
    record = {**detection.EXAMPLE, "evidence": evidence, "time": float("nan")}
    body = encode.detection_body(detection.decode(record), WHO)
    assert b"\\u0000" not in body
    assert detection_post(body).document["timestamp"] == WHO.created


def test_the_decoder_behind_these_tests_does_refuse() -> None:
    with pytest.raises(InvalidRequest):
        metrics_post(b'{"workload_uid":"w","metrics":[{"name":"x","value":NaN,"step":1}]}')
    with pytest.raises(InvalidRequest):
        metrics_post(b'{"workload_uid":"w","metrics":[{"name":"x","value":1,"step":1.0}]}')
