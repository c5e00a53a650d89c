"""The receiver that fails on cue fails as it was told, and otherwise is the real one."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

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
    SlowBody,
    not_json,
    other_code,
    redirect,
)
from tests.kit.processor import queries
from tests.kit.spools import PATIENCE_SECONDS


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.db") as running:
        yield running


def ship(
    receiver: FaultyReceiver, step: int = 0, timeout: float = PATIENCE_SECONDS
) -> tuple[int, bytes]:
    """Post one metric on a connection of its own; return status and body of the answer."""
    body = json.dumps({"workload_uid": "w", "metrics": [{"name": "loss", "step": step}]})
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=timeout)
    with closing(connection):
        connection.request("POST", "/v1/wandb/metrics", body, {"Lens-Ship-Records": f"s:{step}"})
        answer = connection.getresponse()
        return answer.status, answer.read()


def stored(receiver: FaultyReceiver) -> list[int]:
    return [row["iteration"] for row in queries.rows(receiver.store, "w")]


def test_the_script_is_used_up_in_order_and_then_all_is_normal(receiver: FaultyReceiver) -> None:
    receiver.then(Answer(status=503), Normal(), Answer(status=429))
    assert [ship(receiver, step)[0] for step in range(5)] == [503, 200, 429, 200, 200]
    assert stored(receiver) == [1, 3, 4]


def test_another_behaviour_may_be_the_rule(receiver: FaultyReceiver) -> None:
    receiver.otherwise = Answer(status=502)
    receiver.then(Normal())
    assert [ship(receiver)[0] for _ in range(3)] == [200, 502, 502]


def test_gets_use_up_nothing(receiver: FaultyReceiver) -> None:
    receiver.then(Answer(status=503))
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=PATIENCE_SECONDS)
    with closing(connection):
        connection.request("GET", "/v1/workloads")
        assert connection.getresponse().status == 200
    assert (receiver.seen, ship(receiver)[0]) == ([], 503)


@pytest.mark.parametrize("processed", [False, True])
def test_an_answer_may_come_with_or_without_processing(
    receiver: FaultyReceiver, processed: bool
) -> None:
    receiver.then(Answer(status=500, body={"meta": {"code": 500}}, processed=processed))
    assert ship(receiver) == (500, b'{"meta": {"code": 500}}')
    assert stored(receiver) == ([0] if processed else [])


def test_an_answer_carries_its_headers(receiver: FaultyReceiver) -> None:
    receiver.then(Answer(status=503, headers=(("Retry-After", "7"),)), redirect("/v1/elsewhere"))
    connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=PATIENCE_SECONDS)
    with closing(connection):
        for status, name, value in ((503, "Retry-After", "7"), (307, "Location", "/v1/elsewhere")):
            connection.request("POST", "/v1/wandb/metrics", b"{}")
            answer = connection.getresponse()
            answer.read()
            assert (answer.status, answer.headers[name]) == (status, value)


def test_a_200_may_be_none_of_ours(receiver: FaultyReceiver) -> None:
    receiver.then(other_code(5000), not_json())
    status, body = ship(receiver)
    assert (status, json.loads(body)["meta"]["code"]) == (200, 5000)
    status, body = ship(receiver)
    assert (status, body[:6]) == (200, b"<html>")
    assert stored(receiver) == []


BROKEN: dict[str, tuple[Behaviour, type[Exception], bool]] = {
    "reset": (Reset(), ConnectionResetError, False),
    "reset after storing": (Reset(processed=True), ConnectionResetError, True),
    "end of file": (Eof(), http.client.RemoteDisconnected, False),
    "end of file after storing": (Eof(processed=True), http.client.RemoteDisconnected, True),
    "half an answer": (HalfAnswer(), http.client.IncompleteRead, True),
    "half an answer without storing": (
        HalfAnswer(processed=False),
        http.client.IncompleteRead,
        False,
    ),
    "garbage": (Garbage(), http.client.BadStatusLine, False),
    "garbage after storing": (Garbage(processed=True), http.client.BadStatusLine, True),
}


@pytest.mark.parametrize(("behaviour", "error", "processed"), BROKEN.values(), ids=BROKEN)
def test_a_broken_answer(
    receiver: FaultyReceiver, behaviour: Behaviour, error: type[Exception], processed: bool
) -> None:
    receiver.then(behaviour)
    with pytest.raises(error) as caught:
        ship(receiver)
    assert caught.type is error
    assert stored(receiver) == ([0] if processed else [])
    assert [(post.processed, post.status) for post in receiver.seen] == [(processed, None)]
    assert ship(receiver, 1)[0] == 200


def test_a_hanging_request_is_answered_when_released(receiver: FaultyReceiver) -> None:
    receiver.then(Hang(processed=True))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ship, receiver)
        (post,) = receiver.wait_for(lambda seen: seen and seen[0].processed)
        assert (stored(receiver), post.status, answer.done()) == ([0], None, False)
        receiver.release()
        assert answer.result(PATIENCE_SECONDS)[0] == 200


def test_a_hanging_request_that_is_not_processed_ends_without_an_answer(
    receiver: FaultyReceiver,
) -> None:
    until = threading.Event()
    receiver.then(Hang(until=until))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ship, receiver)
        receiver.wait_for(len)
        until.set()
        with pytest.raises(http.client.RemoteDisconnected):
            answer.result(PATIENCE_SECONDS)
    assert stored(receiver) == []


def test_a_client_that_gives_up_leaves_a_stored_request_behind(receiver: FaultyReceiver) -> None:
    receiver.then(Hang(processed=True))
    with pytest.raises(TimeoutError):
        ship(receiver, timeout=0.05)
    receiver.wait_for(lambda seen: seen and seen[0].processed)
    assert stored(receiver) == [0]


def test_a_hang_may_be_over_by_itself(receiver: FaultyReceiver) -> None:
    receiver.then(Hang(seconds=0.01, processed=True))
    assert ship(receiver)[0] == 200


def test_going_away_ends_what_hangs(receiver: FaultyReceiver) -> None:
    receiver.then(Hang())
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ship, receiver)
        receiver.wait_for(len)
        receiver.go_away()
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            answer.result(PATIENCE_SECONDS)


def test_a_slow_body_arrives_whole(receiver: FaultyReceiver) -> None:
    receiver.then(SlowBody(pause=0.005, pieces=5))
    status, body = ship(receiver)
    assert (status, json.loads(body)["data"]["count"]) == (200, 1)
    assert receiver.seen[0].status == 200


def test_a_slow_body_outlasts_a_short_timeout(receiver: FaultyReceiver) -> None:
    receiver.then(SlowBody(pause=60))
    with pytest.raises(TimeoutError):
        ship(receiver, timeout=0.05)


def test_it_remembers_what_it_was_sent(receiver: FaultyReceiver) -> None:
    receiver.then(Answer(status=503))
    ship(receiver, 1)
    ship(receiver, 2)
    first, second = receiver.wait_for(lambda seen: len(seen) == 2)
    assert (first.path, first.status, second.status) == ("/v1/wandb/metrics", 503, 200)
    assert (first.body["metrics"][0]["step"], second.headers["lens-ship-records"]) == (1, "s:2")
    assert json.loads(first.raw) == first.body


def test_waiting_in_vain_says_what_was_seen(receiver: FaultyReceiver) -> None:
    ship(receiver)
    with pytest.raises(AssertionError, match=r"/v1/wandb/metrics', 200"):
        receiver.wait_for(lambda seen: len(seen) == 2, timeout=0.01)


def test_it_refuses_connections_while_away_and_comes_back_on_its_port(
    receiver: FaultyReceiver,
) -> None:
    ship(receiver, 1)
    port = receiver.port
    receiver.go_away()
    with pytest.raises(ConnectionRefusedError):
        ship(receiver, 2)
    assert stored(receiver) == [1]
    receiver.come_back()
    assert (receiver.port, ship(receiver, 3)[0]) == (port, 200)
    assert stored(receiver) == [1, 3]
    assert [post.body["metrics"][0]["step"] for post in receiver.seen] == [1, 3]


def test_it_hangs_again_after_coming_back(receiver: FaultyReceiver) -> None:
    receiver.go_away()
    receiver.come_back()
    receiver.then(Hang())
    with pytest.raises(TimeoutError):
        ship(receiver, timeout=0.05)
