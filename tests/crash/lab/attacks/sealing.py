"""A writer is stopped before and after each system call, and readers read what it has written.

The writer appends, rotates, seals and closes. At each stop a new reader, a reader that follows and
an operator's SQLite read every segment. In some places the writer is killed. Then a reader is
stopped in the same way while the writer goes on. In each place, what was returned must be there, in
order and without damage, and SQLite must find no fault in sealed segments.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from shipper.discovery.layout import find_spools
from spooler.errors import SpoolError
from spooler.records import step
from spooler.spool import codec, db
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader
from spooler.spool.writer import Limits, Writer
from tests.crash.lab.attacks import Attack, Trials
from tests.crash.lab.children import Tell
from tests.crash.lab.conservation import ALL
from tests.crash.lab.stepping import ChildEnded, SteppedChild, missing
from tests.crash.lab.verdict import Findings, Verdict

RECORDS = 8
SEGMENT_RECORDS = 3
KILLS = 32
_SIZES = (10, 700, 9000)  # characters of a record: many in a page, few, several pages
_DAMAGED = -1
_PIPE_SECONDS = 0.0003  # for what was told to come through


def trial(seed: int, work: Path) -> Verdict:
    """Consecutive seeds kill in the places between those of the one before."""
    found = Findings()
    places = _beside(work / "beside", found, operates=False)
    _beside(work / "operated", found, operates=True)
    every = max(1, places // KILLS)
    for place in range(seed % every, places, every):
        _kill(work / f"killed-{place}", place, found)
    _hold_reader(work / "reader", found)
    found.worst("places to be held in", places)
    return found.verdict()


def _beside(root: Path, found: Findings, *, operates: bool) -> int:
    """Look at every place of a whole writer; how many there were."""
    worker, follower = SteppedChild(_life(root)), _Follower(root)
    places = 0
    try:
        for _ in worker.stops(1):
            worker.child.watch(_PIPE_SECONDS)
            if operates:
                _operate(root)
                found.faults += 1
            returned = len(worker.child.told)
            _look(root, returned, found, f"place {places}")
            follower.read(found, returned)
            places += 1
    except ChildEnded as error:
        found.check(False, "G1", f"the writer has failed: {error}")
        return places
    worker.kill()
    _look(root, RECORDS, found, "the end")
    follower.read(found, RECORDS)
    _check_files(root, found)
    return places


def _kill(root: Path, place: int, found: Findings) -> None:
    """Kill it there; an operator has looked before in every second place, and looks afterwards."""
    worker = SteppedChild(_life(root))
    for number, _ in enumerate(worker.stops(1)):
        if number == place:
            if place % 2:
                _operate(root)
            worker.kill()
            break
    else:
        worker.kill()
        return
    found.faults += 1
    returned = len(worker.child.told)
    _look(root, returned, found, f"killed in place {place}")
    _operate(root)
    _look(root, returned, found, f"killed in place {place}, then opened with SQLite")


def _hold_reader(root: Path, found: Findings) -> None:
    """The writer rotates while a reader that follows stands, in each place of its reading."""
    writer = SteppedChild(_go_on(root))
    writer.order(1)
    writer.wait()
    reader = SteppedChild(_follow(root))
    places = sum(1 for _ in reader.stops(1))
    for place in range(places):
        for number, _ in enumerate(reader.stops(1)):
            if number == place:
                writer.order(1)
                writer.wait()
                found.faults += 1
    reader.order(1)
    reader.wait()
    reader.kill()
    writer.kill()
    seqs, returned = reader.child.told, len(writer.child.told)
    found.check(_DAMAGED not in seqs, "G1", "a reader that was held took records for damaged")
    found.check(seqs == list(range(1, returned + 1)), "G1", f"{returned} returned, held: {seqs}")
    found.worst("places to hold a reader in", places)


class _Follower:
    """A reader that reads on from where it was, as the service does."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._reader: Reader | None = None
        self.through = 0

    def read(self, found: Findings, returned: int) -> None:
        """Read what is new."""
        if self._reader is None:
            self._reader = next(map(Reader, find_spools(self._root)), None)
        if self._reader is None:
            return
        try:
            chunk = self._reader.read(self.through, ALL)
        except SpoolError as error:
            found.check(not returned, "G1", f"a reader that follows cannot read: {error}")
            return
        found.check(not chunk.damage, "G1", f"a reader that follows: damage {chunk.damage[:2]}")
        self.through = chunk.through
        found.check(self.through >= returned, "G1", f"follows to {self.through} of {returned}")


def _look(root: Path, returned: int, found: Findings, where: str) -> None:
    """Whether all that was returned is there, and at most the call under way beside it."""
    seqs: list[int] = []
    for path in find_spools(root) if root.is_dir() else ():
        try:
            chunk = Reader(path).read(0, ALL)
        except SpoolError as error:
            found.check(not returned, "G1", f"{where}: {error}")
            continue
        found.check(not chunk.damage, "G1", f"{where}: damage {chunk.damage[:2]}")
        seqs += [stored.seq for stored in chunk.records]
    found.check(seqs == list(range(1, len(seqs) + 1)), "G1", f"{where}: in the order {seqs}")
    found.worst("lost records", max(0, returned - len(seqs)))
    is_kept = returned <= len(seqs) <= returned + 1
    found.check(is_kept, "G1", f"{where}: {returned} returned, {len(seqs)} are there")


def _operate(root: Path) -> None:
    """What a person does who looks into the segments with the `sqlite3` command."""
    for path in root.rglob("*.sqlite"):
        locked = contextlib.suppress(sqlite3.Error)  # while its writer has it
        with contextlib.closing(sqlite3.connect(path, timeout=0)) as connection, locked:
            connection.execute("SELECT count(*) FROM record").fetchall()


def _check_files(root: Path, found: Findings) -> None:
    for path in root.rglob("*.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            try:
                said = connection.execute("PRAGMA integrity_check").fetchall()
            except sqlite3.Error as error:
                said = [(str(error),)]
        found.check(said == [("ok",)], "G1", f"{path.name}: {said[:2]}")


def _life(root: Path) -> Callable[[int, Tell], None]:
    """All that a writer does; its last segment is small, the others are packed."""

    def live(_order: int, tell: Tell) -> None:
        db.LARGE_BYTES = _SIZES[-1]
        writer = _writer(root)
        _append(writer, RECORDS, tell)
        writer.close()

    return live


def _go_on(root: Path) -> Callable[[int, Tell], None]:
    """A writer that almost fills a segment with each order: they end in different places of one."""
    writers: list[Writer] = []

    def live(_order: int, tell: Tell) -> None:
        writers[:] = writers or [_writer(root)]
        _append(writers[0], SEGMENT_RECORDS - 1, tell)

    return live


def _follow(root: Path) -> Callable[[int, Tell], None]:
    """A reader that reads on with each order, and tells what it reads."""
    (path,) = find_spools(root)
    reader, position = Reader(path), 0

    def live(_order: int, tell: Tell) -> None:
        nonlocal position
        chunk = reader.read(position, ALL)
        position = chunk.through
        for number in [stored.seq for stored in chunk.records] + [_DAMAGED] * len(chunk.damage):
            tell(number)

    return live


def _writer(root: Path) -> Writer:
    who = Identity(spool="20260101T000000-1-00000000", created=1.0, pid=os.getpid(), host="h")
    return Writer(
        root=root,
        below=("node_0", "rank_0"),
        spool=who.spool,
        identity=codec.pack(who.to_map()),
        limits=Limits(segment_records=SEGMENT_RECORDS, sync_seconds=1.0),
    )


def _append(writer: Writer, count: int, tell: Tell) -> None:
    for _ in range(count):
        number = writer.last_seq + 1
        data = {"text": "x" * _SIZES[number % len(_SIZES)]}
        body = step.encode(run="r", step=number, time=1.0, closed=True, data=data)
        tell(writer.append("step", codec.pack(body)))
        writer.maintain()


ATTACK = Attack(
    meaning="a writer is stopped and killed between any two calls while it rotates and seals",
    promises=("G1",),
    trial=trial,
    trials=Trials(short=1, usual=3, long=20),
    catches=(
        "log-removed-before-it-is-copied",
        "open-to-another-sqlite",
        "uncommitted-frames-read",
        "previous-segment-not-read-again",
    ),
    missing=missing,
)
