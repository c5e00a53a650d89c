"""A damaged file is set aside with a report, after everything readable in it has been delivered."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shipper.audit.account import Account
from shipper.audit.audit import run_audit
from shipper.config.schema import Config
from shipper.ledger.ledger import Ledger
from shipper.retention.quarantine import Quarantine, QuarantineReport
from shipper.service import Service, ship_once
from shipper.sinks import DEFAULT
from spooler.spool.reader import Reader
from tests.kit import spools
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Normal
from tests.kit.running import failing, ship_until
from tests.kit.shipping import OwnedReader, config, goodbye, spool, step

pytestmark = pytest.mark.promise("G7")

STEPS = 40
SIZE = 8  # records of a segment


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


def settings(tmp_path: Path, receiver: FaultyReceiver) -> Config:
    return config(tmp_path, processor_url=receiver.url)


def ship(tmp_path: Path, receiver: FaultyReceiver) -> list[str]:
    return ship_once(settings(tmp_path, receiver), timeout=spools.PATIENCE_SECONDS)


def accounts(tmp_path: Path) -> list[Account]:
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        return run_audit(ledger, tmp_path / "spool", DEFAULT)


def make(tmp_path: Path, *, salt: int = 0, workload: str = "w", bye: bool = True) -> Path:
    who = spools.identity(spools.spool_id(salt), workload_uid=workload)
    records = [step(number) for number in range(STEPS)] + [goodbye()] * bye
    return spool(tmp_path / "spool", records, who=who, segment_records=SIZE)[0]


def steps_of(receiver: FaultyReceiver, workload: str = "w") -> list[int]:
    return sorted(arrived(receiver.store, workload).steps)


def reports(tmp_path: Path) -> list[QuarantineReport]:
    return Quarantine(tmp_path / "spool").reports()


def numbers(directory: Path) -> list[int]:
    """The segments that hold records."""
    reader = Reader(directory)
    return [number for number in reader.segments() if reader.seqs_in(number)]


def _zero(path: Path) -> None:
    path.write_bytes(b"")


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1500])


def _foreign(path: Path) -> None:
    path.write_bytes(b"\x00\xff" * 4000)


def _no_header(path: Path) -> None:
    path.write_bytes(b"\0" * 100 + path.read_bytes()[100:])


def _bit(path: Path) -> None:
    """One bit of one record."""
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"time") + 1] ^= 8
    path.write_bytes(raw)


DAMAGE = [_zero, _cut, _foreign, _no_header, _bit]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("which", [0, 1, -1], ids=["first", "middle", "last"])
def test_a_damaged_segment_is_set_aside_and_everything_sound_arrives(
    tmp_path: Path, receiver: FaultyReceiver, damage: Callable[[Path], None], which: int
) -> None:
    directory = make(tmp_path)
    number = numbers(directory)[which]
    path = directory / f"{number:08d}.sqlite"
    before = set(Reader(directory).seqs_in(number))
    damage(path)
    lost = before - set(Reader(directory).seqs_in(number))
    assert ship(tmp_path, receiver) == []
    assert steps_of(receiver) == [n for n in range(STEPS) if n + 1 not in lost]
    assert not path.exists()
    (report,) = reports(tmp_path)
    assert (report.spool, report.segment) == (directory.name, number)
    missing = {n for first, last in report.missing for n in range(first, last + 1)}
    assert missing == (lost if which != -1 or damage in (_no_header, _bit) else set())
    assert report.last == (which == -1)
    for account in accounts(tmp_path):
        assert account.balances, account
        # A sink that skips a kind does not verify its records: it counts them as skipped.
        skips = damage is _bit and account.sink != "processor"
        assert account.corrupt == (0 if skips else len(missing))


def test_what_is_missing_stays_counted_when_the_file_is_dropped(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    _cut(directory / "00000002.sqlite")
    ship(tmp_path, receiver)
    before = accounts(tmp_path)
    name = f"{directory.name}/2"
    root = str(tmp_path / "spool")
    assert name in lens_ship("quarantine", "list", "--spool", root).out
    shown = lens_ship("quarantine", "show", name, "--spool", root).out
    assert "Missing:  8 records: 9 to 16" in shown
    assert lens_ship("quarantine", "drop", "--yes", name, "--spool", root).out == "1 deleted\n"
    assert reports(tmp_path) == []
    listed = json.loads(lens_ship("quarantine", "list", "--all", "--json", "--spool", root).out)
    assert [(one["segment"], one["bytes"], one["dropped"]) for one in listed] == [(2, 0, True)]
    assert accounts(tmp_path) == before
    assert all(account.corrupt == 8 and account.balances for account in before)
    gone = lens_ship("quarantine", "show", name, "--spool", root)
    assert (gone.code, "not in quarantine" in gone.err) == (2, True)


def test_it_is_not_set_aside_before_every_sink_is_past_it(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    _no_header(directory / "00000002.sqlite")
    receiver.otherwise = Answer(status=401)
    ship_until(settings(tmp_path, receiver), failing)
    assert reports(tmp_path) == []
    receiver.otherwise = Normal()
    ship(tmp_path, receiver)
    assert steps_of(receiver) == list(range(STEPS))
    assert [report.segment for report in reports(tmp_path)] == [2]


def test_the_file_of_a_living_writer_is_never_moved(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    last = numbers(directory)[-1]
    path = directory / f"{last:08d}.sqlite"
    _foreign(path)
    (directory / f"{last:08d}.sqlite-wal").write_bytes(b"")
    reader = OwnedReader(directory)
    folder = Quarantine(tmp_path / "spool")
    assert folder.move_damaged(reader, spools.identity(), STEPS + 1, ()) == set()
    reader.owned = False
    assert folder.move_damaged(reader, spools.identity(), STEPS + 1, ()) == set()
    assert not path.exists()


def test_a_newer_format_waits_where_it_is(
    tmp_path: Path, receiver: FaultyReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    directory = make(tmp_path)
    path = directory / "00000002.sqlite"
    raw = bytearray(path.read_bytes())
    raw[60:64] = (99).to_bytes(4, "big")  # user_version
    path.write_bytes(raw)
    event = "spool cannot be shipped, retrying"
    left = ship_until(settings(tmp_path, receiver), lambda _: event in caplog.text)
    assert any("33 records" in line for line in left)
    assert path.exists()
    assert reports(tmp_path) == []


@pytest.mark.parametrize("damage", [_zero, _foreign])
def test_a_spool_that_nobody_can_be_named_for_is_set_aside_whole(
    tmp_path: Path, receiver: FaultyReceiver, damage: Callable[[Path], None]
) -> None:
    directory = make(tmp_path)
    for path in directory.glob("*.sqlite"):
        damage(path)
    assert ship(tmp_path, receiver) == []
    assert not directory.exists()
    assert len(reports(tmp_path)) > 1
    assert all(account.balances for account in accounts(tmp_path))


def test_its_sound_records_are_replayed_once_somebody_knows_whose_they_are(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    for path in directory.glob("*.sqlite"):
        raw = bytearray(path.read_bytes())
        at = raw.index(b"workload_uid")
        raw[at] ^= 1  # the identity's checksum does not hold any more
        path.write_bytes(raw)
    assert ship(tmp_path, receiver) == []
    held = accounts(tmp_path)
    assert all((one.written, one.corrupt) == (STEPS + 1, STEPS + 1) for one in held)
    folder = str(tmp_path / "spool" / "quarantine")
    common = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    to = ("--processor-url", receiver.url)
    assert "not replayed" in lens_ship("replay", folder, *common, *to).out
    done = lens_ship("replay", "--as-workload", "found", folder, *common, *to)
    assert done.code == 0, done.out + done.err
    assert steps_of(receiver, "found") == list(range(STEPS))
    again = lens_ship("replay", "--as-workload", "found", folder, *common, *to)
    assert "sent" not in again.out.replace("sent again only", "")


def test_a_spool_that_was_known_before_is_delivered_though_it_cannot_tell_any_more(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    """The service was restarted, and the only identity that is left is damaged."""
    directory = make(tmp_path)
    receiver.otherwise = Answer(status=401)
    ship_until(settings(tmp_path, receiver), failing)
    for path in directory.glob("*.sqlite"):
        raw = bytearray(path.read_bytes())
        raw[raw.index(b"workload_uid")] ^= 1
        path.write_bytes(raw)
    receiver.otherwise = Normal()
    assert ship(tmp_path, receiver) == []
    assert steps_of(receiver) == list(range(STEPS))
    assert all(account.balances and account.corrupt == 0 for account in accounts(tmp_path))


def test_a_repaired_file_is_replayed_from_where_it_was_set_aside(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    copy = tmp_path / "copy.sqlite"
    shutil.copy(directory / "00000002.sqlite", copy)
    _cut(directory / "00000002.sqlite")
    ship(tmp_path, receiver)
    assert 10 not in steps_of(receiver)
    folder = tmp_path / "spool" / "quarantine" / directory.name
    shutil.copy(copy, folder / "00000002.sqlite")
    common = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    done = lens_ship(
        "replay", "--resend-delivered", str(folder), *common, "--processor-url", receiver.url
    )
    assert done.code == 0, done.out + done.err
    assert steps_of(receiver) == list(range(STEPS))


def test_beyond_its_limit_the_oldest_files_go_and_their_reports_stay(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    for number in (1, 2, 3):
        _no_header(directory / f"{number:08d}.sqlite")
    ship(tmp_path, receiver)
    folder = Quarantine(tmp_path / "spool")
    oldest, second, youngest = sorted(reports(tmp_path), key=lambda report: report.time)
    folder.trim(folder.bytes_of(second) + folder.bytes_of(youngest))
    assert reports(tmp_path) == [second, youngest]
    assert [one.name for one in folder.reports(dropped=True) if one.dropped] == [oldest.name]


def test_where_it_cannot_be_moved_it_stays_and_is_not_deleted(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    _bit(directory / "00000002.sqlite")
    (tmp_path / "spool" / "quarantine").write_text("in the way")
    service = Service(config(tmp_path, processor_url=receiver.url, save_local=False), once=True)
    service.run()
    assert (directory / "00000002.sqlite").exists()
    assert not (directory / "00000001.sqlite").exists()
    assert all(account.balances for account in accounts(tmp_path))
    assert [a.corrupt for a in accounts(tmp_path) if a.sink == "processor"] == [1]


@pytest.mark.promise("G15")
def test_what_a_tenant_puts_beside_the_reports_is_neither_waited_for_nor_believed(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = make(tmp_path)
    _no_header(directory / "00000001.sqlite")
    ship(tmp_path, receiver)
    (report,) = reports(tmp_path)
    victim = tmp_path / "spool" / "victim"
    victim.mkdir()
    segment = victim / "00000009.sqlite"
    segment.write_text("of another tenant")
    folder = tmp_path / "spool" / "quarantine" / report.spool
    real = (folder / "00000001.report.json").read_text()
    os.mkfifo(folder / "00000007.report.json")
    (folder / "00000008.report.json").symlink_to("/dev/zero")
    lie = {**json.loads(real), "spool": "../victim", "segment": 9, "time": 0.0}
    (folder / "00000009.report.json").write_text(json.dumps(lie))
    assert reports(tmp_path) == [report]
    Quarantine(tmp_path / "spool").trim(0)
    assert reports(tmp_path) == []
    assert segment.exists()


@pytest.mark.promise("G15")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("given", ["quarantine", "report"])
def test_another_users_report_deletes_nothing(
    tmp_path: Path, receiver: FaultyReceiver, given: str
) -> None:
    _no_header(make(tmp_path) / "00000001.sqlite")
    ship(tmp_path, receiver)
    (report,) = reports(tmp_path)
    folder = tmp_path / "spool" / "quarantine"
    os.chown(tmp_path / "spool", 1234, 1234)
    os.chown(folder, 1235, 1235)
    if given == "report":
        os.chown(folder, 0, 0)
        os.chown(folder / report.spool / "00000001.report.json", 1235, 1235)
    Quarantine(tmp_path / "spool").trim(0)
    assert (folder / report.spool / "00000001.sqlite").exists()
