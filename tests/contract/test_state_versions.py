"""Databases of older versions are migrated, those of newer ones are refused and left alone."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.errors import StateNewer, StateUnusable
from shipper.ledger import database as state_module
from shipper.ledger.ledger import DATABASE_NAME, CommitDelta, Ledger, Position
from shipper.ledger.migrations import MIGRATIONS, STATE_VERSION, Migration, Table
from tests.kit.command import lens_ship

GOLDEN = Path(__file__).parents[1] / "golden" / "state-v1" / DATABASE_NAME
DONE, HALF = "20260101T000000-17-0badcafe", "20260101T000100-18-0badcafe"
NEXT = STATE_VERSION + 1

Rows = dict[str, list[dict[str, Any]]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A state directory as the first version left it."""
    shutil.copy(GOLDEN, tmp_path / DATABASE_NAME)
    return tmp_path


def ask(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute(sql).fetchall()


def version(path: Path) -> int:
    number: int = ask(path, "PRAGMA user_version")[0][0]
    return number


def contents(path: Path) -> Rows:
    """Every row of every table, by plain SQLite."""
    tables = ask(path, "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
    return {
        name: [dict(row) for row in ask(path, f'SELECT * FROM "{name}" ORDER BY rowid')]
        for (name,) in tables
    }


def has_all_of(new: Rows, before: Rows) -> bool:
    """Whether every table still has its rows, with the same values in the columns they had."""
    return all(
        [{name: row[name] for name in was} for row, was in zip(new[table], rows, strict=True)]
        == rows
        for table, rows in before.items()
    )


def schema(path: Path) -> set[tuple[str, str, str]]:
    return {
        (table, row["name"], row["type"])
        for (table,) in ask(path, "SELECT name FROM sqlite_master WHERE type = 'table'")
        for row in ask(path, f"SELECT * FROM pragma_table_info('{table}')")
    }


def test_the_file_that_is_kept_is_of_version_1_and_has_rows_everywhere() -> None:
    path = f"file:{GOLDEN}?mode=ro&immutable=1"
    with closing(sqlite3.connect(path, uri=True)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        for table in MIGRATIONS[0].tables:
            assert connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0] > 0


@pytest.mark.promise("G12")
def test_what_the_first_version_knew_is_known_after_the_migration(old: Path) -> None:
    before = contents(old / DATABASE_NAME)
    with closing(Ledger(old)) as ledger:
        assert ledger.position(HALF, "processor") == Position(
            seq=40, acked_by_run={"r": 44}, acked_seqs=frozenset({42, 44})
        )
        assert ledger.workload(HALF) == "looked-up"
        assert ledger.is_unclean_exit_reported(DONE, "processor")
        (letter,) = ledger.dead_letters(DONE)
        assert (letter["seq"], letter["reason"], letter["state"]) == (26, "unsendable", "kept")
        assert len(ledger.dead_letter_body(letter["id"]) or b"") == letter["bytes"] > 0
        lost = {(r["first"], r["last"], r["reason"]) for r in ledger.damages(DONE)}
        assert lost == {(5, 5, "checksum"), (7, 7, "missing")}
        assert [(gap["seq"], gap["count"]) for gap in ledger.gaps()] == [(27, 5)]
        assert [r["records"] for r in ledger.replays() if r["ended"]] == [13, 1]
        assert ledger.open_replay(HALF, "processor", "0123456789ab") == 1
    assert version(old / DATABASE_NAME) == STATE_VERSION
    assert has_all_of(contents(old / DATABASE_NAME), before)


def test_a_migrated_database_has_the_tables_of_a_new_one(old: Path, tmp_path: Path) -> None:
    Ledger(old).close()
    Ledger(tmp_path / "new").close()
    assert schema(old / DATABASE_NAME) == schema(tmp_path / "new" / DATABASE_NAME)


@pytest.mark.promise("G12")
@pytest.mark.parametrize("before", range(2, STATE_VERSION))
def test_what_every_version_knew_is_counted_on(
    old: Path, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(state_module, "MIGRATIONS", MIGRATIONS[:before])
        then.setattr(state_module, "STATE_VERSION", before)
        Ledger(old).close()
    assert version(old / DATABASE_NAME) == before
    known = contents(old / DATABASE_NAME)
    with closing(Ledger(old)) as ledger:
        position = ledger.position(HALF, "processor")
        ledger.acknowledge(HALF, "processor", position, CommitDelta(delivered=1, rejected=2))
        (count,) = (p for p in ledger.positions(HALF) if p["sink"] == "processor")
        assert ledger.dead_letter_body(ledger.dead_letters(DONE)[0]["id"])
        assert [r["records"] for r in ledger.replays() if r["ended"]] == [13, 1]
    assert version(old / DATABASE_NAME) == STATE_VERSION
    (was,) = (r for r in known["position"] if (r["spool"], r["sink"]) == (HALF, "processor"))
    assert (count["delivered"], count["rejected"]) == (was["delivered"] + 1, 2)


@pytest.mark.promise("G12")
def test_a_copy_of_what_was_stays_beside_it(old: Path) -> None:
    before = contents(old / DATABASE_NAME)
    Ledger(old).close()
    copy = old / f"{DATABASE_NAME}.v1"
    assert contents(copy) == before
    assert version(copy) == 1
    assert copy.stat().st_mode & 0o077 == 0
    assert not list(old.glob("*.part"))


def test_nothing_is_copied_for_a_new_database_or_one_of_today(tmp_path: Path) -> None:
    for _ in range(2):
        Ledger(tmp_path).close()
    assert not list(tmp_path.glob(f"{DATABASE_NAME}.v*"))


def test_columns_that_an_early_file_lacks_are_added(old: Path) -> None:
    with closing(sqlite3.connect(old / DATABASE_NAME)) as early:
        early.execute("ALTER TABLE position DROP COLUMN cut_off_told")
        early.execute("ALTER TABLE gap DROP COLUMN first")
        early.execute("DROP TABLE replay")
        early.execute("DROP INDEX idx_dead_letter_spool_sink_seq")
        early.commit()
    with closing(Ledger(old)) as ledger:
        assert not ledger.is_unclean_exit_reported(DONE, "processor")
        assert ledger.replays() == []
        letter = ledger.dead_letters()[0]
        again = {**letter, "body": b"", "id": None}
        del again["bytes"]
        assert not ledger.insert_new("dead_letter", again)


def test_every_step_done_twice_is_done_once(old: Path) -> None:
    """A service from before the versions were looked at writes 1 into whatever it opens."""
    Ledger(old).close()
    with closing(sqlite3.connect(old / DATABASE_NAME)) as older:
        older.execute("PRAGMA user_version = 1")
    before = contents(old / DATABASE_NAME)
    Ledger(old).close()
    assert contents(old / DATABASE_NAME) == before
    assert version(old / DATABASE_NAME) == STATE_VERSION


def write_newer(folder: Path) -> bytes:
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as newer:
        newer.execute("CREATE TABLE of_next_year (id INTEGER)")
        newer.execute(f"PRAGMA user_version = {NEXT}")
    return (folder / DATABASE_NAME).read_bytes()


@pytest.mark.parametrize("exclusive", [True, False])
def test_a_newer_database_is_refused_and_not_touched(tmp_path: Path, exclusive: bool) -> None:
    raw = write_newer(tmp_path)
    with pytest.raises(StateNewer, match=f"state version {NEXT}, this lens-ship knows"):
        Ledger(tmp_path, exclusive=exclusive)
    assert (tmp_path / DATABASE_NAME).read_bytes() == raw
    assert {path.name for path in tmp_path.iterdir()} <= {DATABASE_NAME, "lock"}


@pytest.mark.promise("G12")
def test_the_command_line_says_what_to_do_about_a_newer_one(tmp_path: Path) -> None:
    write_newer(tmp_path)
    for words in (["run", "--once"], ["audit"]):
        places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path))
        done = lens_ship(*words, *places)
        assert done.code == 4
        (line,) = done.err.splitlines()
        assert f"state version {NEXT}" in line
        assert "lens-ship docs upgrading" in line


def test_a_command_does_not_migrate_under_a_service_that_runs(old: Path) -> None:
    before = contents(old / DATABASE_NAME)
    guard = state_module._lock_directory(old, state_module.LOCK_NAME, "")
    try:
        with pytest.raises(StateUnusable, match="Restart it with this lens-ship"):
            Ledger(old, exclusive=False)
        assert version(old / DATABASE_NAME) == 1
        assert contents(old / DATABASE_NAME) == before
    finally:
        os.close(guard)
    with closing(Ledger(old, exclusive=False)) as ledger:
        assert ledger.workload(HALF) == "looked-up"


def test_a_step_that_fails_changes_nothing(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(old / DATABASE_NAME)
    good = {"of_next_year": Table(columns={"id": int}, key=("id",))}
    steps = (*MIGRATIONS, Migration(what="?", tables=good, statements=("UPDATE nowhere SET x=1",)))
    monkeypatch.setattr(state_module, "MIGRATIONS", steps)
    monkeypatch.setattr(state_module, "STATE_VERSION", NEXT)
    with pytest.raises(StateUnusable, match=r"nowhere.*The file is unchanged"):
        Ledger(old)
    assert contents(old / DATABASE_NAME) == before
    assert version(old / DATABASE_NAME) == 1
    monkeypatch.undo()
    Ledger(old).close()  # and its directory is free


def test_the_way_back_is_the_copy(old: Path) -> None:
    Ledger(old).close()
    migrated = contents(old / DATABASE_NAME)
    (old / f"{DATABASE_NAME}.v1").rename(old / DATABASE_NAME)
    assert version(old / DATABASE_NAME) == 1
    Ledger(old).close()
    assert contents(old / DATABASE_NAME) == migrated
