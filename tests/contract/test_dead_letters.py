"""`dead-letter retry` is a replay of single records: the same way out, under the same rules."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from tests.kit.command import Ran, lens_ship, start_lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, Behaviour, FaultyReceiver, Hang
from tests.kit.processor.routes import Call
from tests.kit.shipping import Record, config, goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS, identity, spool_id

BAD = -1.0


class Refusing(FaultyReceiver):
    """Rejects the size of every request with a value of `BAD`, as long as `refuses`."""

    refuses = True

    def arrived(self, call: Call) -> tuple[Behaviour, int]:
        behaviour, index = super().arrived(call)
        bad = self.refuses and b'"value":-1.0' in call.body
        return (Answer(status=413) if bad else behaviour), index


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Refusing]:
    with Refusing(path=tmp_path / "received.sqlite") as running:
        yield running


def write(folder: Path, *records: Record, salt: int = 0, **who: Any) -> str:
    """The spool of a process that has ended; its id."""
    known = {"workload_uid": "w", "created": time.time() - 60.0 + salt, **who}
    spool(folder / "spool", [*records, goodbye()], who=identity(spool_id(salt), **known))
    return spool_id(salt)


def ship(folder: Path, receiver: FaultyReceiver) -> None:
    assert ship_once(config(folder, processor_url=receiver.url), timeout=PATIENCE_SECONDS) == []


def retry(folder: Path, receiver: FaultyReceiver, *more: str) -> Ran:
    places = ("--spool", str(folder / "spool"), "--state", str(folder / "state"))
    return lens_ship("dead-letter", "retry", *places, "--processor-url", receiver.url, *more)


def kept(folder: Path) -> list[int]:
    with closing(Ledger(folder / "state", exclusive=False)) as ledger:
        return [row["seq"] for row in ledger.dead_letters() if row["state"] == "kept"]


def losses(receiver: FaultyReceiver, workload: str = "w") -> dict[int, Any]:
    return {number: row["loss"] for number, row in arrived(receiver.store, workload).steps.items()}


@pytest.mark.promise("G6")
def test_letters_of_a_spool_go_in_one_request_and_are_closed(
    tmp_path: Path, receiver: Refusing
) -> None:
    write(tmp_path, *(step(n, loss=BAD if n in (2, 4) else 1.0) for n in range(6)))
    ship(tmp_path, receiver)
    assert kept(tmp_path) == [3, 5]
    receiver.refuses = False
    before = len(receiver.seen)
    done = retry(tmp_path, receiver)
    assert (done.code, done.out) == (0, "2 delivered, 0 kept\n")
    assert (len(receiver.seen) - before, kept(tmp_path)) == (1, [])
    assert losses(receiver) == {n: BAD if n in (2, 4) else 1.0 for n in range(6)}
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    assert lens_ship("audit", *places).code == 0


def test_one_that_is_rejected_again_stays_and_the_others_arrive(
    tmp_path: Path, receiver: Refusing
) -> None:
    write(tmp_path, step(0, loss=1.0), step(1, loss=BAD), step(2, loss=BAD, other=7.0))
    ship(tmp_path, receiver)
    assert kept(tmp_path) == [2, 3]
    done = retry(tmp_path, receiver)
    assert done.code == 1
    assert "too-large" in done.err
    assert kept(tmp_path) == [2, 3]


LATER = {
    "of a later process": lambda folder: write(folder, step(5, loss=2.0), salt=1),
    "of the same process": lambda folder: None,
}


@pytest.mark.promise("G13")
@pytest.mark.parametrize("later", LATER)
def test_newer_values_are_not_overwritten_unless_that_is_wanted(
    tmp_path: Path, receiver: Refusing, later: str
) -> None:
    again = [step(5, loss=2.0)] if later == "of the same process" else []
    write(tmp_path, step(4, loss=1.0), step(5, loss=BAD), step(6, loss=1.0), *again)
    LATER[later](tmp_path)
    ship(tmp_path, receiver)
    assert kept(tmp_path) == [2]
    receiver.refuses = False
    done = retry(tmp_path, receiver)
    assert done.code == 1
    assert "newer-values" in done.err
    assert "--overwrite-newer" in done.err
    assert (kept(tmp_path), losses(receiver)[5]) == ([2], 2.0)
    assert retry(tmp_path, receiver, "--overwrite-newer").code == 0
    assert (kept(tmp_path), losses(receiver)[5]) == ([], BAD)


@pytest.mark.promise("G13")
def test_a_later_process_whose_files_are_deleted_may_have_written_newer_values(
    tmp_path: Path, receiver: Refusing
) -> None:
    write(tmp_path, step(5, loss=BAD))
    later = write(tmp_path, step(5, loss=2.0), salt=1)
    ship(tmp_path, receiver)
    (directory,) = (tmp_path / "spool").rglob(later)
    shutil.rmtree(directory)
    receiver.refuses = False
    assert "newer-values" in retry(tmp_path, receiver).err


@pytest.mark.promise("G13")
def test_a_replay_sends_no_rejected_record_over_a_newer_one(
    tmp_path: Path, receiver: Refusing
) -> None:
    spool(tmp_path / "aside", [step(5, loss=BAD), step(6, loss=1.0), step(5, loss=2.0), goodbye()])
    (tmp_path / "spool").mkdir()
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    words = ("replay", str(tmp_path / "aside"), *places, "--processor-url", receiver.url)
    assert lens_ship(*words).code == 1
    assert kept(tmp_path) == [1]
    receiver.refuses = False
    assert lens_ship(*words).code == 0
    assert losses(receiver)[5] == 2.0
    assert lens_ship(*words, "--overwrite-newer").code == 0
    assert losses(receiver)[5] == BAD


@pytest.mark.promise("G13")
def test_the_workload_that_was_found_for_a_pod_is_used_after_its_end(
    tmp_path: Path, receiver: Refusing
) -> None:
    one = write(tmp_path, step(0, loss=1.0), step(1, loss=BAD), workload_uid="", pod_name="p")
    receiver.then(*[Answer(status=200, body={"meta": {"code": 2000}, "data": {}})] * 2)
    ship(tmp_path, receiver)
    assert kept(tmp_path) == [2]
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        ledger.remember_workload(one, "found")
    receiver.refuses = False
    assert retry(tmp_path, receiver).code == 0
    assert losses(receiver, "found") == {1: BAD}


@pytest.mark.promise("G15")
def test_a_receiver_that_hangs_is_not_waited_for_once_per_letter(
    tmp_path: Path, receiver: Refusing
) -> None:
    for salt in range(6):
        write(tmp_path, step(0, loss=BAD), step(1, loss=1.0), salt=salt, workload_uid=f"w{salt}")
    ship(tmp_path, receiver)
    assert len(kept(tmp_path)) == 6
    receiver.refuses = False
    receiver.otherwise = Hang()
    before = len(receiver.seen)
    done = retry(tmp_path, receiver, "--read-timeout", "0.5")
    assert done.code == 1
    assert len(receiver.seen) - before <= 2  # of one it may be the workload
    assert done.err.count("not-tried") == 4
    assert len(kept(tmp_path)) == 6


@pytest.mark.promise("G13")
def test_two_replays_at_once_do_not_send_everything_twice(
    tmp_path: Path, receiver: Refusing
) -> None:
    receiver.refuses = False
    write(tmp_path, *(step(n, loss=1.0) for n in range(6)))
    ship(tmp_path, receiver)
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    words = ("replay", "--resend-delivered", *places, "--processor-url", receiver.url)
    words += ("--read-timeout", "600")  # the first one waits until the others have ended
    receiver.then(Hang(processed=True))
    before = len(receiver.seen)
    first = start_lens_ship(*words)
    receiver.wait_for(lambda seen: len(seen) > before)
    for second in (lens_ship(*words), retry(tmp_path, receiver)):
        assert second.code == 3
        assert "another replay" in second.err
    receiver.release()
    assert first.communicate(timeout=PATIENCE_SECONDS)[1] is not None
    assert first.returncode == 0
    assert len(receiver.seen) - before == 1
