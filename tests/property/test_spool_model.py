"""Whatever the order of appends, rotations, ends and reads: a spool is a plain list on disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from spooler.spool.reader import Reader
from spooler.spool.writer import Writer
from tests.kit import spools

pytestmark = [pytest.mark.promise("G3"), pytest.mark.promise("G1")]


class Spools(RuleBasedStateMachine):
    """One writer at a time, any number of spools it has left; for each a list of what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="lens-ship-model-"))
        self.model: dict[Path, list[tuple[str, bytes]]] = {}
        self.readers: dict[Path, Reader] = {}
        self.deleted: dict[Path, int] = {}  # the last seq that was deleted
        self.writer: Writer | None = None
        self.opened = 0

    def teardown(self) -> None:
        if self.writer is not None:
            self.writer.close()
        for directory in self.model:
            if not self.deleted.get(directory):
                found = spools.read_whole(directory)
                assert [(s.kind, s.body) for s in found.records] == self.model[directory]
        shutil.rmtree(self.root)

    @initialize(records=st.integers(1, 6), size=st.sampled_from([10, 60, 10**6]), old=st.booleans())
    def limits(self, records: int, size: int, old: bool) -> None:
        self.limits = {
            "segment_records": records,
            "segment_bytes": size,
            "segment_seconds": 0.0 if old else 3600.0,
        }

    @precondition(lambda self: self.writer is None)
    @rule()
    def open(self) -> None:
        """A process starts: always in a spool of its own."""
        self.opened += 1
        self.writer = spools.writer(self.root, spool=spools.spool_id(self.opened), **self.limits)
        self.model[self.writer.directory] = []
        self.readers[self.writer.directory] = Reader(self.writer.directory)

    @precondition(lambda self: self.writer is not None)
    @rule(
        kind=st.sampled_from(["step", "run", "unknown"]),
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    )
    def append(self, kind: str, sizes: list[int]) -> None:
        assert self.writer is not None
        held = self.model[self.writer.directory]
        for size in sizes:
            body = spools.codec.pack({"n": len(held), "x": "y" * size})
            held.append((kind, body))
            assert self.writer.append(kind, body) == len(held)

    @precondition(lambda self: self.writer is not None)
    @rule()
    def maintain(self) -> None:
        assert self.writer is not None
        self.writer.maintain()

    @precondition(lambda self: self.writer is not None)
    @rule()
    def close(self) -> None:
        assert self.writer is not None
        self.writer.close()
        assert not list(self.writer.directory.glob("*-wal"))
        self.writer = None

    @precondition(lambda self: self.writer is not None)
    @rule()
    def abandon(self) -> None:
        """A process is killed: nothing is sealed, its files stay as they are."""
        self.writer = None

    @precondition(lambda self: self.model)
    @rule(which=st.integers(0, 99), place=st.integers(0, 99), limit=st.integers(1, 9))
    def read(self, which: int, place: int, limit: int) -> None:
        """From any position that is still there, with the same reader as before and a new one."""
        directory, held = list(self.model.items())[which % len(self.model)]
        first = self.deleted.get(directory, 0)
        after = first + place % (len(held) - first + 1)
        for reader in (self.readers[directory], Reader(directory)):
            chunk = reader.read(after, limit)
            assert chunk.damage == ()
            assert [(s.kind, s.body) for s in chunk.records] == held[after : after + limit]
            assert [s.seq for s in chunk.records] == [
                after + n + 1 for n in range(len(chunk.records))
            ]
            assert chunk.through == after + len(chunk.records)
            assert chunk.at_end == (len(chunk.records) < limit)

    @precondition(lambda self: self.model)
    @rule(which=st.integers(0, 99), place=st.integers(0, 99))
    def deliver_and_delete(self, which: int, place: int) -> None:
        """Segments that lie behind a delivered position are freed; no other record is touched."""
        directory, held = list(self.model.items())[which % len(self.model)]
        first = self.deleted.get(directory, 0)
        position = first + place % (len(held) - first + 1)
        reader = self.readers[directory]
        for number in reader.segments_below(position):
            last = reader._bounds(number)
            reader.delete_segment(number)
            if last is not None:
                assert last[1] <= position
                self.deleted[directory] = max(self.deleted.get(directory, 0), last[1])

    @invariant()
    def the_end_is_known(self) -> None:
        for directory, held in self.model.items():
            assert self.readers[directory].last_seq() == len(held)
            assert self.readers[directory].is_drained(len(held))
            if held:
                assert not self.readers[directory].is_drained(len(held) - 1)


TestSpools = Spools.TestCase
TestSpools.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
