"""What a replay says it has sent can be checked against the disk, for as long as it is there."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.ledger.ledger import Ledger
from shipper.replay.verify import Checked, check_receipts
from shipper.service import ship_once
from shipper.sinks import carried_kinds
from spooler.spool import codec
from tests.kit.command import Ran, lens_ship
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.shipping import config, goodbye, spool, step

pytestmark = pytest.mark.promise("G13")


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "telemetry.sqlite") as receiver:
        yield receiver


@pytest.fixture
def replayed(tmp_path: Path, receiver: FaultyReceiver) -> Path:
    """A spool of which steps 5 to 24 were sent once more, with a finish in between."""
    records = [*(step(n) for n in range(10)), ("mystery", {"time": 1.0})]
    records += [*(step(n) for n in range(10, 30)), goodbye()]
    directory, _ = spool(tmp_path / "spool", records, segment_records=8)
    ship_once(config(tmp_path, processor_url=receiver.url), timeout=60)
    selected = ("--first-step", "5", "--last-step", "24")
    done = run(tmp_path, "replay", "--resend-delivered", *selected, "--processor-url", receiver.url)
    assert done.code == 0, done.out + done.err
    return directory


def run(tmp_path: Path, *words: str) -> Ran:
    return lens_ship(*words, "--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))


def checked(tmp_path: Path) -> Checked:
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        (receipt,) = [
            one for one in check_receipts(ledger, carried_kinds(config(tmp_path))) if one.records
        ]
        return receipt


def change(directory: Path, statement: str, *values: Any) -> None:
    for path in directory.glob("*.sqlite"):
        with closing(sqlite3.connect(path, isolation_level=None)) as segment:
            segment.execute(statement, values)


def test_what_was_sent_is_what_lies_there(replayed: Path, tmp_path: Path) -> None:
    receipt = checked(tmp_path)
    assert (receipt.state, receipt.records, receipt.sink) == ("holds", 20, "processor")
    done = run(tmp_path, "audit")
    assert done.code == 0
    assert "1 of 1 replay receipts match the records on disk" in done.out


def test_a_receipt_of_a_relative_path_holds_from_everywhere(
    tmp_path: Path, receiver: FaultyReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spool").mkdir()
    spool(tmp_path / "away", [step(1), goodbye()])
    monkeypatch.chdir(tmp_path)
    sent = run(tmp_path, "replay", "away", "--processor-url", receiver.url)
    assert sent.code == 0, sent.out + sent.err
    monkeypatch.chdir("/")
    done = run(tmp_path, "audit")
    assert (done.code, "1 of 1 replay receipts match" in done.out) == (0, True), done.out


def test_a_record_that_was_changed_since_is_noticed(replayed: Path, tmp_path: Path) -> None:
    body = codec.pack(step(7, loss=1.0)[1])
    checksum = codec.checksum("step", body, 8)
    change(replayed, "UPDATE record SET body = ?, checksum = ? WHERE seq = 8", body, checksum)
    receipt = checked(tmp_path)
    assert (receipt.state, "have changed" in receipt.why) == ("differs", True)
    done = run(tmp_path, "audit")
    assert (done.code, "differs" in done.out) == (1, True)
    told = json.loads(run(tmp_path, "audit", "--json").out)["receipts"]
    assert [one["state"] for one in told] == ["differs"]


def test_a_record_outside_the_selection_does_not_matter(replayed: Path, tmp_path: Path) -> None:
    change(replayed, "UPDATE record SET checksum = checksum + 1 WHERE seq IN (2, 28)")
    assert checked(tmp_path).state == "holds"


def test_a_record_that_is_gone_is_noticed(replayed: Path, tmp_path: Path) -> None:
    change(replayed, "DELETE FROM record WHERE seq = 20")
    receipt = checked(tmp_path)
    assert (receipt.state, "are not all there" in receipt.why) == ("differs", True)


def test_deleted_segments_cannot_be_checked_and_say_so(replayed: Path, tmp_path: Path) -> None:
    (replayed / "00000001.sqlite").unlink()
    receipt = checked(tmp_path)
    assert (receipt.state, "segments are deleted" in receipt.why) == ("unchecked", True)
    shutil.rmtree(replayed)
    receipt = checked(tmp_path)
    assert (receipt.state, "not there any more" in receipt.why) == ("unchecked", True)
    done = run(tmp_path, "audit")
    assert "cannot be checked any more" in " ".join(done.out.split())
