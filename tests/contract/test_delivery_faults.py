"""A real service meets every fault of a receiver: nothing is lost, order is kept, it recovers."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipper.config.schema import Config
from shipper.service import Service, ship_once
from shipper.sinks.outcome import TIMEOUT
from tests.kit.delivery import arrived, is_ordered
from tests.kit.faulty_receiver import (
    Answer,
    Behaviour,
    Eof,
    FaultyReceiver,
    Garbage,
    HalfAnswer,
    Hang,
    Normal,
    Reset,
    Seen,
    SlowBody,
    not_json,
    other_code,
    redirect,
)
from tests.kit.processor.listener import Exchange
from tests.kit.processor.routes import Call
from tests.kit.shipping import Record, config, detection, goodbye, spool, step
from tests.kit.spools import identity, spool_id, wait_until

STEPS = 40
BATCH = 10
LONG = 60.0  # far more than anything here takes


@pytest.fixture(autouse=True)
def _brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries of hundredths of a second instead of seconds."""
    monkeypatch.setattr("shipper.delivery.backoff.FIRST_SECONDS", 0.01)
    monkeypatch.setattr("shipper.delivery.backoff.ALARM_FIRST_SECONDS", 0.02)


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


def write(folder: Path, *before: Record, workload: str = "w", salt: int = 0) -> Path:
    """The directory of a spool of these records and then the steps, whose writer is gone."""
    who = identity(spool_id(salt), workload_uid=workload)
    records = [*before, *(step(n) for n in range(STEPS)), goodbye()]
    return spool(folder / "spool", records, who=who)[0]


def settings(folder: Path, receiver: FaultyReceiver, **more: Any) -> Config:
    # A busy machine may answer late: where nothing hangs there is no repetition for that.
    given = {"batch_max_steps": BATCH, "read_timeout": LONG, "processor_url": receiver.url, **more}
    return config(folder, **given)


def check(receiver: FaultyReceiver, *, twice: int = 0, workload: str = "w") -> None:
    """Everything is there in order, and just so many requests came twice."""
    assert repeated(receiver, workload) == twice


def repeated(receiver: FaultyReceiver, workload: str = "w") -> int:
    """How many requests came twice; everything must be there in order."""
    got = arrived(receiver.store, workload)
    assert sorted(got.steps) == list(range(STEPS))
    for number, values in got.steps.items():
        assert values == {"loss": number + 0.5}
    assert is_ordered(list(dict.fromkeys(got.order)))
    return sum(got.repeated.values())


def is_stored(seen: Sequence[Seen], *workloads: str) -> bool:
    """Whether every step of these workloads is stored, by requests of whatever size."""
    stored = {
        (post.body["workload_uid"], point["step"])
        for post in seen
        if post.processed
        for point in post.body["metrics"]
    }
    return stored >= {(workload, number) for workload in workloads for number in range(STEPS)}


def delivered(made: Config) -> Service:
    """A service that has delivered all there is, and has ended."""
    service = Service(made, once=True)
    limit = threading.Timer(LONG, service.stop)
    limit.start()
    try:
        service.run()
    finally:
        limit.cancel()
        limit.join()
    assert service.app.pending() == []
    return service


def envelope(code: int, message: str) -> dict[str, Any]:
    return {"meta": {"code": code, "message": message}, "data": {}, "tracing": None}


FAULTS: dict[str, tuple[Behaviour, int]] = {
    "reset before processing": (Reset(), 0),
    "reset after processing": (Reset(processed=True), 1),
    "closed before processing": (Eof(), 0),
    "closed after processing": (Eof(processed=True), 1),
    "hanging": (Hang(), 0),
    "processed, then hanging": (Hang(processed=True), 1),
    "half an answer": (HalfAnswer(), 1),
    "garbage": (Garbage(), 0),
    "garbage after processing": (Garbage(processed=True), 1),
    "500": (Answer(status=500, body=envelope(500, "failed to process metrics")), 0),
    "500 after all": (Answer(status=500, body=envelope(500, "x"), processed=True), 1),
    "panic": (Answer(status=500), 0),
    "503 with a wish": (Answer(status=503, headers=(("Retry-After", "0"),)), 0),
    "429": (Answer(status=429, headers=(("Retry-After", "0"),)), 0),
    "502 after processing": (Answer(status=502, processed=True), 1),
    "redirect": (redirect("http://127.0.0.1:9/"), 0),
    "a page of somebody else": (not_json(), 0),
    "another service's success": (other_code(0), 0),
    "401": (Answer(status=401), 0),
    "404": (Answer(status=404, body="404 page not found"), 0),
    "413": (Answer(status=413), 0),
    "a body cut on the way": (Answer(status=400, body=envelope(400, "invalid request format")), 0),
    "unknown for now": (Answer(status=400, body=envelope(400, "no valid workload found")), 0),
}


@pytest.mark.promise("G3")
@pytest.mark.promise("G4")
@pytest.mark.promise("G6")
@pytest.mark.parametrize("before", [0, 2])
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_one_fault_loses_nothing_and_repeats_at_most_what_was_in_flight(
    tmp_path: Path, receiver: FaultyReceiver, fault: str, before: int
) -> None:
    write(tmp_path)
    behaviour, twice = FAULTS[fault]
    receiver.then(*[Normal()] * before, behaviour)
    hangs = isinstance(behaviour, Hang)
    service = delivered(settings(tmp_path, receiver, read_timeout=0.5 if hangs else LONG))
    # A busy machine may miss the short time of those that hang more often.
    late = service.app.metrics.requests["processor", TIMEOUT] - hangs
    assert twice <= repeated(receiver) <= twice + late


@pytest.mark.promise("G4")
def test_one_fault_after_the_other_loses_nothing(tmp_path: Path, receiver: FaultyReceiver) -> None:
    write(tmp_path)
    mixed = [Reset(processed=True), Eof(), HalfAnswer(), Answer(status=503), Garbage(), not_json()]
    for fault in mixed:
        receiver.then(fault, Normal())
    assert ship_once(settings(tmp_path, receiver), timeout=LONG) == []
    check(receiver, twice=2)


@pytest.mark.promise("G4")
@pytest.mark.parametrize(("served", "given"), [("/v1", "/api/v1"), ("/api/v1", "/v1"), ("/v1", "")])
def test_the_wrong_prefix_is_found_out(tmp_path: Path, served: str, given: str) -> None:
    write(tmp_path)
    with FaultyReceiver(path=tmp_path / "received.sqlite", prefix=served) as receiver:
        url = f"http://127.0.0.1:{receiver.port}{given}"
        made = settings(tmp_path, receiver, processor_url=url)
        assert ship_once(made, timeout=LONG) == []
        check(receiver)


PAUSED = "sink paused, data is kept"


class Said(logging.Handler):
    """Waits for an event in the log with these fields, instead of for time to pass."""

    def __init__(self, event: str, **values: str) -> None:
        super().__init__()
        self.event = event
        self.values = values
        self.heard = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        found = record.__dict__.get("fields", {})
        if self.event == record.getMessage() and self.values.items() <= found.items():
            self.heard.set()

    def __enter__(self) -> Said:
        logging.getLogger("shipper").addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("shipper").removeHandler(self)


@contextmanager
def serving(made: Config) -> Iterator[Service]:
    """A service that runs meanwhile."""
    service = Service(made)
    running = threading.Thread(target=service.run, daemon=True)
    running.start()
    try:
        yield service
    finally:
        service.stop()
        running.join(LONG)
        assert not running.is_alive()


@pytest.mark.promise("G4")
def test_a_receiver_that_comes_back_is_found_without_help(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    write(tmp_path)
    receiver.go_away()
    with Said(PAUSED, reason="refused") as away, serving(settings(tmp_path, receiver)):
        assert away.heard.wait(LONG)
        receiver.come_back()
        receiver.wait_for(lambda seen: is_stored(seen, "w"))
    check(receiver)


@pytest.mark.promise("G4")
def test_a_receiver_that_went_away_in_the_middle_is_found_again(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    write(tmp_path)
    receiver.then(Normal(), Normal(), Hang())
    made = settings(tmp_path, receiver, workers=1)
    with Said(PAUSED, reason="connection-lost") as lost, serving(made):
        receiver.wait_for(lambda seen: len(seen) == 3)
        receiver.go_away()
        assert lost.heard.wait(LONG)
        receiver.come_back()
        receiver.wait_for(lambda seen: is_stored(seen, "w"))
    check(receiver)


class Holding(FaultyReceiver):
    """Keeps every request with `word` in its path or body waiting, without reading it."""

    def __init__(
        self,
        path: Path,
        word: str,
        pods: Mapping[str, Sequence[tuple[str, str]]] | None = None,
    ) -> None:
        super().__init__(path=path, pods=pods)
        self.word = word
        self.gate = threading.Event()

    def conclude(self, exchange: Exchange, call: Call) -> None:
        if self.word in call.path or self.word.encode() in call.body:
            self.hold(self.gate, None)
        super().conclude(exchange, call)


@pytest.mark.promise("G15")
def test_a_detection_that_hangs_does_not_hold_up_metrics(tmp_path: Path) -> None:
    write(tmp_path, detection())
    with Holding(tmp_path / "received.sqlite", "detection") as receiver:
        with serving(settings(tmp_path, receiver)):
            seen = receiver.wait_for(lambda seen: len(seen) == STEPS / BATCH)
            assert {post.path for post in seen} == {"/v1/wandb/metrics"}
            receiver.gate.set()
            receiver.wait_for(lambda seen: seen[-1].path == "/v1/wandb/detection")
        check(receiver)


@pytest.mark.promise("G15")
def test_trouble_of_one_workload_does_not_hold_up_another(tmp_path: Path) -> None:
    for salt, workload in enumerate(("slow", "quick")):
        write(tmp_path, workload=workload, salt=salt)
    with Holding(tmp_path / "received.sqlite", '"workload_uid":"slow"') as receiver:
        with serving(settings(tmp_path, receiver)):
            seen = receiver.wait_for(lambda seen: len(seen) == STEPS / BATCH)
            assert {post.body["workload_uid"] for post in seen} == {"quick"}
            receiver.gate.set()
            receiver.wait_for(lambda seen: is_stored(seen, "quick", "slow"))
        check(receiver, workload="quick")
        check(receiver, workload="slow")


@pytest.mark.promise("G15")
def test_a_dead_address_of_one_job_does_not_hold_up_another(
    tmp_path: Path, receiver: FaultyReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trouble of the other job would now put everyone off for longer than this test may take.
    monkeypatch.setattr("shipper.delivery.backoff.FIRST_SECONDS", 1000 * LONG)
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    with closing(socket.socket()) as nobody:
        nobody.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        for salt, (workload, url) in enumerate([("dead", dead), ("good", receiver.url)]):
            who = identity(spool_id(salt), workload_uid=workload, api_base_url=url)
            spool(tmp_path / "spool", [*(step(n) for n in range(STEPS)), goodbye()], who=who)
        made = settings(tmp_path, receiver, processor_url="", workers=1)
        with Said(PAUSED, workload="dead", reason="refused") as refused, serving(made):
            assert refused.heard.wait(LONG)
            receiver.wait_for(lambda seen: is_stored(seen, "good"))
    check(receiver, workload="good")


@pytest.mark.promise("G15")
def test_workloads_that_hang_leave_the_others_their_workers(tmp_path: Path) -> None:
    """More of them than there are workers, and each may hold one for ever longer."""
    hung = [f"hung-{number}" for number in range(5)]
    for salt, workload in enumerate(hung):
        write(tmp_path, workload=workload, salt=salt)
    with Holding(tmp_path / "received.sqlite", '"workload_uid":"hung') as receiver:
        made = settings(tmp_path, receiver, read_timeout=2.0, workers=2)
        with serving(made) as service:
            lanes = service.app.queues
            wait_until(
                lambda: (
                    len(lanes) > len(hung)
                    and all(
                        lane.is_slow()
                        for (sink, _), lane in list(lanes.items())
                        if sink == "processor"
                    )
                )
            )
            quick = write(tmp_path / "aside", workload="quick", salt=len(hung))
            quick.rename(tmp_path / quick.relative_to(tmp_path / "aside"))
            receiver.wait_for(lambda seen: is_stored(seen, "quick"), LONG)
            receiver.gate.set()
        repeated(receiver, "quick")  # its time for an answer is short, too


class Limiting(FaultyReceiver):
    """Answers this to workloads whose names begin so, and truly to the others."""

    def __init__(self, path: Path, workload: str, answer: Answer) -> None:
        super().__init__(path=path)
        self._limited = f'"workload_uid":"{workload}'.encode()
        self._limit = answer

    def arrived(self, call: Call) -> tuple[Behaviour, int]:
        behaviour, index = super().arrived(call)
        return (self._limit if self._limited in call.body else behaviour), index


@pytest.mark.promise("G15")
@pytest.mark.parametrize(
    "answer", [Answer(status=429, headers=(("Retry-After", "600"),)), Answer(status=403)]
)
@pytest.mark.parametrize("limited", [1, 3])
def test_an_answer_to_some_workloads_pauses_no_other(
    tmp_path: Path, answer: Answer, limited: int
) -> None:
    others = ["w1", "w2"]
    for salt, workload in enumerate([*(f"limited-{n}" for n in range(limited)), *others]):
        write(tmp_path, workload=workload, salt=salt)
    with Limiting(tmp_path / "received.sqlite", "limited", answer) as receiver:
        with (
            Said(PAUSED) as paused,
            serving(settings(tmp_path, receiver, workers=1)),
        ):
            assert paused.heard.wait(LONG)
            receiver.wait_for(lambda seen: is_stored(seen, *others), LONG)
        for workload in others:
            check(receiver, workload=workload)


@pytest.mark.promise("G15")
def test_a_list_of_pods_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    pods = {f"pod-{number}": [("job", f"uid-{number}")] for number in range(3)}
    for salt, pod in enumerate(pods):
        who = identity(spool_id(salt), workload_uid="", pod_name=pod)
        spool(tmp_path / "spool", [*(step(n) for n in range(STEPS)), goodbye()], who=who)
    with Holding(tmp_path / "received.sqlite", "pods/workload/cache", pods) as receiver:
        made = settings(tmp_path, receiver, workers=1)
        assert ship_once(made, timeout=LONG) == []
        receiver.gate.set()
        for number in range(3):
            check(receiver, workload=f"uid-{number}")


@pytest.mark.promise("G15")
def test_answers_that_drip_leave_the_others_their_workers(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """Receivers of single jobs, more than there are workers."""
    dripping = SlowBody(pause=0.2, pieces=1000)
    with FaultyReceiver(path=tmp_path / "other.sqlite", otherwise=dripping) as other:
        for salt in range(4):
            who = identity(spool_id(salt), workload_uid=f"slow-{salt}", api_base_url=other.url)
            spool(tmp_path / "spool", [*(step(n) for n in range(STEPS)), goodbye()], who=who)
        with serving(settings(tmp_path, other, processor_url="", read_timeout=1.0, workers=2)):
            other.wait_for(lambda seen: len(seen) >= 2)
            who = identity(spool_id(9), workload_uid="w", api_base_url=receiver.url)
            spool(tmp_path / "spool", [*(step(n) for n in range(STEPS)), goodbye()], who=who)
            receiver.wait_for(lambda seen: is_stored(seen, "w"), LONG)
    repeated(receiver)  # its time for an answer is short, too


def test_a_single_run_ends_when_it_was_told_to(tmp_path: Path, receiver: FaultyReceiver) -> None:
    write(tmp_path)
    receiver.otherwise = Hang()
    begun = time.monotonic()
    # It would wait so long for an answer: one that ends within less has not waited for it.
    made = settings(tmp_path, receiver, read_timeout=10 * LONG)
    assert ship_once(made, timeout=1.0) != []
    assert time.monotonic() - begun < LONG
    receiver.otherwise = Normal()
    receiver.release()
    # The first state is locked until its process ends.
    assert ship_once(settings(tmp_path, receiver, state=tmp_path / "new"), timeout=LONG) == []
    check(receiver)
