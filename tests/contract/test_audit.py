"""Every record is accounted for, whatever became of it; a record that is lost is missed."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from shipper.sinks import DEFAULT
from shipper.sinks.processor.classify import BAD_REQUEST
from spooler.records import gap as gap_record
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.layout import unlink_segment
from spooler.spool.reader import Reader
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Normal
from tests.kit.processor import queries
from tests.kit.running import failing, ship_until
from tests.kit.shipping import Record, config, detection, goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS

pytestmark = pytest.mark.promise("G17")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


def accounts(tmp_path: Path) -> dict[str, Account]:
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        taken = run_audit(ledger, tmp_path / "spool", DEFAULT)
    return {account.sink: account for account in taken}


def settings(tmp_path: Path, receiver: FaultyReceiver) -> Config:
    return config(tmp_path, processor_url=receiver.url, batch_max_steps=4)


def ship(tmp_path: Path, receiver: FaultyReceiver) -> None:
    ship_once(settings(tmp_path, receiver), timeout=PATIENCE_SECONDS)


def gap(reason: str, count: int) -> Record:
    body = {"time": 1.0, "reason": reason, "count": count, "first": 1.0, "last": 2.0}
    return "gap", body


MIXED: list[Record] = [
    detection(),
    *(step(n, run="ab"[n % 2]) for n in range(10)),
    step(2**40),  # nobody can take this one
    ("mystery", {"time": 1.0}),
    step(11, loss=None),  # nothing to send
    gap("disk-full", 7),
    step(12, run="a"),
    goodbye(),
]


def test_everything_delivered_refused_or_of_no_use_adds_up(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    spool(tmp_path / "spool", MIXED)
    ship(tmp_path, receiver)
    steps = accounts(tmp_path)["processor"]
    assert (steps.written, steps.delivered, steps.dead_letters, steps.pending) == (
        len(MIXED),
        12,
        1,
        0,
    )
    assert steps.dropped_by_producer == {"disk-full": 7}
    assert steps.balances
    evidence = accounts(tmp_path)["processor-detection"]
    assert (evidence.delivered, evidence.skipped) == (1, len(MIXED) - 1)
    assert evidence.balances


def test_a_gap_is_told_with_the_step_that_follows(tmp_path: Path, receiver: FaultyReceiver) -> None:
    spool(tmp_path / "spool", MIXED)
    ship(tmp_path, receiver)
    assert arrived(receiver.store, "w").steps[12] == {
        "loss": 12.5,
        "lens-ship/dropped/disk-full": 7,
    }


@pytest.mark.parametrize("answered", range(6))
def test_it_adds_up_wherever_delivery_stops(
    tmp_path: Path, receiver: FaultyReceiver, answered: int
) -> None:
    spool(tmp_path / "spool", MIXED)
    receiver.otherwise = Answer(status=401)
    for _ in range(answered):
        receiver.then(Answer(status=200, body={"meta": {"code": 2000}, "data": {}}))
    ship_until(settings(tmp_path, receiver), failing)
    for account in accounts(tmp_path).values():
        assert account.balances, account
        if account.sink != "master":  # none of these records is for it
            assert account.delivered + account.pending > 0
    receiver.otherwise = Normal()
    ship(tmp_path, receiver)
    assert all(account.pending == 0 and account.balances for account in accounts(tmp_path).values())


def test_what_a_receiver_said_is_shown_as_it_is(tmp_path: Path, receiver: FaultyReceiver) -> None:
    """Not as markup of the library that draws the tables."""
    words = "[bold]no[/nothing]:smile:"
    meta = {"code": 4001, "message": BAD_REQUEST}
    receiver.otherwise = Answer(status=400, body={"data": words, "meta": meta})
    spool(tmp_path / "spool", [step(1), gap("[/odd]", 2)])
    ship(tmp_path, receiver)
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))

    listed, audited = lens_ship("dead-letter", "list", *places[2:]), lens_ship("audit", *places)

    assert words in "".join(listed.out.split())
    assert "1 dead letter\n" in listed.out
    assert "dropped by producer: 2 [/odd]" in audited.out
    assert (listed.code, audited.code, listed.err, audited.err) == (0, 0, "", "")


def test_a_dead_letter_that_is_not_there_is_named(tmp_path: Path, receiver: FaultyReceiver) -> None:
    spool(tmp_path / "spool", [step(1)])
    ship(tmp_path, receiver)
    state = ("--state", str(tmp_path / "state"))

    for command in (("show", "17"), ("retry", "17"), ("drop", "--yes", "17")):
        done = lens_ship("dead-letter", *command, *state)
        assert (done.code, done.out) == (2, "")
        assert "no dead letter 17" in done.err


def test_a_damaged_record_is_counted_as_corrupt(tmp_path: Path, receiver: FaultyReceiver) -> None:
    directory, _ = spool(tmp_path / "spool", MIXED)
    with closing(sqlite3.connect(directory / "00000001.sqlite")) as segment:
        segment.execute("UPDATE record SET checksum = checksum + 1 WHERE seq = 4")
        segment.commit()
    ship(tmp_path, receiver)
    found = accounts(tmp_path)
    assert all(account.balances for account in found.values())
    # A sink that takes no steps skips the record without reading its body.
    assert {sink: one.corrupt for sink, one in found.items()} == {
        "processor": 1,
        "processor-detection": 0,
        "master": 0,
    }


def test_a_spool_nobody_has_read_yet_is_pending(tmp_path: Path, receiver: FaultyReceiver) -> None:
    ship(tmp_path, receiver)
    spool(tmp_path / "spool", MIXED)
    account = accounts(tmp_path)["processor"]
    assert (account.pending, account.balances) == (len(MIXED), True)


def test_records_that_vanish_undelivered_are_missed(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory, _ = spool(tmp_path / "spool", MIXED)
    receiver.otherwise = Answer(status=401)
    ship_until(settings(tmp_path, receiver), failing)
    with closing(sqlite3.connect(directory / "00000001.sqlite")) as segment:
        segment.execute("DELETE FROM record WHERE seq IN (8, 9)")
        segment.commit()
    account = accounts(tmp_path)["processor"]
    assert (account.unaccounted, account.balances) == (2, False)


def test_an_acknowledgement_too_many_is_noticed(tmp_path: Path, receiver: FaultyReceiver) -> None:
    spool(tmp_path / "spool", MIXED)
    ship(tmp_path, receiver)
    with closing(sqlite3.connect(tmp_path / "state" / "ledger.sqlite")) as ledger:
        ledger.execute("UPDATE position SET delivered = delivered - 1 WHERE sink = 'processor'")
        ledger.commit()
    account = accounts(tmp_path)["processor"]
    assert (account.difference, account.balances) == (1, False)
    assert queries.requests(receiver.store), "the receiver did get them"


@pytest.mark.parametrize("moment", ["last_seq", "count_after", "first_seq", "gaps"])
def test_what_a_writer_deletes_at_one_moment_of_each_count_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    directory, writer = spool(
        tmp_path / "spool", [step(n) for n in range(300)], close=False, segment_records=10
    )
    look, number = getattr(Reader, moment), itertools.count(1)

    def told_and_gone(reader: Reader, *args: int) -> object:
        oldest = next(number)
        if oldest < 30:
            bounds = {"first_seq": 10 * oldest - 9, "last_seq": 10 * oldest}
            body = gap_record.encode(
                time=1.0, reason="cap", count=10, first=1.0, last=2.0, **bounds
            )
            writer.append("gap", codec.pack(body))
            unlink_segment(directory / fmt.segment_name(oldest))
        return look(reader, *args)

    monkeypatch.setattr(Reader, moment, told_and_gone)
    with closing(Ledger(tmp_path / "state")) as ledger:
        for account in run_audit(ledger, tmp_path / "spool", DEFAULT):
            assert account.balances, account
    writer.close()


def test_what_the_service_drops_while_the_account_is_taken_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One segment during every count, for longer than a few counts take."""
    directory, writer = spool(
        tmp_path / "spool", [step(n) for n in range(300)], close=False, segment_records=10
    )
    ledger = Ledger(tmp_path / "state")
    ledger.remember_spool(directory.name, directory, Reader(directory).identity().to_map())
    count, number = Reader.count_after, itertools.count(1)

    def dropped_and_gone(reader: Reader, seq: int) -> int:
        oldest = next(number)
        if oldest < 30:
            for sink in DEFAULT:
                ledger.drop_through(
                    directory.name, sink, 10 * oldest, path=str(directory), why="root-cap"
                )
            unlink_segment(directory / fmt.segment_name(oldest))
        return count(reader, seq)

    monkeypatch.setattr(Reader, "count_after", dropped_and_gone)
    for account in run_audit(ledger, tmp_path / "spool", DEFAULT):
        assert account.balances, account
        assert account.dropped_by_policy == {"root-cap": 290}
    writer.close()
    ledger.close()
