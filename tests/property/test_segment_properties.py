"""A segment is read as SQLite reads it, whatever its records, whatever is damaged in it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from spooler.spool import pages
from spooler.spool.filesystem import wal_size
from spooler.spool.segment import Segment
from spooler.spool.stored import Row, is_sound
from spooler.spool.writer import Writer
from tests.kit import spools

pytestmark = pytest.mark.promise("G7")

# Around the sizes at which a payload begins to overflow its page, and a chain gets one page more.
SIZES = st.one_of(
    st.integers(0, 70), st.integers(950, 1000), st.integers(2000, 2080), st.integers(0, 9000)
)
RECORDS = st.lists(st.tuples(st.sampled_from(["step", "run", "k" * 70]), SIZES), max_size=60)


@contextmanager
def segment(records: list[tuple[str, int]]) -> Iterator[tuple[Writer, Path]]:
    """A writer that has written these, not yet sealed; its segment."""
    with tempfile.TemporaryDirectory() as root:
        writer = spools.writer(Path(root))
        for number, (kind, size) in enumerate(records):
            writer.append(kind, bytes([number % 251]) * size)
        yield writer, writer.directory / "00000001.sqlite"


def as_sqlite_has_it(path: Path) -> list[Row]:
    """From a copy, since SQLite changes what it opens."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (path, Path(f"{path}-wal")):
            if name.exists():
                shutil.copy(name, folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            return connection.execute("SELECT * FROM record ORDER BY seq").fetchall()


def read(path: Path, limit: int) -> list[Row]:
    """In steps, each from where the last one ended."""
    rows: list[Row] = []
    mark, whole = None, False
    while not whole:
        with Segment(path) as one:
            found = one.read(rows[-1][0] if rows else 0, limit, mark)
        assert len(found.rows) <= limit
        rows += found.rows
        mark, whole = found.mark, found.whole
    return rows


@given(records=RECORDS, limit=st.integers(1, 70), after=st.integers(0, 70))
@example(records=[("step", 8640), ("step", 8645)], limit=1, after=0)  # 1 lies a window behind
def test_every_record_is_read_as_sqlite_reads_it(
    records: list[tuple[str, int]], limit: int, after: int
) -> None:
    with segment(records) as (writer, path):
        for seal in (lambda: None, writer.close):
            seal()
            expected = as_sqlite_has_it(path)
            assert len(expected) == len(records)
            assert read(path, limit) == expected
            with Segment(path) as one:
                assert one.read(after, 100).rows == expected[after:]
                assert one.bounds() == ((1, len(records)) if records else None)
                assert one.seqs() == [row[0] for row in expected]
                assert not one.has_hidden_commits()


@given(records=RECORDS, at=st.floats(0, 1), damage=st.binary(min_size=1, max_size=3000))
def test_damage_adds_nothing_and_costs_only_what_it_hits(
    records: list[tuple[str, int]], at: float, damage: bytes
) -> None:
    with segment(records) as (writer, path):
        known = as_sqlite_has_it(path)
        for seal, file in ((lambda: None, Path(f"{path}-wal")), (writer.close, path)):
            seal()
            raw = file.read_bytes()
            place = int(at * len(raw))
            file.write_bytes(raw[:place] + damage + raw[place + len(damage) :])
            with Segment(path) as one:
                found = [row for row in one.salvage(0, 100, final=True)[0] if is_sound(row)]
                one.read(0, 100)
                one.last()
            assert set(found) <= set(known)
            hit = -(-len(damage) // pages.PAGE) + 1  # pages at most
            per_page = pages.PAGE // 14
            large = sum(size > pages.PAGE // 2 for _, size in records)
            assert len(known) - len(found) <= hit * per_page + large * (hit + 1)
            file.write_bytes(raw)


def test_a_position_is_found_without_reading_what_lies_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with segment([("step", 200)] * 8000) as (writer, path):
        for seal in (lambda: None, writer.close):
            seal()
            for after in (1, 777, 4000, 7998, 7999, 8000):
                with Segment(path) as one:
                    taken = _count_reads(monkeypatch)
                    assert [row[0] for row in one.read(after, 2).rows] == [
                        seq for seq in (after + 1, after + 2) if seq <= 8000
                    ]
                    assert sum(taken) < 700_000 < path.stat().st_size + wal_size(path)


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    real, taken = os.pread, list[int]()

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        data = real(descriptor, size, offset)
        taken.append(len(data))
        return data

    monkeypatch.setattr("os.pread", pread)
    return taken
