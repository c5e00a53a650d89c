from __future__ import annotations

import json
import math
import posixpath
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shipper.http_client import Answer
from shipper.sinks import PlanInput
from shipper.sinks.mlflow import encode
from shipper.sinks.mlflow.classify import classify
from shipper.sinks.mlflow.client import PASSWORD, TOKEN, USERNAME, from_variables
from shipper.sinks.mlflow.sink import MlflowOptions, MlflowSink
from shipper.sinks.outcome import Disposition
from tests.kit.shipping import Record, detection, finish, goodbye, step, stored
from tests.kit.spools import identity

DELIVERED, RETRY, SPLIT = Disposition.DELIVERED, Disposition.RETRY, Disposition.SPLIT
PERMANENT = Disposition.PERMANENT


def error(code: str, message: str = "why") -> bytes:
    return f'{{"error_code":"{code}","message":"{message}"}}'.encode()


ACTIVE = error("INVALID_PARAMETER_VALUE", "The run x must be in the 'active' state.")
TABLE = [
    (200, b"{}", DELIVERED, "delivered", False),
    (200, b"<html>", RETRY, "other-service", True),
    (200, b"", RETRY, "other-service", True),
    (400, error("INVALID_PARAMETER_VALUE"), SPLIT, "bad-request", False),
    (400, error("BAD_REQUEST"), SPLIT, "bad-request", False),
    (400, b"<html>The plain HTTP request was sent to HTTPS port", RETRY, "other-service", True),
    (400, b"{}", RETRY, "other-service", True),
    (400, ACTIVE, PERMANENT, "run-deleted", False),
    (400, error("RESOURCE_ALREADY_EXISTS"), RETRY, "already-exists", False),
    (400, error("REQUEST_LIMIT_EXCEEDED"), RETRY, "busy", False),
    (404, error("RESOURCE_DOES_NOT_EXIST"), RETRY, "no-run", False),
    (404, error("ENDPOINT_NOT_FOUND"), RETRY, "wrong-address", True),
    (404, b"<!doctype html>", RETRY, "wrong-address", True),
    (302, b"", RETRY, "redirected", True),
    (401, b"", RETRY, "not-allowed", True),
    (403, error("PERMISSION_DENIED"), RETRY, "not-allowed", True),
    (413, b"", SPLIT, "too-large", False),
    (418, b"", RETRY, "unexpected", True),
    (429, b"", RETRY, "busy", False),
    (500, error("TEMPORARILY_UNAVAILABLE"), RETRY, "busy", False),
    (500, error("INTERNAL_ERROR"), RETRY, "server-error", False),
    (503, b"", RETRY, "busy", False),
]


@pytest.mark.parametrize(("status", "body", "disposition", "reason", "operator"), TABLE)
def test_what_an_answer_means(
    status: int, body: bytes, disposition: Disposition, reason: str, operator: bool
) -> None:
    found = classify(Answer(status=status, headers={}, body=body))
    assert (found.disposition, found.reason) == (disposition, reason)
    assert found.needs_operator == operator


def test_a_foreign_host_and_a_time_to_wait_are_understood() -> None:
    text = b"Invalid Host header - possible DNS rebinding attack detected"
    assert "--allowed-hosts" in classify(Answer(status=403, headers={}, body=text)).detail
    busy = classify(Answer(status=429, headers={"retry-after": "7"}, body=b""))
    assert (busy.retry_after, busy.scope) == (7.0, "sink")


@given(st.text())
def test_every_name_becomes_a_key_that_mlflow_takes(name: str) -> None:
    key = encode.key_of(name)
    assert re.fullmatch(r"[/\w.\- :]{1,250}", key)
    assert posixpath.normpath(key) == key
    assert not key.startswith(("..", "/"))
    assert key != "."
    assert encode.key_of(key) == key


@given(st.lists(st.text(alphabet="ab@#_/.", max_size=5), unique=True))
def test_no_two_names_share_a_key_and_each_is_found_again(given_names: list[str]) -> None:
    names = encode.MetricKeys()
    keys = [names.key(name) for name in given_names]
    assert len(set(keys)) == len(keys)
    tags = names.new_tags(keys)
    assert [tags.get(encode.NAME_TAG + key, key) for key in keys] == given_names
    later = encode.MetricKeys()  # of a service that has restarted
    later.learn(keys, tags)
    assert [later.key(name) for name in reversed(given_names)] == keys[::-1]
    assert later.new_tags(keys) == {}


@pytest.mark.parametrize("run", ["4x7k2m9q", "a b:c.d", "it's", "both \" and '", "a/b", "x" * 500])
def test_a_run_is_found_by_a_text_that_a_filter_can_hold(run: str) -> None:
    key = encode.run_key(run)
    assert re.fullmatch(r"[\w.\-: /]{1,128}", key)
    assert (key == run) == (len(run) < 128 and not set("\"'/") & set(run))


def test_params_that_a_run_has_are_not_sent_again() -> None:
    wanted = {"same": "1", "other": "2", "new": "3"}
    present = {"same": "1", "other": "0", "more": "9"}
    assert encode.divide(wanted, present) == ({"new": "3"}, {"lens.param/other": "2"})


def test_what_is_not_finite_is_text() -> None:
    shown = [
        json.loads(b"".join(encode.metric("k", value, 1, 2)[:2]))["value"]
        for value in (1.5, math.nan, math.inf, -math.inf)
    ]
    assert shown == [1.5, "NaN", "Infinity", "-Infinity"]


def test_requests_stay_within_the_limits_of_mlflow() -> None:
    metrics = [part for n in range(450) for part in encode.metric("k", 1.0, 1, n)]
    tags = {f"t{number}": "\x01" * 9000 for number in range(41)}
    bodies = [json.loads(body) for body in encode.log_batches("r", metrics, tags, 200)]
    assert [len(body["metrics"]) for body in bodies] == [200, 200, 50]
    assert [len(body["tags"]) for body in bodies] == [20, 20, 1]
    values = {f"p{number}": "x" for number in range(60)}
    assert [len(body["params"]) for body in encode.param_batches("r", values)] == [25, 25, 10]


def test_credentials_come_from_the_variables_of_mlflow() -> None:
    both = {USERNAME: "me", PASSWORD: "p", TOKEN: "t"}
    assert from_variables(both)[0] == {"Authorization": "Basic bWU6cA=="}
    assert from_variables({TOKEN: "t"})[0] == {"Authorization": "Bearer t"}
    assert from_variables({TOKEN: "t\n"}) == ({"Authorization": "Bearer t"}, ("t",))
    assert from_variables({USERNAME: "me"})[0] == {}


@pytest.mark.parametrize("token", ["secret\n2", "secret☃"])
def test_a_token_that_no_header_can_have_is_a_problem_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv(TOKEN, token)
    (problem,) = MlflowOptions(url="http://a").problems()
    assert TOKEN in problem
    assert "secret" not in problem
    assert list(MlflowOptions(url="http://a", token_file=Path("a")).problems()) == []


def planned(*records: Record, limit: int = 3) -> list[tuple[str, tuple[int, ...]]]:
    sink = MlflowSink("one", MlflowOptions(url="http://h", batch_max_metrics=limit), {})
    chunk = PlanInput(identity=identity(rank=0), records=stored(*records), ended=True)
    plan = sink.plan(chunk)
    seqs = [seq for batch in plan.batches for seq in batch.seqs]
    seqs += [one.seq for one in plan.skipped] + [one.stored.seq for one in plan.rejected]
    assert sorted(seqs) == list(range(1, len(records) + 1))
    return [(batch.run, batch.seqs) for batch in plan.batches]


def test_each_record_is_in_one_batch_of_its_run_or_skipped() -> None:
    steps = [step(number, run=f"r{number % 2}") for number in range(9)]
    text = step(9, run="r1", note="no number")
    assert planned(*steps, text, finish("r0"), detection("r1"), goodbye()) == [
        ("r0", (1, 3, 5)),
        ("r1", (2, 4, 6)),
        ("r0", (7, 9, 11)),
        ("r1", (8,)),
    ]


def test_a_step_beyond_64_bits_is_rejected_alone() -> None:
    assert planned(step(2**63), step(1)) == [("r", (2,))]


def test_metrics_have_the_step_that_their_user_draws_them_at() -> None:
    sink = MlflowSink("one", MlflowOptions(url="http://h"), {})
    records = stored(step(3, **{"train/global_step": 30, "loss": 1.0}), step(4, loss=2.0))
    plan = sink.plan(PlanInput(identity=identity(), records=records, ended=True))
    metrics = [one for batch in plan.batches for item in batch.payload for one in item.metrics]
    assert [(one.name, one.step) for one in metrics if one.name == "loss"] == [
        ("loss", 30),
        ("loss", 4),
    ]
