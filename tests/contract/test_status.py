"""`lens-ship status` agrees with the audit and with the service, and so does its exit code."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.ledger import service_status, totals
from shipper.ledger.ledger import CommitDelta, Ledger, Position
from shipper.service import ship_once
from shipper.sinks import DEFAULT
from shipper.sinks.processor.classify import BAD_REQUEST
from shipper.status.collect import StatusCollector
from shipper.status.model import Status
from shipper.status.summary import summarize
from spooler.spool import format as fmt
from tests.kit import spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Normal
from tests.kit.running import failing, ship_until
from tests.kit.shipping import Record, config, detection, goodbye, spool, step


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


def gap(reason: str, count: int) -> Record:
    return "gap", {"time": 1.0, "reason": reason, "count": count, "first": 1.0, "last": 2.0}


MIXED: list[Record] = [
    detection(),
    *(step(n, run="ab"[n % 2]) for n in range(10)),
    step(2**40),  # nobody can take this one
    ("mystery", {"time": 1.0}),
    step(11, loss=None),  # nothing to send
    gap("disk-full", 7),
    step(12, run="a", loss=1.5, broken=float("nan")),
    goodbye(),
]


def settings(tmp_path: Path, receiver: FaultyReceiver, **more: Any) -> Config:
    return config(tmp_path, processor_url=receiver.url, batch_max_steps=4, **more)


def ship(tmp_path: Path, receiver: FaultyReceiver, **more: Any) -> None:
    ship_once(settings(tmp_path, receiver, **more), timeout=spools.PATIENCE_SECONDS)


def collect(tmp_path: Path) -> Status:
    with StatusCollector(config(tmp_path)) as collector:
        return collector.collect()


def agree(tmp_path: Path) -> Status:
    """Compare the status with the audit, which reads every record."""
    status = collect(tmp_path)
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        accounts = run_audit(ledger, tmp_path / "spool", DEFAULT)
    ways = {(s.spool, way.sink): (s, way) for s in status.spools for way in s.sinks}
    for account in accounts:
        seen, way = ways[account.spool, account.sink]
        assert (
            seen.written,
            way.delivered,
            way.skipped,
            way.pending,
            way.corrupt,
            way.dropped,
            dict(seen.producer_dropped),
        ) == (
            account.written,
            account.delivered,
            account.skipped,
            account.pending,
            account.corrupt,
            sum(account.dropped_by_policy.values()),
            dict(account.dropped_by_producer),
        ), account
    return status


def test_it_agrees_with_the_audit_when_all_is_settled(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    spool(tmp_path / "spool", MIXED)
    ship(tmp_path, receiver)
    status = agree(tmp_path)
    sink = status.sinks[0]
    assert sink.dead_letters == {"unsendable": 1}
    # Ten steps and the last, which also tells of the gap.
    assert (sink.values, sink.nonfinite_values, sink.skipped_values) == (12, 1, 1)
    assert status.producer_dropped == {"disk-full": 7}
    assert sink.newest == sink.newest_acknowledged == status.spools[0].newest


@pytest.mark.parametrize("answered", range(6))
def test_it_agrees_with_the_audit_wherever_delivery_stops(
    tmp_path: Path, receiver: FaultyReceiver, answered: int
) -> None:
    receiver.then(*[Normal()] * answered)
    receiver.otherwise = Answer(status=503)
    for salt in (1, 2):
        who = spools.identity(spools.spool_id(salt), workload_uid=f"w{salt}")
        spool(tmp_path / "spool", MIXED, who=who, segment_records=3)
    ship_until(settings(tmp_path, receiver), failing)
    status = agree(tmp_path)
    assert status.pending > 0
    assert status.oldest is not None
    assert status.sinks[0].pending_bytes > 0


def test_it_agrees_with_the_audit_about_damage(tmp_path: Path, receiver: FaultyReceiver) -> None:
    directory, _ = spool(tmp_path / "spool", [step(n) for n in range(30)], segment_records=5)
    middle = directory / fmt.segment_name(3)
    middle.write_bytes(b"\0" * middle.stat().st_size)
    ship(tmp_path, receiver)
    status = agree(tmp_path)
    assert status.sinks[0].dropped["corrupt"] > 0


def test_before_any_service_everything_is_pending(tmp_path: Path) -> None:
    directory, _ = spool(tmp_path / "spool", [step(n) for n in range(5)])
    status = collect(tmp_path)
    assert [way.pending for way in status.spools[0].sinks] == [5] * len(DEFAULT)
    assert status.spools[0].directory == str(directory)
    assert not (tmp_path / "state").exists(), "status creates nothing"


def test_status_changes_no_file_of_a_spool(tmp_path: Path, receiver: FaultyReceiver) -> None:
    receiver.otherwise = Answer(status=503)
    spool(tmp_path / "spool", [step(n) for n in range(30)], segment_records=5)
    ship_until(settings(tmp_path, receiver), failing)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "spool").rglob("*")}
    collect(tmp_path)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "spool").rglob("*")}
    assert after == before


def test_a_spool_with_reporting_disabled_has_no_backlog(tmp_path: Path) -> None:
    who = spools.identity(workload_uid="w", api_reporting=False)
    spool(tmp_path / "spool", [step(1)], who=who)
    (seen,) = collect(tmp_path).spools
    assert (seen.state, seen.pending, seen.written) == ("disabled", 0, 1)


def test_a_sink_that_is_no_longer_configured_is_not_part_of_the_backlog(tmp_path: Path) -> None:
    directory, _ = spool(tmp_path / "spool", [step(n) for n in range(5)])
    with closing(Ledger(tmp_path / "state")) as ledger:
        ledger.remember_spool(directory.name, directory, {})
        ledger.acknowledge(directory.name, "archive", Position(seq=2), CommitDelta(delivered=2))
        ledger.acknowledge(directory.name, "processor~1", Position(seq=1), CommitDelta(delivered=1))
        for name in DEFAULT:
            ledger.acknowledge(directory.name, name, Position(seq=5), CommitDelta(delivered=5))
    found = collect(tmp_path)
    assert (found.pending, found.unconfigured) == (0, {"archive": 3})
    assert summarize(found).also == ("Sink archive is not configured: 3 records unsent",)


def test_no_sum_shrinks_when_a_spool_is_forgotten(tmp_path: Path, receiver: FaultyReceiver) -> None:
    spool(tmp_path / "spool", MIXED)
    ship(tmp_path, receiver, save_local=False)
    with closing(Ledger(tmp_path / "state")) as ledger:
        before = totals.read_totals(ledger)
        assert before.settled["processor", "delivered"] == 12
        assert ledger.spools()[0]["deleted"]
        ledger.prune(before=2**40)
        assert ledger.positions() == ledger.gaps() == []
        assert totals.read_totals(ledger) == before


# --- the command ----------------------------------------------------------------------------------


def status(tmp_path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = lens_ship(
        "status",
        "--json",
        *words,
        LENS_SHIP_SPOOL=str(tmp_path / "spool"),
        LENS_SHIP_STATE=str(tmp_path / "state"),
    )
    assert done.err == ""
    return done.code, json.loads(done.out)


def test_with_an_empty_root_it_says_so_and_exits_0(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    code, told = status(tmp_path)
    assert (code, told["status"]["level"], told["running"]) == (0, "healthy", False)
    assert "no service has run yet" in told["status"]["headline"]


def test_records_without_a_service_require_action(tmp_path: Path) -> None:
    spool(tmp_path / "spool", [step(1)])
    code, told = status(tmp_path)
    assert (code, told["pending"]) == (1, 1)
    assert "Start it with lens-ship run" in told["status"]["headline"]


def test_dead_letters_require_action_until_retried_or_discarded(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    spool(tmp_path / "spool", [step(2**40), step(1)])
    ship(tmp_path, receiver)
    code, told = status(tmp_path)
    assert (code, told["dead_letters"], told["sinks"][0]["dead_letters"]) == (
        1,
        1,
        {"unsendable": 1},
    )
    assert status(tmp_path, "--max-dead-letters", "1")[0] == 0
    done = lens_ship("dead-letter", "drop", "1", "--yes", "--state", str(tmp_path / "state"))
    assert done.code == 0, done.err
    code, told = status(tmp_path)
    assert (code, told["dead_letters"], told["sinks"][0]["dead_letters_discarded"]) == (0, 0, 1)
    assert told["sinks"][0]["rejected"] == {"unsendable": 1}


def test_a_spool_that_cannot_be_read_requires_action(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory, _ = spool(tmp_path / "spool", [step(1)])
    ship(tmp_path, receiver)
    assert status(tmp_path)[0] == 0
    (directory / fmt.segment_name(1)).write_bytes(b"not a database" * 100)
    code, told = status(tmp_path)
    assert (code, told["spools"][0]["state"]) == (1, "unreadable")
    assert fmt.segment_name(1) in told["status"]["headline"]


def test_one_spool_can_be_asked_for_alone(tmp_path: Path) -> None:
    for salt in (1, 2):
        spool(tmp_path / "spool", [step(1)], who=spools.identity(spools.spool_id(salt)))
    wanted = spools.spool_id(2)
    assert [one["spool"] for one in status(tmp_path, "--spool-id", wanted)[1]["spools"]] == [wanted]
    flags = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    nobody = lens_ship("status", "--spool-id", "none", *flags)
    assert (nobody.code, nobody.out) == (2, "")
    assert "has an id with this prefix: none" in nobody.err


@pytest.fixture
def running(tmp_path: Path, receiver: FaultyReceiver) -> Iterator[subprocess.Popen[str]]:
    """A service whose receiver refuses its token."""
    receiver.otherwise = Answer(status=401, body="invalid token")
    spool(tmp_path / "spool", [step(n) for n in range(9)])
    process = start_lens_ship(
        "run",
        "--processor-url",
        receiver.url,
        LENS_SHIP_SPOOL=str(tmp_path / "spool"),
        LENS_SHIP_STATE=str(tmp_path / "state"),
    )
    yield process
    process.kill()
    process.communicate()


def watched(tmp_path: Path, until: Any) -> dict[str, Any]:
    """Look again and again, as `--watch` does, until something is so."""
    process = start_lens_ship(
        "status",
        "--json",
        "--watch",
        "0.2",
        stdout=subprocess.PIPE,
        LENS_SHIP_SPOOL=str(tmp_path / "spool"),
        LENS_SHIP_STATE=str(tmp_path / "state"),
    )
    assert process.stdout is not None
    patience = threading.Timer(spools.PATIENCE_SECONDS, process.kill)
    patience.start()
    try:
        for line in process.stdout:
            told: dict[str, Any] = json.loads(line)
            if until(told):
                return told
        raise AssertionError(process.communicate())
    finally:
        patience.cancel()
        process.kill()
        process.communicate()


def test_it_shows_the_outage_of_a_running_service_and_its_begin(
    tmp_path: Path, running: subprocess.Popen[str]
) -> None:
    told = watched(
        tmp_path, lambda told: any(sink["outages"] for sink in told["sinks"]) and told["heartbeat"]
    )
    assert told["running"]
    assert told["heartbeat"]["pid"] == running.pid
    trouble = told["sinks"][0]["outages"][0]
    assert (trouble["reason"], trouble["action_required"], trouble["until"]) == (
        "not-allowed",
        True,
        None,
    )
    assert "invalid token" in trouble["detail"]
    assert told["status"]["headline"].startswith("9 records pending. Processor rejects the token")
    code, told = status(tmp_path)
    assert code == 1
    running.kill()
    running.wait()
    code, told = status(tmp_path)
    assert (code, told["running"]) == (1, False)
    assert "exited uncleanly at" in told["status"]["headline"]


def test_a_service_that_was_stopped_is_shown_as_stopped(
    tmp_path: Path, receiver: FaultyReceiver, running: subprocess.Popen[str]
) -> None:
    watched(tmp_path, lambda told: told["heartbeat"])
    running.terminate()
    assert running.wait(spools.PATIENCE_SECONDS) == 0
    code, told = status(tmp_path)
    assert (code, told["running"]) == (1, False)
    assert told["heartbeat"]["stopped"] > 0
    assert "It was stopped at" in told["status"]["headline"]


def test_an_outage_that_is_over_is_ended_by_the_next_service(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    receiver.otherwise = Answer(status=401)
    spool(tmp_path / "spool", [step(1)])
    ship_until(settings(tmp_path, receiver), failing)
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert service_status.outages(ledger)[0].until is None
    receiver.otherwise = Normal()
    ship(tmp_path, receiver)
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        (trouble,) = service_status.outages(ledger)
    assert trouble.until is not None
    assert trouble.reason == "not-allowed"


def test_the_outage_of_a_workload_is_over_when_nothing_of_it_is_pending(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """Once, it was told as present until the next start, though all was refused and kept."""
    receiver.then(Answer(status=500))
    meta = {"code": 4001, "message": BAD_REQUEST}
    receiver.otherwise = Answer(status=400, body=json.dumps({"meta": meta, "data": None}))
    spool(tmp_path / "spool", [step(1), goodbye()])
    ship(tmp_path, receiver)
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert sum(1 for _ in ledger.dead_letters()) == 1
        told = service_status.outages(ledger)
    assert [(one.workload != "", one.until is not None) for one in told] == [(True, True)]


def test_a_spool_that_a_service_leaves_alone_requires_action(tmp_path: Path) -> None:
    """Whatever the reason: the spool is readable, and no sink has a failure."""
    directory, _ = spool(tmp_path / "spool", [step(1), goodbye()])  # its records are years old
    now = time.time()
    with closing(Ledger(tmp_path / "state")) as ledger:
        beat = service_status.Heartbeat(pid=1, version="1", started=now - 7200, beat=now)
        service_status.write_heartbeat(ledger, beat)
        assert status(tmp_path)[0] == 0, "its files are new"
        os.utime(directory, (now - 7200, now - 7200))
        code, shown = status(tmp_path)
        assert (code, shown["status"]["level"]) == (1, "action_required")
        assert "not shipped although the service runs" in shown["status"]["headline"]
        ledger.remember_spool(directory.name, directory, {})
        for sink in DEFAULT:  # one that is slow has a turn now and then
            ledger.acknowledge(directory.name, sink, Position(seq=1), CommitDelta(delivered=1))
        assert status(tmp_path)[0] == 0


def test_status_does_not_keep_a_service_from_starting(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path / "state")):
        assert service_status.is_running(tmp_path / "state")
    assert not service_status.is_running(tmp_path / "state")
    assert not service_status.is_running(tmp_path / "nowhere")


def test_status_loads_no_network_library(tmp_path: Path) -> None:
    heavy = {"requests", "urllib3", "grpc", "tenacity", "watchdog", "prometheus_client"}
    code = (
        "import sys, json; from shipper.cli import cli\n"
        "try: cli(['status', '--json', '--spool', sys.argv[1], '--state', sys.argv[2]])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(name.partition('.')[0] for name in sys.modules)))"
    )
    loaded = set(spools.answer(spools.python(code, tmp_path / "spool", tmp_path / "state")))
    assert loaded & heavy == set()


def test_a_spool_whose_directory_is_gone_is_not_listed(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory, _ = spool(tmp_path / "spool", [step(1)])
    ship(tmp_path, receiver)
    shutil.rmtree(directory)
    status = collect(tmp_path)
    assert status.spools == ()
    assert status.sinks[0].delivered == 1


def test_runs_of_separate_processes_that_share_rows_are_reported_unless_no_sink_has_such_rows(
    tmp_path: Path,
) -> None:
    for number, run in enumerate("ab"):
        name = spools.spool_id(number)
        who = spools.identity(name, workload_uid="w", created=100.0 * number)
        spool(tmp_path / "spool", [step(0, run=run), step(1, run=run), goodbye()], who=who)
    status = collect(tmp_path)
    (shared,) = status.to_map()["shared_names"]
    assert (shared["earlier"], shared["later"]) == ("a", "b")
    (text,) = [line for line in summarize(status).also if line.startswith("Workload w:")]
    assert "run b writes the same names as run a (loss)" in text
    assert "PRIMUS_LENS_RUN_PREFIX=true" in text
    series = config(tmp_path, sinks={"o": {"type": "otlp", "url": "http://127.0.0.1:1"}})
    with StatusCollector(series) as collector:
        assert collector.collect().shared_names == ()
