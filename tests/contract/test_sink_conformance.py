"""Every sink keeps the contract of sinks, against a receiver that fails: one suite for all of them.

A sink of the registry, or of a user, needs a `Peer` here: what its receiver answers.
"""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import threading
import time
from base64 import b64decode
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shipper.config.load import load
from shipper.config.schema import Config
from shipper.delivery import backoff
from shipper.delivery.policy import REFUSALS_IN_A_ROW
from shipper.ledger.ledger import Ledger
from shipper.service import Service, ship_once
from shipper.sinks import REGISTRY, load_class, table_problems
from shipper.sinks.dlrover import encode
from shipper.sinks.options import HttpOptions
from spooler.records import report
from spooler.spool.identity import Identity
from tests.kit import spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.master import wait_for
from tests.kit.running import failing
from tests.kit.shipping import Record, detection, goodbye, spool, step

PLUGIN = "tests.kit.plugin_sink:CollectorSink"
COUNT = 30
TOKEN = "correct"

Reply = tuple[int, bytes]
Headers = Mapping[str, str]


@dataclass(kw_only=True)
class Peer:
    """What one kind of receiver is sent, and what it answers."""

    record: Callable[[int], Record]
    options: Callable[[str], str]  # the lines of [sinks.NAME] for a receiver at HOST:PORT
    who: Callable[[str], dict[str, Any]]  # facts of the identity
    seqs: Callable[[str, Headers, bytes], list[int]]  # records in a request; none: no data
    stored: Callable[[str, bytes], Reply]
    rejected: Reply  # permanently


def processor(record: Callable[[int], Record]) -> Peer:
    return Peer(
        record=record,
        options=lambda at: f'url = "http://{at}/v1"',
        who=lambda at: {},
        seqs=lambda path, headers, body: span(headers.get("lens-ship-records", "")),
        stored=lambda path, body: (200, b'{"meta":{"code":2000},"data":{}}'),
        rejected=(400, b'{"meta":{"code":400,"message":"invalid request format"}}'),
    )


def series(path: str, stored: Reply) -> Peer:
    return Peer(
        record=step,
        options=lambda at: f'url = "http://{at}{path}"\nbatch_max_points = 15',
        who=lambda at: {},
        seqs=lambda path, headers, body: span(headers.get("lens-ship-records", "")),
        stored=lambda path, body: stored,
        rejected=(400, b"invalid label"),
    )


def span(header: str) -> list[int]:
    first, _, last = header.rpartition("/")[2].partition("-")
    return list(range(int(first), int(last) + 1)) if last else []


# --- a training master over HTTP ------------------------------------------------------------------

_KEPT: dict[str, bytes] = {}


def _facts(body: bytes) -> dict[str, Any]:
    return encode.attributes(b64decode(json.loads(body)["data"])) or {}


def _pickled(**values: Any) -> bytes:
    return pickle.dumps(SimpleNamespace(**values), protocol=4)


def _report(number: int) -> Record:
    now = int(time.time())
    metric = {"timestamp": now, "data_type": "TRAINING_LOG", "data_content": f"{number}\n"}
    node = {"node_id": 0, "node_type": "worker", "node_rank": 0}
    flags = {"is_final_result": False, "need_report": False}
    return report.NAME, {"time": float(now), **metric, **node, **flags}


def _reports(path: str, headers: Headers, body: bytes) -> list[int]:
    content = _facts(body).get("data_content")
    return [int(json.loads(content)["data_content"]) + 1] if content else []


def _master(path: str, body: bytes) -> Reply:
    facts = _facts(body)
    if path == "/get":
        kept = _pickled(value=_KEPT.get(facts["key"], b""))
        return 200, _pickled(success=True, data=kept)
    if "key" in facts:
        _KEPT[facts["key"]] = facts["value"]
    return 200, _pickled(success=True)


# --- an MLflow server -----------------------------------------------------------------------------


def _mlflow(path: str, body: bytes) -> Reply:
    run = {"info": {"run_id": "1" * 32}, "data": {}}
    answers = {
        "experiments/search": {"experiments": [{"experiment_id": "1"}]},
        "runs/search": {"runs": [run]},
        "runs/get": {"run": run},
    }
    return 200, json.dumps(answers.get(path.partition("/mlflow/")[2], {})).encode()


PEERS: dict[str, Peer] = {
    "telemetry-processor": processor(step),
    "telemetry-processor-detection": processor(lambda number: detection(f"r{number}")),
    "dlrover": Peer(
        record=_report,
        options=lambda at: f'address = "{at}"\nprotocol = "http"',
        who=lambda at: {"master_addr": at, "master_service": "http"},
        seqs=_reports,
        stored=_master,
        rejected=(200, _pickled(success=False)),
    ),
    "otlp": series("", (200, b"")),
    "prometheus": series("/api/v1/write", (204, b"")),
    "mlflow": Peer(
        record=step,
        options=lambda at: f'url = "http://{at}"\nbatch_max_metrics = 7',
        who=lambda at: {},
        seqs=lambda path, headers, body: span(headers.get("lens-ship-records", "")),
        stored=_mlflow,
        rejected=(400, b'{"error_code":"INVALID_PARAMETER_VALUE","message":"no"}'),
    ),
    PLUGIN: Peer(
        record=step,
        options=lambda at: f'url = "http://{at}/lines"\nbatch_records = 7',
        who=lambda at: {},
        seqs=lambda path, headers, body: span(headers.get("records", "")),
        stored=lambda path, body: (200, b""),
        rejected=(400, b"no"),
    ),
}


def test_every_sink_of_the_registry_has_its_peer() -> None:
    assert PEERS.keys() == REGISTRY.keys() | {PLUGIN}


# --- the receiver ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Seen:
    seqs: list[int]
    stored: bool
    at: float  # monotonic


@dataclass(kw_only=True)
class Receiver:
    """Fails as `script` says, one word for each request with data; then it answers truly."""

    peer: Peer
    script: list[str] = field(default_factory=list)
    bad: Collection[int] = ()  # the seqs that are rejected permanently
    token: str = ""
    refused: int = 0  # requests with another token
    ill: bytes | None = None  # how the first connection answers everything: a bad replica
    on_data: Callable[[int], None] = lambda number: None
    seen: list[Seen] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)

    def judge(self, path: str, headers: Headers, body: bytes) -> Reply | None:
        """The answer; None to close the connection without one."""
        with self.lock:
            seqs = self.peer.seqs(path, headers, body)
            if self.token and headers.get("authorization") != f"Bearer {self.token}":
                self.refused += 1
                return 401, b""
            word = self.script.pop(0) if seqs and self.script else "store"
            rejects = not set(self.bad).isdisjoint(seqs)
            stored = word in ("store", "store, no answer", "hang") and not rejects
            if seqs:
                self.seen.append(Seen(seqs=seqs, stored=stored, at=time.monotonic()))
                self.on_data(len(self.seen))
        if word == "hang":
            self.released.wait(600)
        if word in ("store, no answer", "no answer", "hang"):
            return None
        if word == "busy":
            return 503, b""
        if rejects and seqs:
            return self.peer.rejected
        return self.peer.stored(path, body)

    def arrivals(self) -> list[int]:
        return [seq for one in self.seen if one.stored for seq in one.seqs]


@pytest.fixture(params=PEERS, ids=lambda kind: kind.rpartition(":")[2])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def receiver(kind: str) -> Iterator[tuple[Receiver, str]]:
    """A receiver, and where it listens."""
    _KEPT.clear()
    found = Receiver(peer=PEERS[kind])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            with found.lock:
                self.ill, found.ill = found.ill, None

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.ill is not None:
                self.wfile.write(self.ill)
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = found.judge(self.path, headers, body)
            if reply is None:
                self.close_connection = True
                return
            self.send_response(reply[0])
            self.send_header("Content-Length", str(len(reply[1])))
            if reply[0] == 503:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(reply[1])

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found, f"127.0.0.1:{server.server_address[1]}"
    found.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "ALARM_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.05)


def write(folder: Path, at: str, kind: str, *more: str) -> Path:
    """The spool of a process that has ended, and a file that configures one sink of this kind."""
    peer = PEERS[kind]
    who: Identity = spools.identity(workload_uid="w", **peer.who(at))
    spool(folder / "spool", [*map(peer.record, range(COUNT)), goodbye()], who=who)
    file = folder / "lens.toml"
    options = "\n".join([peer.options(at), *more])
    file.write_text(f'[sinks.one]\ntype = "{kind}"\n{options}\n')
    return file


def settings(folder: Path, file: Path) -> Config:
    given = {"spool": folder / "spool", "state": folder / "state", "http_listen": "off"}
    return load(given, {}, file, sends=True, check_sinks=table_problems)


def dead(folder: Path) -> list[int]:
    with closing(Ledger(folder / "state", exclusive=False)) as ledger:
        return [row["seq"] for row in ledger.dead_letters()]


# --- the contract ---------------------------------------------------------------------------------


@pytest.mark.promise("G3")
@pytest.mark.promise("G4")
def test_nothing_is_lost_and_order_is_kept_whatever_fails(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    found, at = receiver
    found.script = ["no answer", "store, no answer", "busy", "store", "no answer"]
    assert ship_once(settings(tmp_path, write(tmp_path, at, kind)), timeout=60) == []
    arrived = list(dict.fromkeys(found.arrivals()))
    assert arrived == list(range(1, COUNT + 1))
    assert dead(tmp_path) == []


@pytest.mark.promise("G4")
@pytest.mark.parametrize("number", [1, 2])
def test_a_kill_repeats_at_most_one_request(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str], number: int
) -> None:
    found, at = receiver
    file = write(tmp_path, at, kind)
    words = ("run", "--once", "--timeout", "60", "--config", str(file), "--http-listen", "off")
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    ready = threading.Event()

    def kill(count: int) -> None:
        if count == number:
            ready.wait(spools.PATIENCE_SECONDS)
            process.send_signal(signal.SIGKILL)
            process.wait(spools.PATIENCE_SECONDS)

    found.on_data = kill
    process = start_lens_ship(*words, *places, stderr=subprocess.DEVNULL)
    ready.set()
    assert process.wait(spools.PATIENCE_SECONDS) in (0, -signal.SIGKILL)
    killed = process.returncode != 0
    found.on_data = lambda count: None
    assert ship_once(settings(tmp_path, file), timeout=60) == []
    times = Counter(found.arrivals())
    assert set(times) == set(range(1, COUNT + 1))
    twice = {seq for seq, count in times.items() if count > 1}
    at_the_kill = set(found.seen[number - 1].seqs) if killed else set()
    assert twice <= at_the_kill
    assert max(times.values()) <= 2


@pytest.mark.promise("G6")
def test_what_is_rejected_permanently_is_a_dead_letter_and_the_rest_arrives(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    found, at = receiver
    found.bad = [11]
    assert ship_once(settings(tmp_path, write(tmp_path, at, kind)), timeout=60) == []
    assert dead(tmp_path) == [11]
    assert set(found.arrivals()) == set(range(1, COUNT + 1)) - {11}


@pytest.mark.promise("G15")
def test_a_record_that_is_rejected_costs_no_pause_each(
    tmp_path: Path,
    kind: str,
    receiver: tuple[Receiver, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, at = receiver
    found.bad = range(11, 20)
    for name in ("FIRST_SECONDS", "ALARM_FIRST_SECONDS", "CAP_SECONDS"):
        monkeypatch.setattr(backoff, name, 0.05)
    pauses: list[float] = []

    def drawn(low: float, high: float) -> float:
        pauses.append(high)
        return high

    monkeypatch.setattr("random.uniform", drawn)
    assert ship_once(settings(tmp_path, write(tmp_path, at, kind)), timeout=60) == []
    assert len(pauses) < 6  # a few, whether it is the receiver's fault
    assert dead(tmp_path) == list(found.bad)


@pytest.mark.promise("G6")
def test_a_receiver_that_rejects_everything_pauses_the_sink(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    found, at = receiver
    found.bad = range(1, COUNT + 1)
    file = write(tmp_path, at, kind)
    service = Service(settings(tmp_path, file))
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_for(lambda: "all-refused: " in failing(service), "nothing is paused")
        rejected = dead(tmp_path)
        assert len(rejected) <= REFUSALS_IN_A_ROW
        found.bad = ()
        wait_for(lambda: len(set(found.arrivals())) == COUNT - len(rejected), "it does not resume")
    finally:
        service.stop()
        thread.join(60)
    assert dead(tmp_path) == rejected
    assert set(found.arrivals()) == set(range(1, COUNT + 1)) - set(rejected)


def test_a_receiver_that_asks_to_wait_is_not_asked_sooner(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    found, at = receiver
    found.script = ["busy"]
    assert ship_once(settings(tmp_path, write(tmp_path, at, kind)), timeout=60) == []
    first, second = found.seen[:2]
    assert second.at - first.at >= 1.0
    assert set(found.arrivals()) == set(range(1, COUNT + 1))


@pytest.mark.promise("G4")
@pytest.mark.parametrize("answer", ["503 Busy", "429 Busy", "404 No", "500 No", "200 OK", "103 Hi"])
def test_a_kept_connection_to_a_bad_replica_is_left_for_another_one(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str], answer: str
) -> None:
    found, at = receiver
    body = b"" if answer.startswith("1") else b"<html>"
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    found.ill = f"HTTP/1.1 {answer}\r\n{length}\r\n".encode() + body
    if answer == "200 OK" and kind == PLUGIN:
        pytest.skip("its receiver has no form that a stranger's answer lacks")
    file = write(tmp_path, at, kind, "read_timeout = 1.0")
    assert ship_once(settings(tmp_path, file), timeout=60) == []
    assert set(found.arrivals()) == set(range(1, COUNT + 1))


def test_a_credential_that_is_replaced_is_used_without_a_restart(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    if not issubclass(load_class(kind).Options, HttpOptions):
        pytest.skip("its receiver knows no credentials")
    found, at = receiver
    found.token = TOKEN
    token = tmp_path / "token"
    token.write_text("wrong")
    file = write(tmp_path, at, kind, f'token_file = "{token}"')
    service = Service(settings(tmp_path, file))
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_for(lambda: found.refused, "nothing is sent")
        token.write_text(TOKEN)
        wait_for(lambda: len(set(found.arrivals())) == COUNT, "the new one is not used")
    finally:
        service.stop()
        thread.join(60)


@pytest.mark.promise("G4")
def test_a_stop_ends_in_time_and_loses_nothing(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    found, at = receiver
    found.script = ["hang"]
    # It would wait longer for an answer than is waited for it here.
    file = write(tmp_path, at, kind, "read_timeout = 600")
    words = ("run", "--config", str(file), "--http-listen", "off")
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    process = start_lens_ship(*words, *places, stderr=subprocess.DEVNULL)
    wait_for(lambda: found.seen, "nothing is sent")
    process.terminate()
    process.wait(spools.PATIENCE_SECONDS)
    assert not found.released.is_set()
    found.released.set()
    assert ship_once(settings(tmp_path, file), timeout=60) == []
    assert set(found.arrivals()) == set(range(1, COUNT + 1))


@pytest.mark.promise("G13")
def test_a_replay_sends_what_the_sink_carries_once_more(
    tmp_path: Path, kind: str, receiver: tuple[Receiver, str]
) -> None:
    found, at = receiver
    file = write(tmp_path, at, kind)
    assert ship_once(settings(tmp_path, file), timeout=60) == []
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    words = ("replay", "--resend-delivered", "--sink", "one", "--config", str(file))
    done = lens_ship(*words, *places)
    assert done.code == 0, done
    assert Counter(found.arrivals()) == dict.fromkeys(range(1, COUNT + 1), 2)
    audit = lens_ship("audit", "--config", str(file), *places)
    assert audit.code == 0, audit
