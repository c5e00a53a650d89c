"""What a writing connection keeps between two records: never in the way, never without patience."""

from __future__ import annotations

import inspect
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spooler.errors import SpoolUnavailable
from spooler.spool import db, writer
from tests.kit import spools


def beside(one: writer.Writer, number: int = 1) -> sqlite3.Connection:
    """Another connection to a segment, as another process might have one."""
    path = one.directory / f"{number:08d}.sqlite"
    return sqlite3.connect(path, isolation_level=None, timeout=0)


def connection_of(one: writer.Writer) -> db.Writing:
    return one._segment.connection


def is_looking(one: writer.Writer) -> bool:
    """Whether the log of the first segment is kept from being emptied."""
    other = beside(one)
    blocked: int = other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    other.close()
    return blocked == 1


def before_insisting(one: writer.Writer, act: Callable[[], Any]) -> None:
    """Do something between a first try that failed and the second."""
    connection = connection_of(one)
    insist = connection.insist

    def act_and_insist(*given: Any) -> sqlite3.Cursor:
        act()
        return insist(*given)

    connection.insist = act_and_insist  # type: ignore[method-assign]


@pytest.mark.promise("G1")
def test_nobody_can_empty_the_log_under_the_writer(tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    assert is_looking(one)
    one.append("step", spools.body(2))
    one.close()
    assert not list(one.directory.glob("*-wal"))
    assert spools.read_whole(one.directory).numbers == [1, 2]


def test_a_prepared_segment_is_closed_for_good_too(tmp_path: Path) -> None:
    """SQLite keeps the files of a connection that is closed in the middle of a look."""
    _, one = spools.fill(tmp_path, 3, close=False, segment_records=4)
    prepared = one._next
    assert prepared is not None
    assert Path(f"{prepared.path}-shm").exists()
    one.close()
    assert not list(one.directory.glob("*-shm"))


@pytest.mark.promise("G1")
def test_a_lock_held_for_a_moment_costs_no_record(tmp_path: Path) -> None:
    """In the middle of a look SQLite gives up at once; what it does without one is wait."""
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    connection, other = connection_of(one), beside(one)
    looks = []

    def give_back(*given: Any) -> sqlite3.Cursor:
        looks.append(connection._look)
        other.execute("COMMIT")
        del connection.execute
        return connection.execute(*given)

    before_insisting(one, lambda: setattr(connection, "execute", give_back))
    other.execute("BEGIN IMMEDIATE")
    assert one.append("step", spools.body(2)) == 2
    other.close()
    assert looks == [None]
    assert is_looking(one), "it looks again"
    one.close()
    assert spools.read_whole(one.directory).numbers == [1, 2]


def test_a_lock_that_stays_is_told_and_what_comes_after_it_goes_on(tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    other = beside(one)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(2):
        with pytest.raises(SpoolUnavailable) as raised:
            one.append("step", spools.body(2))
        assert raised.value.reason == "locked"
    other.execute("COMMIT")
    other.close()
    assert one.append("step", spools.body(2)) == 2
    one.close()
    assert spools.read_whole(one.directory).numbers == [1, 2]


def test_a_change_by_somebody_else_stops_nobody(tmp_path: Path) -> None:
    """Nobody else should write here; a look from before it could not be written from."""
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    insisted: list[None] = []
    before_insisting(one, lambda: insisted.append(None))
    other = beside(one)
    for change in (1, -1):
        other.execute("UPDATE identity SET checksum = checksum + ?", (change,))
    other.close()
    assert [one.append("step", spools.body(n)) for n in (2, 3)] == [2, 3]
    assert len(insisted) == 1
    one.close()
    assert spools.read_whole(one.directory).numbers == [1, 2, 3]


@pytest.mark.promise("G2")
def test_after_an_error_of_the_disk_the_segment_is_written_on(tmp_path: Path) -> None:
    one = spools.writer(tmp_path)
    one.append("step", spools.body(1))
    full = db.wal_size(one.directory / "00000001.sqlite")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (full, before[1]))
    try:
        for _ in range(3):
            with pytest.raises(SpoolUnavailable):
                one.append("step", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [one.append("step", spools.body(n)) for n in (2, 3)] == [2, 3]
    assert is_looking(one)
    one.close()
    assert not list(one.directory.glob("*-wal"))
    assert spools.read_whole(one.directory).numbers == [1, 2, 3]


@pytest.mark.promise("G2")
@pytest.mark.parametrize("module", [writer, db])
def test_a_second_try_may_be_interrupted_at_any_bytecode(module: Any, tmp_path: Path) -> None:
    at, seen = 0, 1
    while at < seen:
        one = spools.writer(tmp_path, spool=spools.spool_id(at))
        expected = [one.append("before", spools.body(0))]
        connection = connection_of(one)
        insert = connection.insert

        def fail(
            *_: Any, connection: db.Writing = connection, insert: Any = insert
        ) -> sqlite3.Cursor:
            connection.insert = insert
            raise sqlite3.OperationalError("database is locked")

        def nested(one: writer.Writer = one, expected: list[int] = expected) -> None:
            expected.append(one.append("signal", spools.body(1)))

        def append(one: writer.Writer = one, expected: list[int] = expected) -> None:
            expected.append(one.append("step", spools.body(2)))

        connection.insert = fail
        seen = spools.interrupt(inspect.getfile(module), append, at, nested)
        assert is_looking(one), f"interrupted before bytecode {at}"
        one.close()
        assert not list(one.directory.glob("*-wal")), f"interrupted before bytecode {at}"
        assert sorted(expected) == spools.read_whole(one.directory).seqs
        at += 1
    assert seen > 20
