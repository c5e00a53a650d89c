"""A migration that is killed anywhere leaves the old database or the new one, nothing between."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from shipper.ledger.ledger import DATABASE_NAME, Ledger
from shipper.ledger.migrations import MIGRATIONS, STATE_VERSION

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "state-v1" / DATABASE_NAME


def early(folder: Path) -> Path:
    """The kept database without some of what the steps bring, so that each has something to do."""
    path = folder / DATABASE_NAME
    path.write_bytes(GOLDEN.read_bytes())
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE replay")
        database.execute("ALTER TABLE position DROP COLUMN cut_off_told")
        database.commit()
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def look(path: Path) -> tuple[int, dict[str, list[str]], int]:
    """Version, columns of every table, positions."""
    with closing(sqlite3.connect(path)) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        return (
            database.execute("PRAGMA user_version").fetchone()[0],
            {t: [row[1] for row in database.execute(f"PRAGMA table_info({t})")] for (t,) in tables},
            database.execute("SELECT count(*) FROM position").fetchone()[0],
        )


@pytest.mark.promise("G12")
def test_a_kill_anywhere_leaves_the_old_database_or_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    database = early(tmp_path / "old")
    before = look(database)
    told = subprocess.run(
        [sys.executable, HERE / "migration_steps.py", tmp_path, database],
        env={**os.environ, "PYTHONPATH": str(HERE.parent.parent), "PYTHONWARNINGS": "error"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    rounds = [json.loads(line) for line in told.splitlines()]
    assert len(rounds) > 30
    assert not rounds[-1]["killed"]
    after = look(Path(rounds[-1]["folder"]) / DATABASE_NAME)
    assert after[0] == STATE_VERSION
    assert set(after[1]) >= set(MIGRATIONS[0].tables)
    found = Counter[int]()
    for entry in rounds:
        path = Path(entry["folder"]) / DATABASE_NAME
        seen = look(path)
        assert seen in (before, after), entry
        found[seen[0]] += 1
        check_copy(path, before, seen)
        Ledger(path.parent).close()
        assert look(path) == after, entry
    assert min(found[1], found[STATE_VERSION]) > 1, found


def check_copy(path: Path, before: object, seen: object) -> None:
    """The copy is whole where it is there, and there before anything changes."""
    copy = path.with_name(f"{DATABASE_NAME}.v1")
    if seen != before or copy.exists():
        assert look(copy) == before, path
