from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shipper import protobuf
from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.sinks import Batch, PlanInput
from shipper.sinks.grouping import each
from shipper.sinks.otlp.sink import OtlpOptions, OtlpSink
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.prometheus import sink as prometheus
from shipper.sinks.timeseries.classify import TRIES_ON_500, classify
from tests.kit.shipping import NoNetwork, Record, finish, step, stored
from tests.kit.spools import identity

WHO = identity(workload_uid="w", rank=0)
DELIVERED, RETRY, SPLIT = Disposition.DELIVERED, Disposition.RETRY, Disposition.SPLIT
PERMANENT, DROPPED = Disposition.PERMANENT, Disposition.DROPPED
OK = Answer(status=200, headers={}, body=b"")
OLD = Answer(status=400, headers={}, body=b"out of bounds")
THERE = Answer(status=400, headers={}, body=b"out of order sample")
BROKEN = Answer(status=500, headers={}, body=b"boom")
LOST = Unreachable("connection-lost", "why", sent=True)

TABLE = [
    (200, b"", DELIVERED, "delivered", False),
    (204, b"", DELIVERED, "delivered", False),
    (400, b"out of bounds", SPLIT, "too-old", False),
    (400, b"err-mimir-sample-timestamp-too-old", SPLIT, "too-old", False),
    (400, b"entry too far behind, entry timestamp is", SPLIT, "too-old", False),
    (500, b"too old sample", SPLIT, "too-old", False),
    (400, b"out of order sample", SPLIT, "already-there", False),
    (400, b"duplicate sample for timestamp", SPLIT, "already-there", False),
    (400, b'unsupported path requested: "/v1/logs"', RETRY, "wrong-address", True),
    (400, b"label name is invalid", SPLIT, "bad-request", False),
    (413, b"", SPLIT, "too-large", False),
    (401, b"", RETRY, "not-allowed", True),
    (403, b"", RETRY, "not-allowed", True),
    (404, b"", RETRY, "wrong-address", True),
    (405, b"", RETRY, "wrong-address", True),
    (415, b"", RETRY, "wrong-address", True),
    (302, b"", RETRY, "redirected", True),
    (408, b"", RETRY, "busy", False),
    (429, b"", RETRY, "busy", False),
    (502, b"", RETRY, "busy", False),
    (503, b"", RETRY, "busy", False),
    (504, b"", RETRY, "busy", False),
    (418, b"", RETRY, "unexpected", True),
    (500, b"boom", RETRY, "server-error", False),
]


@pytest.mark.parametrize(("status", "body", "disposition", "reason", "operator"), TABLE)
def test_what_an_answer_means(
    status: int, body: bytes, disposition: Disposition, reason: str, operator: bool
) -> None:
    outcome = classify(Answer(status=status, headers={}, body=body), tries=1)
    assert (outcome.disposition, outcome.reason) == (disposition, reason)
    assert outcome.needs_operator == operator


def test_a_page_is_no_receiver() -> None:
    page = Answer(status=200, headers={"content-type": "text/html"}, body=b"<html>")
    assert classify(page, tries=1).reason == "other-service"


def test_the_message_of_a_status_is_read() -> None:
    body = protobuf.field(1, 3) + protobuf.field(2, b"label too long")
    answer = Answer(status=400, headers={"content-type": "application/x-protobuf"}, body=body)
    assert classify(answer, tries=1).detail == "400 label too long"


def test_a_receiver_that_asks_to_wait_is_waited_for() -> None:
    answer = Answer(status=429, headers={"retry-after": "7"}, body=b"")
    outcome = classify(answer, tries=1)
    assert (outcome.retry_after, outcome.scope) == (7.0, "sink")


# --- what becomes of a batch ----------------------------------------------------------------------


class Scripted:
    """A sink, and a receiver that answers by script, then well."""

    def __init__(self, *answers: Answer | Unreachable, **options: Any) -> None:
        self.answers = list(answers)
        self.sink = OtlpSink("one", OtlpOptions(url="http://h", gzip=False, **options), {})
        self.http = NoNetwork(self.judge)
        self.sink._http = self.http

    def judge(self, url: str, turn: int) -> Answer | Unreachable:
        return self.answers.pop(0) if self.answers else OK

    def batch(self, *records: Record) -> Batch:
        chunk = PlanInput(identity=WHO, records=stored(*records), ended=True)
        (batch,) = self.sink.plan(chunk).batches
        return batch

    def send(self, batch: Batch, attempt: int = 1) -> Outcome:
        return self.sink.send(batch, WHO, attempt)


def deliver(sink: Any, batches: Sequence[Batch]) -> dict[int, Disposition]:
    """What a pipeline does with batches, without its waits: what became of each record."""
    left, became = list(batches), {}
    attempt = 0
    while left:
        batch, attempt = left[0], attempt + 1
        outcome = sink.send(batch, WHO, attempt)
        if outcome.disposition is SPLIT and batch.split is not None:
            left[:1] = batch.split()
            attempt = 0
        elif outcome.disposition is not RETRY:
            became.update(dict.fromkeys(batch.seqs, outcome.disposition))
            left, attempt = left[1:], 0
    return became


def test_a_repetition_of_what_was_perhaps_stored_is_delivered() -> None:
    it = Scripted(LOST, THERE)
    batch = it.batch(step(1))
    assert it.send(batch, 1).ambiguous
    assert it.send(batch, 2).disposition is DELIVERED
    assert it.send(it.batch(step(2))).disposition is DELIVERED
    assert not it.sink._tried


def test_what_is_out_of_order_without_a_doubt_is_dropped() -> None:
    it = Scripted(THERE)
    assert it.send(it.batch(step(1))).disposition is DROPPED


def test_halves_of_an_ambiguous_batch_are_ambiguous() -> None:
    it = Scripted(LOST, THERE, THERE, THERE)
    whole = it.batch(step(1), step(2))
    assert it.send(whole, 1).disposition is RETRY
    assert it.send(whole, 2).disposition is SPLIT
    assert whole.split is not None
    assert [it.send(half).disposition for half in whole.split()] == [DELIVERED, DELIVERED]


def test_an_error_of_the_receiver_alone_buries_nothing() -> None:
    it = Scripted(*[BROKEN] * 20)
    batch = it.batch(step(1))
    for attempt in range(1, 10):
        assert it.send(batch, attempt).disposition in (RETRY, SPLIT)
    assert it.send(batch, TRIES_ON_500).ambiguous


def test_a_record_that_breaks_a_receiver_that_works_is_a_dead_letter() -> None:
    it = Scripted()
    bodies: list[bytes] = []
    real = it.http.post

    def post(url: str, body: bytes, headers: Any, **more: Any) -> Answer:
        bodies.append(body)
        return BROKEN if b"poison" in body else real(url, body, headers, **more)

    it.http.post = post  # type: ignore[method-assign]
    batch = it.batch(step(1), step(2), step(3, poison=1.0))
    assert deliver(it.sink, [batch]) == {1: DELIVERED, 2: DELIVERED, 3: PERMANENT}


def test_only_the_signal_that_failed_is_sent_again() -> None:
    busy = Answer(status=503, headers={}, body=b"")
    it = Scripted(OK, busy, OK, logs=True)
    batch = it.batch(step(1))
    assert it.send(batch, 1).disposition is RETRY
    assert it.send(batch, 2).disposition is DELIVERED
    assert [url.rpartition("/")[2] for url in it.http.urls] == ["metrics", "logs", "logs"]


def test_points_that_are_there_already_hold_back_no_logs() -> None:
    it = Scripted(THERE, OK, logs=True)
    assert it.send(it.batch(step(1))).disposition is DROPPED
    assert [url.rpartition("/")[2] for url in it.http.urls] == ["metrics", "logs"]


def test_points_that_a_receiver_rejects_are_never_sent_again() -> None:
    partial = protobuf.field(1, protobuf.field(1, 1) + protobuf.field(2, b"why"))
    every = protobuf.field(1, protobuf.field(1, 2) + protobuf.field(2, b"why"))
    it = Scripted(*(Answer(status=200, headers={}, body=body) for body in (partial, every)))
    batch = it.batch(step(1))
    outcome = it.send(batch)
    assert (outcome.disposition, outcome.reason) == (DELIVERED, "partly")
    assert "1 of 2 metrics rejected: why" in outcome.detail
    assert outcome.rejected == 1
    assert it.send(batch).disposition is PERMANENT


def test_points_that_are_rejected_are_counted_once_the_logs_are_there_too() -> None:
    one = protobuf.field(1, protobuf.field(1, 1) + protobuf.field(2, b"why"))
    partly, busy = (Answer(status=status, headers={}, body=one) for status in (200, 503))
    it = Scripted(partly, busy, OK, OK, logs=True)
    batch = it.batch(step(1, a=1.0, b=2.0))
    assert it.send(batch, 1).disposition is RETRY
    assert it.send(batch, 2).rejected == 1
    assert it.send(it.batch(step(2))).rejected == 0


def test_headers_of_the_environment_are_sent_and_never_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hush%20hush")
    it = Scripted(Answer(status=400, headers={}, body=b"bad header x-key: hush hush"))
    sent: list[str] = []
    real = it.http.post

    def post(url: str, body: bytes, headers: Any, **more: Any) -> Answer:
        sent.append(headers["x-key"])
        return real(url, body, headers, **more)

    it.http.post = post  # type: ignore[method-assign]
    outcome = it.send(it.batch(step(1)))
    assert sent == ["hush hush"]
    assert outcome.detail == "400 bad header x-key: ***"


# --- times ----------------------------------------------------------------------------------------


def at(number: int, when: float) -> Record:
    return "step", {**step(number)[1], "time": when}


def test_the_future_is_held_and_the_rest_is_sent() -> None:
    it = Scripted()
    now = time.time()
    batch = it.batch(at(1, now), at(2, now + 3600))
    assert it.send(batch).disposition is SPLIT
    assert batch.split is not None
    first, second = batch.split()
    assert it.send(first).disposition is DELIVERED
    held = it.send(second)
    assert (held.disposition, held.reason, held.needs_operator) == (RETRY, "clock-ahead", True)
    assert held.scope == "workload"
    assert len(it.http.urls) == 1


@pytest.mark.parametrize("there", [1, 100, 199, 200])
def test_what_is_there_already_costs_one_request_each(there: int) -> None:
    sink = remote_write()
    requests, newest = 0, there
    ask = sink.requests

    def look(items: Any, who: Any) -> Any:
        nonlocal span
        steps = [item.step for item in each(items)]
        span = [min(steps), max(steps)]
        return ask(items, who)

    def judge(url: str, turn: int) -> Answer:
        nonlocal requests, newest
        requests += 1
        if span[0] < newest:
            return THERE
        newest = span[1]
        return OK

    span: list[int] = []
    sink.requests = look
    sink._http = NoNetwork(judge)
    now = time.time() - 500
    records = stored(*(at(number, now + number) for number in range(1, 201)))
    batches = sink.plan(PlanInput(identity=WHO, records=records, ended=True)).batches
    became = deliver(sink, batches)
    expected = [DROPPED] * (there - 1) + [DELIVERED] * (201 - there)
    assert [became[seq] for seq in range(1, 201)] == expected
    assert requests <= there + 12


def test_logs_that_are_too_old_are_asked_about_with_a_log() -> None:
    it = Scripted(OK, OLD, OLD, logs=True)
    now = time.time()
    kind, status = finish()
    outcome = it.send(it.batch(at(1, now - 9), at(2, now - 8), (kind, {**status, "time": now})))
    assert (outcome.disposition, outcome.reason) == (PERMANENT, "too-old")
    assert [url.rpartition("/")[2] for url in it.http.urls] == ["metrics", "logs", "logs"]


class Bounded:
    """As Prometheus does, refuses a whole request for one sample before a border."""

    def __init__(self, sink: Any, border: int) -> None:
        self.border, self.requests = border, 0
        self.ask = sink.requests
        sink.requests = self.look
        sink._http = NoNetwork(lambda url, turn: self.judge())

    def look(self, items: Any, who: Any) -> Any:
        self.oldest = min(item.time for item in each(items))
        return self.ask(items, who)

    def judge(self) -> Answer:
        self.requests += 1
        return OLD if self.oldest < self.border else OK


def otlp() -> Any:
    return OtlpSink("one", OtlpOptions(url="http://h"), {})


def remote_write() -> Any:
    options = prometheus.PrometheusOptions(url="http://h")
    return prometheus.PrometheusSink("one", options, {})


@pytest.mark.parametrize("make", [otlp, remote_write])
@pytest.mark.parametrize("old", [0, 1, 37, 199, 200])
def test_a_backlog_that_is_too_old_costs_few_requests(make: Callable[[], Any], old: int) -> None:
    sink = make()
    begun = round(time.time()) - 7200
    receiver = Bounded(sink, (begun + old) * 1000)
    records = stored(*(at(number, float(begun + number)) for number in range(200)))
    batches = sink.plan(PlanInput(identity=WHO, records=records, ended=True)).batches
    became = deliver(sink, batches)
    assert [became[seq] for seq in range(1, 201)] == [PERMANENT] * old + [DELIVERED] * (200 - old)
    assert receiver.requests <= 32  # not 2 for each record
