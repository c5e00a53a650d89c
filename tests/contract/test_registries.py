"""Sinks: the registry and the files match, and every sink keeps the contract of its package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from inspect import isabstract
from pathlib import Path
from pkgutil import walk_packages
from typing import Any

import pytest

import shipper.cli
import shipper.sinks
from shipper.cli import REGISTRY as COMMANDS
from shipper.http_client.client import HttpClient
from shipper.sinks import REGISTRY, Batch, Plan, PlanInput, Sink, load_class
from shipper.sinks.options import HttpOptions
from shipper.sinks.outcome import Disposition, Outcome
from shipper.sinks.processor.client import ProcessorClient
from spooler.records import REGISTRY as KINDS
from spooler.spool.identity import Identity
from tests.kit.faulty_receiver import (
    Answer,
    Behaviour,
    Eof,
    FaultyReceiver,
    Garbage,
    HalfAnswer,
    Hang,
    Reset,
    not_json,
    other_code,
    redirect,
)
from tests.kit.shipping import stored
from tests.kit.spools import PATIENCE_SECONDS, identity

WHO = identity(workload_uid="w")
SINKS = sorted(REGISTRY)
# Those that post to the telemetry-processor; the training master's has tests of its own.
POSTING = sorted(name for name in REGISTRY if name.startswith("telemetry-processor"))
posting = pytest.mark.parametrize("connected", POSTING, indirect=True)


def examples() -> list[tuple[str, dict[str, Any]]]:
    """One real record of every kind there is, twice, and one of a kind there is not yet."""
    bodies = [(kind, import_module(place).EXAMPLE) for kind, place in KINDS.items()]
    return [*bodies, *bodies, ("of next year", {"time": 1.0})]


def chunk(kinds: frozenset[str] | None, who: Identity = WHO) -> PlanInput:
    """All examples of these kinds, as the pipeline hands them over."""
    records = [one for one in stored(*examples()) if kinds is None or one.kind in kinds]
    return PlanInput(identity=who, records=records, ended=True)


def test_every_sink_is_registered_and_every_line_has_its_class() -> None:
    modules = [found.name for found in walk_packages(shipper.sinks.__path__, "shipper.sinks.")]
    classes = {
        f"{module}:{name}"
        for module in modules
        for name, value in vars(import_module(module)).items()
        if isinstance(value, type) and value.__module__ == module
        if hasattr(value, "plan") and hasattr(value, "send") and not isabstract(value)
    }
    assert classes == set(REGISTRY.values())


class Connected:
    """One sink, and a receiver that it sends to."""

    def __init__(self, kind: str, receiver: FaultyReceiver) -> None:
        self.receiver = receiver
        patience = PATIENCE_SECONDS
        self.poster = HttpClient(user_agent="t", connect_seconds=patience, read_seconds=patience)
        self.kind = kind
        self.sink = self.at(receiver.url)

    def at(self, url: str) -> Sink:
        made = load_class(self.kind)
        options = made.Options()
        shared: dict[Any, Any] = {}
        if isinstance(options, HttpOptions):
            shared = {(ProcessorClient, options.http()): ProcessorClient(url, self.poster)}
        sink: Sink = made("name", options, shared)
        return sink

    def plan(self, who: Identity = WHO) -> Plan:
        return self.sink.plan(chunk(self.sink.kinds, who))

    @property
    def batch(self) -> Batch:
        return self.plan().batches[0]

    def send(self, tries: int = 1) -> Outcome:
        return self.sink.send(self.batch, WHO, tries)


@pytest.fixture(params=SINKS)
def connected(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connected]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as receiver:
        yield Connected(request.param, receiver)


def test_a_sink_has_the_name_that_it_is_given(connected: Connected) -> None:
    assert connected.sink.name == "name"


def test_a_plan_finds_a_place_for_every_record(connected: Connected) -> None:
    plan = connected.plan()
    assert plan.batches
    places = Counter(
        [seq for batch in plan.batches for seq in batch.seqs]
        + list(plan.pending)
        + [rejected.stored.seq for rejected in plan.rejected]
        + [skipped.seq for skipped in plan.skipped]
    )
    assert places == Counter(one.seq for one in chunk(connected.sink.kinds).records)


def test_a_plan_is_pure(connected: Connected) -> None:
    assert connected.plan() == connected.plan()
    assert connected.receiver.seen == []


def test_the_batches_of_a_plan_are_in_order_and_say_what_is_in_them(connected: Connected) -> None:
    batches = connected.plan().batches
    assert [p.first for p in batches] == sorted(p.first for p in batches)
    for batch in batches:
        assert (batch.first, batch.last) == (batch.seqs[0], batch.seqs[-1])
        assert list(batch.seqs) == sorted(batch.seqs)
        assert isinstance(batch.run, str)


def test_halves_are_the_whole(connected: Connected) -> None:
    for batch in connected.plan().batches:
        if batch.split is not None:
            one, other = batch.split()
            assert one.seqs + other.seqs == batch.seqs


@posting
@pytest.mark.promise("G4")
def test_delivered_is_what_the_receiver_said(connected: Connected) -> None:
    assert connected.send().disposition is Disposition.DELIVERED
    (seen,) = connected.receiver.seen
    assert seen.processed
    assert seen.status == 200


@posting
@pytest.mark.promise("G5")
def test_a_repetition_is_the_same_request_with_the_same_header(connected: Connected) -> None:
    batch = connected.batch
    for tries in (1, 2):
        connected.sink.send(batch, WHO, tries)
    one, other = connected.receiver.seen
    assert one.raw == other.raw
    header = f"{WHO.spool}/{connected.sink.name}/{batch.first}-{batch.last}"
    names = [{k.lower(): v for k, v in seen.headers.items()} for seen in (one, other)]
    assert [name["lens-ship-records"] for name in names] == [header, header]


def envelope(code: int, message: str) -> dict[str, Any]:
    return {"meta": {"code": code, "message": message}, "data": None, "tracing": None}


FAULTS: dict[str, Behaviour] = {
    "reset": Reset(),
    "reset, processed": Reset(processed=True),
    "eof": Eof(),
    "eof, processed": Eof(processed=True),
    "no answer": Hang(),
    "half an answer": HalfAnswer(),
    "garbage": Garbage(),
    "no bytes of http": Garbage(data=b""),
    "half a head": Garbage(data=b"HTTP/1.1 200 OK\r\nContent-Le"),
    "wrong length": Garbage(data=b"HTTP/1.1 200 OK\r\nContent-Length: -7\r\n\r\n"),
    "wrong chunks": Garbage(data=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "wrong gzip": Answer(status=200, body=b"x", headers=(("Content-Encoding", "gzip"),)),
    "a page": not_json(),
    "another code": other_code(5000),
    "nothing": Answer(status=200),
    "not utf-8": Answer(status=200, body=b"\xff\xfe\x00"),
    "redirect": redirect("http://127.0.0.1:9/"),
    "created": Answer(status=201),
    "bad request": Answer(status=400, body=envelope(400, "invalid request format")),
    "unknown workload": Answer(status=400, body=envelope(400, "no valid workload found")),
    "odd request": Answer(status=400, body=b"\x80"),
    "unauthorized": Answer(status=401),
    "forbidden": Answer(status=403),
    "not found": Answer(status=404, body="404 page not found"),
    "too large": Answer(status=413),
    "slow down": Answer(status=429, headers=(("Retry-After", "Mon, 99 Foo 99999999999999"),)),
    "failed": Answer(status=500, body=envelope(500, "failed to process metrics")),
    "panic": Answer(status=500),
    "bad gateway": Answer(status=502, body="<html>"),
    "away": Answer(status=503),
    "odd status": Answer(status=599),
}


@posting
@pytest.mark.promise("G4")
@pytest.mark.promise("G6")
@pytest.mark.parametrize("fault", sorted(FAULTS))
@pytest.mark.parametrize("tries", [1, 3])
def test_nothing_but_a_success_is_delivered_and_nothing_escapes(
    connected: Connected, fault: str, tries: int
) -> None:
    connected.receiver.otherwise = FAULTS[fault]
    if fault == "no answer":
        connected.poster.read_seconds = 0.3
    outcome = connected.send(tries=tries)
    assert outcome.disposition in (Disposition.RETRY, Disposition.SPLIT)
    assert outcome.reason
    assert outcome.detail
    assert outcome.scope in ("sink", "workload")


@posting
@pytest.mark.promise("G6")
def test_a_refusal_of_the_identity_is_for_good(connected: Connected) -> None:
    nobody = identity()
    batch = connected.plan(nobody).batches[0]
    outcome = connected.sink.send(batch, nobody, 1)
    assert (outcome.disposition, outcome.reason) == (Disposition.PERMANENT, "no-identity")


@posting
def test_nobody_there_holds_up_the_sink_and_keeps_everything(connected: Connected) -> None:
    connected.receiver.go_away()
    outcome = connected.send()
    assert (outcome.disposition, outcome.scope) == (Disposition.RETRY, "sink")


@posting
@pytest.mark.parametrize("url", ["", "http://[", "nonsense", "http://a..b/v1", "ftp://host/v1"])
def test_an_impossible_address_is_an_outcome_too(connected: Connected, url: str) -> None:
    outcome = connected.at(url).send(connected.batch, WHO, 1)
    assert outcome.disposition is Disposition.RETRY
    recorded = identity(workload_uid="w", api_base_url=url)
    assert connected.at("").send(connected.batch, recorded, 1).disposition is Disposition.RETRY


def test_every_file_of_the_commands_is_registered() -> None:
    folder = Path(shipper.cli.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "options", "render"}
    registered = {place.split(":")[0].rpartition(".")[2] for place in COMMANDS.values()}
    assert files == registered
