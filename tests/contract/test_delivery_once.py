"""`lens-ship run --once`: its exit codes, its words, and what it deletes or leaves."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shipper.ledger.ledger import Ledger
from spooler.spool.format import FORMAT_VERSION
from spooler.spool.reader import Reader
from tests.kit.command import Ran, lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver, Normal
from tests.kit.running import failing, ship_until
from tests.kit.shipping import config, goodbye, spool, step
from tests.kit.spools import identity, spool_id, spools_below

STEPS = 30  # records: the steps and a goodbye


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


@pytest.fixture
def nobody() -> Iterator[str]:
    """The URL of a port that stays closed."""
    with closing(socket.socket()) as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{reserved.getsockname()[1]}/v1"


def once(folder: Path, url: str, *more: str, **environ: str) -> Ran:
    return lens_ship(
        "run",
        "--once",
        *("--spool", str(folder / "spool"), "--state", str(folder / "state")),
        *("--processor-url", url, *more),
        **environ,
    )


def write(folder: Path, *, salt: int = 0, save_local: bool = True, reporting: bool = True) -> Path:
    """A spool of several segments whose writer is gone."""
    who = identity(spool_id(salt), workload_uid="w", save_local=save_local, api_reporting=reporting)
    records = [*(step(number) for number in range(STEPS - 1)), goodbye()]
    directory, _ = spool(folder / "spool", records, who=who, segment_records=10)
    return directory


def age(directory: Path, *numbers: int) -> None:
    """Make segments look as if they were last written a year ago."""
    for path in directory.glob("*.sqlite"):
        if not numbers or int(path.stem) in numbers:
            then = path.stat().st_mtime - 366 * 86400
            os.utime(path, (then, then))


def test_a_root_that_does_not_exist_is_an_error(tmp_path: Path, receiver: FaultyReceiver) -> None:
    done = once(tmp_path, receiver.url)
    assert done.code == 1
    assert f"{tmp_path / 'spool'}: does not exist" in done.err


def test_an_empty_root_is_nothing_to_do(tmp_path: Path, receiver: FaultyReceiver) -> None:
    (tmp_path / "spool").mkdir()
    assert once(tmp_path, receiver.url).code == 0
    assert receiver.seen == []


def test_everything_delivered_is_success_and_is_kept_for_replay(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = write(tmp_path)
    done = once(tmp_path, receiver.url)
    assert (done.code, done.out) == (0, f"{STEPS - 1} records delivered\n")
    assert sorted(arrived(receiver.store, "w").steps) == list(range(STEPS - 1))
    assert Reader(directory).last_seq() == STEPS
    before = len(receiver.seen)
    done = once(tmp_path, receiver.url)
    assert (done.code, done.out) == (0, "0 records delivered\n")
    assert len(receiver.seen) == before


def test_rejected_records_are_named_at_the_end(tmp_path: Path, receiver: FaultyReceiver) -> None:
    spool(tmp_path / "spool", [step(1), goodbye()], who=identity())  # no workload, no pod
    done = once(tmp_path, receiver.url)
    assert (done.code, done.out) == (
        0,
        "0 records delivered. 1 dead letter kept, see `lens-ship dead-letter list`\n",
    )


def test_what_has_no_address_is_not_waited_for(tmp_path: Path) -> None:
    """Only other settings would change that; the time-out of this test is that of the command."""
    write(tmp_path)
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    done = lens_ship("run", "--once", "--timeout", "10000", *places)
    assert done.code == 1
    assert f"{STEPS} records for processor (no-url: " in done.err
    assert done.out == "0 records delivered\n"


@pytest.mark.promise("G4")
def test_a_receiver_that_is_away_leaves_everything_pending_and_says_what_and_why(
    tmp_path: Path, nobody: str
) -> None:
    directory = write(tmp_path)
    done = once(tmp_path, nobody, "--timeout", "1", "--save-local", "false")
    assert done.code == 1
    assert "lens-ship: still pending: " in done.err
    # The same lines, however late a busy machine comes to its first try.
    given = config(tmp_path, processor_url=nobody, save_local=False, state=tmp_path / "other")
    (line,) = (one for one in ship_until(given, failing) if "for processor (" in one)
    assert line.startswith(f"{directory}: {STEPS} records for processor (refused: ")
    assert Reader(directory).last_seq() == STEPS


@pytest.mark.promise("G4")
def test_what_is_pending_is_delivered_by_the_next_one(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    write(tmp_path)
    receiver.otherwise = Answer(status=503)
    assert once(tmp_path, receiver.url, "--timeout", "1").code == 1
    receiver.otherwise = Normal()
    assert once(tmp_path, receiver.url).code == 0
    assert sorted(arrived(receiver.store, "w").steps) == list(range(STEPS - 1))


def test_a_spool_of_a_newer_format_is_left_untouched_and_is_pending(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    write(tmp_path)
    newer = write(tmp_path, salt=1)
    for path in newer.glob("*.sqlite"):
        with closing(sqlite3.connect(path)) as segment:
            segment.execute(f"PRAGMA user_version = {FORMAT_VERSION + 1}")
    contents = {path: path.read_bytes() for path in newer.glob("*.sqlite")}
    done = once(tmp_path, receiver.url, "--retention-seconds", "0")
    assert done.code == 1
    assert f"still pending: {newer}" in done.err
    assert "upgrade lens-ship" in done.err
    assert {path: path.read_bytes() for path in newer.glob("*.sqlite")} == contents
    assert sorted(arrived(receiver.store, "w").steps) == list(range(STEPS - 1))


def test_a_state_directory_in_use_is_refused(tmp_path: Path, receiver: FaultyReceiver) -> None:
    write(tmp_path)
    with closing(Ledger(tmp_path / "state")):
        done = once(tmp_path, receiver.url)
    assert done.code == 3
    assert done.err.startswith("lens-ship: state directory")
    assert "Traceback" not in done.err
    assert receiver.seen == []


def test_a_state_that_cannot_be_written_is_refused(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    (tmp_path / "state").write_text("a file")
    done = once(tmp_path, receiver.url)
    assert done.code == 4
    assert "--state" in done.err
    assert "Traceback" not in done.err


def test_a_corrupt_state_is_refused_with_a_way_on(tmp_path: Path, receiver: FaultyReceiver) -> None:
    write(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "ledger.sqlite").write_bytes(b"no database " * 500)
    done = once(tmp_path, receiver.url)
    assert done.code == 4
    assert "move the file away" in done.err
    assert receiver.seen == []


@pytest.mark.parametrize("how", ["job", "flag", "older variable"])
def test_without_reporting_nothing_is_sent_and_nothing_deleted(
    tmp_path: Path, receiver: FaultyReceiver, how: str
) -> None:
    directory = write(tmp_path, reporting=how != "job")
    age(directory)
    flags = ["--api-reporting", "false"] if how == "flag" else []
    environ = {"PRIMUS_LENS_WANDB_API_REPORTING": "false"} if how == "older variable" else {}
    done = once(tmp_path, receiver.url, "--save-local", "false", *flags, **environ)
    assert done.code == 0
    assert "shipping is disabled" in done.err
    assert receiver.seen == []
    assert Reader(directory).last_seq() == STEPS


@pytest.mark.parametrize("how", ["job", "flag", "older variable"])
def test_without_local_saving_what_is_delivered_is_deleted_at_once(
    tmp_path: Path, receiver: FaultyReceiver, how: str
) -> None:
    directory = write(tmp_path, save_local=how != "job")
    flags = ["--save-local", "false"] if how == "flag" else []
    environ = {"PRIMUS_LENS_WANDB_SAVE_LOCAL": "false"} if how == "older variable" else {}
    assert once(tmp_path, receiver.url, *flags, **environ).code == 0
    assert not directory.exists()
    assert sorted(arrived(receiver.store, "w").steps) == list(range(STEPS - 1))


def test_what_is_delivered_and_old_is_deleted_and_what_is_young_stays(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    old, young = write(tmp_path), write(tmp_path, salt=1)
    age(old)
    assert once(tmp_path, receiver.url).code == 0
    assert spools_below(tmp_path / "spool") == [young]


def test_beyond_the_bytes_that_may_be_kept_what_is_delivered_is_deleted(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    write(tmp_path)
    assert once(tmp_path, receiver.url, "--retention-bytes", "0").code == 0
    assert spools_below(tmp_path / "spool") == []


@pytest.mark.promise("G4")
def test_what_is_not_delivered_is_never_deleted_however_old(tmp_path: Path, nobody: str) -> None:
    directory = write(tmp_path)
    age(directory)
    limits = ("--retention-seconds", "0", "--retention-bytes", "0", "--save-local", "false")
    assert once(tmp_path, nobody, "--timeout", "1", *limits).code == 1
    assert Reader(directory).read(0, 1000).through == STEPS


@pytest.mark.promise("G4")
def test_of_a_spool_delivered_in_part_only_whole_delivered_segments_go(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    directory = write(tmp_path)
    segments = Reader(directory).segments()
    assert len(segments) > 2
    receiver.then(Normal(), Normal(), Normal())
    receiver.otherwise = Answer(status=503)
    given = config(tmp_path, processor_url=receiver.url, batch_max_steps=5, save_local=False)
    assert ship_until(given, failing) != []
    stored = len(arrived(receiver.store, "w").steps)
    assert stored == 15
    chunk = Reader(directory).read(stored, 1000)
    assert [record.seq for record in chunk.records] == list(range(stored + 1, STEPS + 1))
    assert len(Reader(directory).segments()) < len(segments)
