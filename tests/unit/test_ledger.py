"""The service's own database: what it was told is still there, and it has one owner at a time."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from shipper.errors import ShipperError, StateInUse, StateUnusable
from shipper.ledger import database
from shipper.ledger.ledger import (
    DATABASE_NAME,
    LOCK_NAME,
    CommitDelta,
    DeadLetter,
    Gap,
    Ledger,
    Position,
)
from spooler.spool.reader import Damage

LETTER = DeadLetter(
    spool="s", sink="processor", seq=7, kind="step", body=b"\x00\xff", reason="r", detail="why"
)


def other_eyes(folder: Path, sql: str) -> list[tuple[object, ...]]:
    """What another connection sees of the database at this moment."""
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        return connection.execute(sql).fetchall()


def test_a_sink_that_was_never_in_a_spool_is_at_its_beginning(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.position("s", "processor") == Position(seq=0, acked_by_run={})


@pytest.mark.promise("G4")
@pytest.mark.parametrize(
    "position",
    [
        Position(seq=5),
        Position(seq=2**62, acked_by_run={"a": 2**62 + 1}),
        Position(seq=1, acked_by_run={"": 2, "a/b": 3, "\u00f6": 4, "\ud800": 5, '"': 6}),
    ],
)
def test_a_position_is_there_at_once_and_after_reopening(
    tmp_path: Path, position: Position
) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.acknowledge("s", "processor", position, CommitDelta(delivered=3, requests=1))
        assert ledger.position("s", "processor") == position
        assert other_eyes(tmp_path, "SELECT seq FROM position") == [(position.seq,)]
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.position("s", "processor") == position


def test_sinks_and_spools_do_not_share_a_position(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.acknowledge("s", "processor", Position(seq=5), CommitDelta(delivered=5, requests=1))
        assert ledger.position("s", "processor-detection") == Position()
        assert ledger.position("t", "processor") == Position()


def test_counters_add_up(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.acknowledge("s", "processor", Position(seq=5), CommitDelta(delivered=5, requests=1))
        ledger.acknowledge("s", "processor", Position(seq=9), CommitDelta(delivered=3, requests=2))
        (row,) = ledger.positions()
        assert (row["seq"], row["delivered"], row["requests"]) == (9, 8, 3)


@pytest.mark.promise("G6")
def test_a_dead_letter_is_kept_whole_and_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.add_dead_letter(LETTER)
        assert not ledger.add_dead_letter(LETTER)
        assert other_eyes(tmp_path, "SELECT body, reason FROM dead_letter") == [(b"\x00\xff", "r")]
        (told,) = ledger.dead_letters()
        assert (told["seq"], told["kind"], told["bytes"]) == (7, "step", 2)


@pytest.mark.promise("G7")
def test_damage_is_noted_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        damage = Damage(path="p", first=3, last=5, reason="checksum")
        assert ledger.add_damage("s", "processor", damage)
        assert not ledger.add_damage("s", "processor", damage)
        assert other_eyes(tmp_path, "SELECT first, last, reason FROM damage") == [
            (3, 5, "checksum")
        ]


@pytest.mark.promise("G6")
def test_a_deleted_spool_is_known_until_it_is_pruned_and_its_dead_letters_stay(
    tmp_path: Path,
) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        for spool in ("s", "t"):
            ledger.remember_spool(spool, tmp_path / spool, {"spool": spool})
            ledger.acknowledge(spool, "processor", Position(seq=5), CommitDelta(delivered=5))
        ledger.add_dead_letter(LETTER)
        ledger.mark_deleted("s")
        assert [row["deleted"] is None for row in ledger.spools()] == [False, True]
        assert len(ledger.positions()) == 2
        (deleted, _) = (row["deleted"] for row in ledger.spools())
        ledger.prune(before=deleted)
        assert len(ledger.positions()) == 2
        ledger.prune(before=deleted + 1)
        assert [row["spool"] for row in ledger.positions()] == ["t"]
        assert len(ledger.dead_letters()) == 1


def test_a_gap_is_noted_once(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        for _ in range(2):
            ledger.add_gap(Gap(spool="s", seq=4, reason="disk-full", count=12))
        assert [(g["seq"], g["reason"], g["count"]) for g in ledger.gaps()] == [
            (4, "disk-full", 12)
        ]


def test_a_spool_is_remembered_with_who_wrote_it(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        ledger.remember_spool("s", tmp_path / "first", {"host": "h", "rank": 3}, written=7)
        ledger.mark_missing(["s"])
        ledger.remember_spool("s", tmp_path / "second", {"host": "other"}, written=5)
        (row,) = ledger.spools()
        assert row["directory"] == str(tmp_path / "second"), "where it was found last"
        assert row["identity"] == {"host": "h", "rank": 3}
        assert (row["deleted"], row["written"]) == (None, 7)
        ledger.mark_deleted("s")
        (row,) = ledger.spools()
        assert (row["deleted"] is None, row["written"]) == (False, 0)


def letters(ledger: Ledger, *sizes: int) -> None:
    for seq, size in enumerate(sizes, 1):
        ledger.add_dead_letter(replace(LETTER, seq=seq, body=b"x" * size))


@pytest.mark.parametrize(
    ("max_count", "max_bytes", "given_up"),
    [(4, 100, []), (2, 100, [1, 2]), (0, 100, [1, 2, 3, 4]), (4, 60, [1]), (4, 59, [1, 2])],
)
def test_the_oldest_dead_letters_beyond_the_limits_lose_their_bodies_and_stay_counted(
    tmp_path: Path, max_count: int, max_bytes: int, given_up: list[int]
) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        letters(ledger, 10, 10, 20, 30)
        trimmed = ledger.trim_dead_letters(max_count=max_count, max_bytes=max_bytes)
        assert trimmed == len(given_up)
        rows = ledger.dead_letters()
        assert [row["seq"] for row in rows if row["state"] == "dropped"] == given_up
        assert len(rows) == 4
        assert all(ledger.dead_letter_body(seq) == b"" for seq in given_up)
        assert ledger.trim_dead_letters(max_count=max_count, max_bytes=max_bytes) == 0


def test_the_body_of_a_dead_letter_that_is_not_there_is_none(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        letters(ledger, 3)
        assert (ledger.dead_letter_body(1), ledger.dead_letter_body(2)) == (b"xxx", None)


def test_a_reader_beside_the_owner_neither_needs_nor_takes_the_lock(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as owner:
        owner.acknowledge("s", "processor", Position(seq=5), CommitDelta(delivered=5))
        with closing(Ledger(tmp_path, exclusive=False)) as beside:
            assert beside.position("s", "processor") == Position(seq=5)
        with pytest.raises(StateInUse):
            Ledger(tmp_path)


def test_there_is_nothing_to_read_where_no_service_was(tmp_path: Path) -> None:
    with pytest.raises(StateUnusable, match="Set --state to the state directory of the service"):
        Ledger(tmp_path, exclusive=False)
    assert list(tmp_path.iterdir()) == []


def test_the_directory_is_made_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    with closing(Ledger(folder)):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_second_owner_is_refused_and_told_what_to_do(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)):
        with pytest.raises(StateInUse, match=r"another lens-ship.*--state") as refusal:
            Ledger(tmp_path)
        assert refusal.value.exit_code == 3
    with closing(Ledger(tmp_path)):
        pass  # free again


def test_a_process_that_only_looks_at_the_lock_keeps_no_owner_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands still meanwhile, for longer than an owner that is there is waited for."""
    Ledger(tmp_path).close()
    waits: list[float] = []
    with (tmp_path / database.LOCK_NAME).open() as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)

        def wait(seconds: float) -> None:
            waits.append(seconds)
            if sum(waits) >= 3:
                fcntl.flock(looking, fcntl.LOCK_UN)

        monkeypatch.setattr(database.time, "sleep", wait)
        with closing(Ledger(tmp_path)):
            waits.clear()
            with pytest.raises(StateInUse):
                Ledger(tmp_path)
    assert not waits


def test_a_ledger_that_is_closed_twice_closes_no_file_of_another(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.close()
    descriptors = [os.open(tmp_path, os.O_RDONLY) for _ in range(8)]
    ledger.close()
    for descriptor in descriptors:
        os.close(descriptor)


def test_a_place_that_cannot_be_a_directory_is_refused_with_a_next_step(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateUnusable, match=r"Nothing was read or sent.*--state") as refusal:
        Ledger(tmp_path / "file" / "state")
    assert refusal.value.exit_code == 4


@pytest.mark.parametrize("name", [LOCK_NAME, DATABASE_NAME])
def test_a_file_that_cannot_be_opened_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(StateUnusable, match="Nothing was read or sent"):
        Ledger(tmp_path)


@pytest.mark.parametrize("content", [b"this is no database at all, whatever its name says" * 40])
def test_a_corrupt_database_is_refused_untouched_and_leaves_the_lock(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(content)
    for _ in range(2):
        with pytest.raises(StateUnusable, match="To continue, move the file away") as refusal:
            Ledger(tmp_path)
        assert refusal.value.exit_code == 4
    assert (tmp_path / DATABASE_NAME).read_bytes() == content
    (tmp_path / DATABASE_NAME).rename(tmp_path / "away")
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.position("s", "processor") == Position()


def test_a_full_disk_is_no_reason_to_move_the_database_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was delivered would be sent again, and the disk be as full as before."""
    (tmp_path / DATABASE_NAME).write_bytes(b"this is no database" * 40)
    found = os.statvfs(tmp_path)
    full = os.statvfs_result((*found[:4], 0, *found[5:]))
    monkeypatch.setattr(database.os, "statvfs", lambda path: full)
    with pytest.raises(StateUnusable, match="The disk is full: free some space"):
        Ledger(tmp_path)


def test_a_write_that_fails_later_is_said_in_our_own_words(tmp_path: Path) -> None:
    with closing(Ledger(tmp_path)) as ledger:
        other_eyes(tmp_path, "DROP TABLE position")
        with pytest.raises(StateUnusable, match="sent again") as refusal:
            ledger.acknowledge(
                "s", "processor", Position(seq=1), CommitDelta(delivered=1, requests=1)
            )
        assert isinstance(refusal.value, ShipperError)
        with pytest.raises(StateUnusable):
            ledger.position("s", "processor")
        ledger.add_dead_letter(LETTER)
        assert len(ledger.dead_letters()) == 1


def test_plugins_of_the_library_are_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They belong to its command line; what is installed for that has no business here."""

    def load() -> None:
        raise AssertionError("plugins are loaded")

    monkeypatch.setattr("sqlite_utils.db.ensure_plugins_loaded", load)
    Ledger(tmp_path / "state").close()


def test_a_state_whose_files_cannot_be_opened_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("shipper.ledger.database._prepare", refuse)
    with pytest.raises(StateUnusable, match=r"Too many open files. Nothing was read or sent"):
        Ledger(tmp_path / "state")
