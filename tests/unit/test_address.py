"""The base URL and its two prefixes: found out once, remembered, said once, never a stranger's."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from shipper.errors import Unreachable
from shipper.http_client import Answer
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.client import (
    TIMEOUT_GROWTH,
    AdaptiveTimeout,
    ProcessorClient,
    other_prefix,
)
from spooler.spool.identity import Identity
from tests.kit.shipping import NOT_FOUND, OK_BODY, NoNetwork
from tests.kit.spools import identity

OK = Answer(status=200, headers={}, body=OK_BODY)
PAGE = Answer(status=200, headers={}, body=b"<html>")
HOST = "http://host:8989"
WHO = identity(workload_uid="w")


def send(address: ProcessorClient, who: Identity = WHO, tries: int = 1) -> Outcome:
    return address.send(who, "/wandb/metrics", b"{}", {}, items=None, tries=tries)


def served_under(*bases: str, otherwise: Answer = NOT_FOUND) -> NoNetwork:
    """A host where the processor answers below these bases, and `otherwise` elsewhere."""
    known = {f"{base}/wandb/metrics" for base in bases}
    return NoNetwork(lambda url, turn: OK if url in known else otherwise)


@pytest.mark.parametrize(
    ("base", "other"),
    [
        (f"{HOST}/api/v1", f"{HOST}/v1"),
        (f"{HOST}/v1", f"{HOST}/api/v1"),
        (f"{HOST}/lens/api/v1", f"{HOST}/lens/v1"),
        (f"{HOST}/lens/v1", f"{HOST}/lens/api/v1"),
        (f"{HOST}/api/v1/", f"{HOST}/v1"),
        (HOST, f"{HOST}/v1"),
        (f"{HOST}/", f"{HOST}/v1"),
        (f"{HOST}/v2", None),
        (f"{HOST}/api", None),
    ],
)
def test_the_other_prefix_of_the_same_host(base: str, other: str | None) -> None:
    assert other_prefix(base) == other


@pytest.mark.parametrize(("given", "true"), [("/api/v1", "/v1"), ("/v1", "/api/v1"), ("", "/v1")])
def test_the_other_prefix_is_tried_remembered_and_said_once(
    given: str, true: str, caplog: pytest.LogCaptureFixture
) -> None:
    poster = served_under(HOST + true)
    address = ProcessorClient(HOST + given, poster)
    for _ in range(3):
        assert send(address).disposition is Disposition.DELIVERED
    wrong, right = f"{HOST}{given}/wandb/metrics", f"{HOST}{true}/wandb/metrics"
    assert poster.urls == [wrong, right, right, right]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.__dict__["fields"]["instead"] == HOST + true


def test_the_given_prefix_is_come_back_to_when_the_other_one_ends() -> None:
    where = [f"{HOST}/v1"]
    poster = NoNetwork(lambda url, turn: OK if url.startswith(where[0]) else NOT_FOUND)
    address = ProcessorClient(f"{HOST}/api/v1", poster)
    assert send(address).disposition is Disposition.DELIVERED
    where[0] = f"{HOST}/api/v1"
    assert send(address).disposition is Disposition.DELIVERED
    assert send(address).disposition is Disposition.DELIVERED
    assert [url.removeprefix(HOST).removesuffix("/wandb/metrics") for url in poster.urls] == [
        "/api/v1", "/v1", "/v1", "/api/v1", "/api/v1",
    ]  # fmt: skip


def test_nobody_under_either_prefix_is_a_wrong_address_that_is_kept_and_asked_again() -> None:
    poster = served_under()
    address = ProcessorClient(f"{HOST}/v1", poster)
    for _ in range(2):
        outcome = send(address)
        assert (outcome.disposition, outcome.reason) == (Disposition.RETRY, "wrong-address")
        assert outcome.needs_operator
    assert len(poster.urls) == 4


def test_a_base_with_another_path_has_no_other_prefix() -> None:
    poster = served_under()
    assert send(ProcessorClient(f"{HOST}/v2", poster)).reason == "wrong-address"
    assert len(poster.urls) == 1


@pytest.mark.parametrize("status", [200, 503, 405])
def test_a_strangers_answer_under_the_other_prefix_does_not_become_the_address(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    page = Answer(status=status, headers={}, body=b"<html>")
    back = [NOT_FOUND]
    poster = NoNetwork(lambda url, turn: back[0] if url.startswith(f"{HOST}/v1") else page)
    address = ProcessorClient(f"{HOST}/v1", poster)
    assert send(address).reason == "wrong-address"
    assert not caplog.records
    back[0] = OK
    assert send(address).disposition is Disposition.DELIVERED


def test_an_error_of_the_processor_itself_under_the_other_prefix_is_its_address() -> None:
    unknown = b'{"meta":{"code":400,"message":"no valid workload found"},"data":null}'
    own = Answer(status=400, headers={}, body=unknown)
    poster = NoNetwork(lambda url, turn: own if "/api/" not in url else NOT_FOUND)
    address = ProcessorClient(f"{HOST}/api/v1", poster)
    assert send(address).reason == "unknown-workload"
    assert send(address).reason == "unknown-workload"
    assert len(poster.urls) == 3


@pytest.mark.parametrize("turn_of_failure", [1, 2])
def test_no_answer_is_judged_whichever_prefix_gave_none(turn_of_failure: int) -> None:
    failure = Unreachable("refused", "nobody", sent=False)
    poster = NoNetwork(lambda url, turn: failure if turn == turn_of_failure else NOT_FOUND)
    outcome = send(ProcessorClient(f"{HOST}/v1", poster))
    assert (outcome.disposition, outcome.reason) == (Disposition.RETRY, "refused")


def test_the_operators_url_comes_before_the_jobs() -> None:
    poster = served_under(f"{HOST}/v1")
    who = identity(api_base_url="http://job/v1")
    assert send(ProcessorClient(f"{HOST}/v1", poster), who).disposition is Disposition.DELIVERED
    assert poster.urls == [f"{HOST}/v1/wandb/metrics"]


def test_each_job_has_its_own_url_and_its_own_prefix_where_the_operator_gave_none() -> None:
    poster = served_under("http://one/v1", "http://two/api/v1")
    address = ProcessorClient("", poster)
    for url in ("http://one/api/v1/", "http://two/api/v1"):
        assert send(address, identity(api_base_url=url)).disposition is Disposition.DELIVERED
    assert [url.rpartition("/wandb")[0] for url in poster.urls] == [
        "http://one/api/v1",
        "http://one/v1",
        "http://two/api/v1",
    ]


def test_without_any_url_nothing_is_sent_and_everything_kept() -> None:
    poster = served_under()
    outcome = send(ProcessorClient("", poster), identity())
    assert (outcome.disposition, outcome.reason) == (Disposition.RETRY, "no-url")
    assert "processor_url" in outcome.detail
    assert poster.urls == []


@pytest.mark.parametrize("answer", [NOT_FOUND, PAGE, Unreachable("refused", "x", sent=False)])
def test_trouble_with_a_jobs_own_url_is_not_that_of_the_others(
    answer: Answer | Unreachable,
) -> None:
    poster = NoNetwork(lambda url, turn: answer)
    assert send(ProcessorClient(f"{HOST}/v1", poster)).scope == "sink"
    assert (
        send(ProcessorClient("", poster), identity(api_base_url=f"{HOST}/v1")).scope == "workload"
    )
    assert send(ProcessorClient("", poster), identity()).scope == "workload"


LATE = Unreachable("timeout", "host: read timed out", sent=True)


def test_an_answer_that_did_not_come_may_take_longer_the_next_time() -> None:
    poster = NoNetwork(lambda url, turn: LATE if turn <= 5 else OK)
    address = ProcessorClient(f"{HOST}/v1", poster)
    for _ in range(7):
        send(address)
    usual = poster.read_seconds
    # Twice as long each time, ten times at most, and as usual after an answer that came at once.
    assert poster.waits == [usual * times for times in (1, 2, 4, 8, 10, 10, 1)]


def test_only_the_workload_that_waited_waits_longer() -> None:
    poster = NoNetwork(lambda url, turn: LATE if turn == 1 else OK)
    address = ProcessorClient(f"{HOST}/v1", poster)
    send(address)
    send(address, identity(workload_uid="other"))
    assert poster.waits == [poster.read_seconds, poster.read_seconds]


def test_other_failures_change_nothing_about_the_time_for_an_answer() -> None:
    refused = Unreachable("refused", "host: refused", sent=False)
    poster = NoNetwork(lambda url, turn: refused)
    address = ProcessorClient(f"{HOST}/v1", poster)
    send(address)
    send(address)
    assert poster.waits == [poster.read_seconds, poster.read_seconds]


def test_an_answer_that_took_long_lets_the_next_one_take_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([0.0, 40.0, 100.0, 100.1, 200.0, 200.1])
    own = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr("shipper.sinks.processor.client.time", own)
    poster = NoNetwork(lambda url, turn: OK)
    address = ProcessorClient(f"{HOST}/v1", poster)
    for _ in range(3):
        send(address)
    assert poster.waits == [poster.read_seconds, 80.0, poster.read_seconds]


@pytest.mark.parametrize(
    ("took", "granted"), [(0.1, 30.0), (15.0, 30.0), (40.0, 80.0), (10_000.0, 300.0)]
)
def test_an_answer_may_take_twice_as_long_as_the_last_one(took: float, granted: float) -> None:
    timeout = AdaptiveTimeout(base=30.0, seconds=30.0)
    timeout.answered(took)
    assert timeout.seconds == granted


def test_the_time_for_an_answer_grows_with_each_that_is_missed_up_to_a_bound() -> None:
    timeout = AdaptiveTimeout(base=30.0, seconds=30.0)
    granted = []
    for _ in range(6):
        timeout.missed()
        granted.append(timeout.seconds)
    assert granted == [60.0, 120.0, 240.0, *[30.0 * TIMEOUT_GROWTH] * 3]
