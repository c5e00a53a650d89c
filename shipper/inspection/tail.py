"""`lens-ship tail`: the last records of many spools, then new ones as they are written."""

from __future__ import annotations

import heapq
import logging
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from shipper.discovery.layout import spools_at
from shipper.discovery.root_watcher import RootWatcher
from shipper.humanize import json_safe, sanitize, to_json
from shipper.inspection.record_line import TailRecord, format_record
from spooler.errors import BodyUnreadable, SpoolError
from spooler.records.axes import STEP_KEYS
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader, Stored

_READ_RECORDS = 1000
_BACK_RECORDS = 256  # read first when the last records are wanted, then ever more
# The kernel reports every write. The files are polled all the same, every so many seconds.
_POLL_SECONDS = 1.0
# Writes that come together are read together.
_SETTLE_SECONDS = 0.05


@dataclass(frozen=True, kw_only=True)
class RecordFilter:
    """Which records to print. All given conditions must hold, `run` may be a prefix."""

    kinds: tuple[str, ...] = ()
    run: str = ""
    ranks: tuple[int, ...] = ()
    workload: str = ""
    step_keys: Sequence[str] = STEP_KEYS  # which tell the step of a row, see `shipper.steps`

    def matches_spool(self, identity: Identity) -> bool:
        if self.ranks and identity.rank not in self.ranks:
            return False
        return self.workload in ("", identity.workload_uid)

    def match(self, identity: Identity, stored: Stored) -> TailRecord | None:
        if self.kinds and stored.kind not in self.kinds:
            return None
        try:
            body = codec.unpack(stored.body)
        except BodyUnreadable:
            body = {}
        if self.run and not str(body.get("run", "")).startswith(self.run):
            return None
        return TailRecord(identity=identity, stored=stored, body=body, step_keys=self.step_keys)


@dataclass(kw_only=True)
class _FollowedSpool:
    reader: Reader
    identity: Identity
    position: int
    alive: bool
    clean_shutdown: bool = False
    unread: bool = True  # whatever the sizes of its files say


@dataclass(kw_only=True)
class SpoolsFollower:
    """Reads every spool at or below `places`.

    `problems` collects unreadable spools and records and unclean exits. The caller empties it.
    """

    places: Sequence[Path]
    wanted: RecordFilter
    problems: list[str] = field(default_factory=list)
    _spools: dict[Path, _FollowedSpool] = field(default_factory=dict)
    _filtered_out: set[Path] = field(default_factory=set)
    _unreadable: dict[Path, str] = field(default_factory=dict)

    @property
    def spools(self) -> int:
        """Number of all spools, those that are filtered out or unreadable included."""
        return len(self._spools) + len(self._filtered_out) + len(self._unreadable)

    def last(self, count: int) -> list[TailRecord]:
        """The last `count` matching records of all spools, oldest first."""
        self._find_spools(from_start=False)
        found = [self._last_of(spool, count) for spool in self._spools.values()]
        return list(heapq.merge(*found, key=_by_time))[-count:] if count else []

    def new_records(self) -> Iterator[TailRecord]:
        """Matching records since the last call: each spool in its order, all by time."""
        more = True
        while more:
            chunks = [self._next(spool) for spool in list(self._spools.values())]
            yield from heapq.merge(*(records for records, _ in chunks), key=_by_time)
            more = any(more for _, more in chunks)

    def rescan(self) -> None:
        """Add new spools, forget deleted ones, detect processes that have exited."""
        self._find_spools(from_start=True)
        for directory, spool in list(self._spools.items()):
            if not directory.is_dir():
                del self._spools[directory]
            elif spool.alive and not spool.reader.is_owned():
                spool.alive = False
                # What it wrote at the very end may not have been read yet.
                self._between(spool, spool.position, spool.reader.last_seq())
                if not spool.clean_shutdown and spool.reader.is_unclean() is not False:
                    self.problems.append(f"{directory}: the writer exited uncleanly")

    def _find_spools(self, *, from_start: bool) -> None:
        for directory in chain.from_iterable(map(spools_at, self.places)):
            if directory not in self._spools and directory not in self._filtered_out:
                self._add_spool(directory, from_start=from_start)

    def _add_spool(self, directory: Path, *, from_start: bool) -> None:
        reader = Reader(directory)
        if not reader.segments():
            return  # being created, or delivered as a whole
        try:
            identity = reader.identity()
            position = 0 if from_start else reader.last_seq()
        except (SpoolError, OSError) as error:
            self._report(directory, error)
            return
        self._unreadable.pop(directory, None)
        if not self.wanted.matches_spool(identity):
            self._filtered_out.add(directory)
            return
        self._spools[directory] = _FollowedSpool(
            reader=reader, identity=identity, position=position, alive=reader.is_owned()
        )

    def _report(self, directory: Path, error: Exception) -> None:
        if self._unreadable.get(directory) != str(error):
            self._unreadable[directory] = str(error)
            self.problems.append(f"{directory}: {error}")

    def _last_of(self, spool: _FollowedSpool, count: int) -> list[TailRecord]:
        """The last `count` up to the position, reading ever further back."""
        first = spool.reader.first_seq()
        back, end, found = max(_BACK_RECORDS, 2 * count), spool.position, list[TailRecord]()
        while count and first and end >= first and len(found) < count:
            begin = max(end - back, 0)
            found = self._between(spool, begin, end) + found
            end, back = begin, back * 2
        return found[-count:] if count else []

    def _between(self, spool: _FollowedSpool, after: int, last: int) -> list[TailRecord]:
        """Matching records above `after`, up to `last`."""
        found: list[TailRecord] = []
        try:
            for chunk in spool.reader.chunks(after, last):
                found += self._matching(spool, [one for one in chunk.records if one.seq <= last])
        except (SpoolError, OSError) as error:
            self._report(spool.reader.directory, error)
        return found

    def _next(self, spool: _FollowedSpool) -> tuple[list[TailRecord], bool]:
        """The next records of a spool, and whether there may be more."""
        reader = spool.reader
        if not reader.has_news() and not spool.unread:
            return [], False
        try:
            chunk = reader.read(spool.position, _READ_RECORDS)
        except (SpoolError, OSError) as error:
            spool.unread = True
            self._report(reader.directory, error)
            return [], False
        self.problems += [str(damage) for damage in chunk.damage]
        more = not chunk.at_end and chunk.through > spool.position
        spool.unread, spool.position = not chunk.at_end, chunk.through
        return self._matching(spool, chunk.records), more

    def _matching(self, spool: _FollowedSpool, records: Sequence[Stored]) -> list[TailRecord]:
        spool.clean_shutdown |= any(stored.kind == "exit" for stored in records)
        found = [self.wanted.match(spool.identity, stored) for stored in records]
        return [one for one in found if one]


def tail(
    places: Sequence[Path], wanted: RecordFilter, *, count: int, follow: bool, as_json: bool
) -> int:
    """Print the last `count` records, and with `follow` new ones until interrupted.

    Returns the exit code: 1 if no spool was found and `follow` is off.
    """
    follower = SpoolsFollower(places=places, wanted=wanted)
    last = follower.last(count)
    for record in last:
        _print(record, as_json=as_json)
    _print_problems(follower)
    if not follower.spools or (count and not last):
        what = "matching record" if follower.spools else "spool"
        below = ", ".join(str(place) for place in places)
        waiting = ", waiting for the first record" if follow else ""
        _warn(f"no {what} at or below {below}{waiting}")
    if not follow:
        return 0 if follower.spools else 1
    # An interrupt in the middle of an event makes watchdog warn of nothing that matters.
    logging.getLogger("watchdog").setLevel(logging.ERROR)
    changed = threading.Event()
    with ExitStack() as watches:
        for place in places:
            if place.is_dir():
                watches.callback(RootWatcher(place, changed.set, writes=True).stop)
        scanned = 0.0
        while True:
            changed.clear()
            if time.monotonic() - scanned >= _POLL_SECONDS:
                follower.rescan()
                scanned = time.monotonic()
            for record in follower.new_records():
                _print(record, as_json=as_json)
            sys.stdout.flush()
            _print_problems(follower)
            changed.wait(_POLL_SECONDS)
            time.sleep(_SETTLE_SECONDS)


def _print(record: TailRecord, *, as_json: bool) -> None:
    text = to_json(json_safe(record.to_map())).decode() if as_json else format_record(record)
    print(text)  # noqa: T201


def _print_problems(follower: SpoolsFollower) -> None:
    for text in follower.problems:
        _warn(text)
    follower.problems.clear()


def _warn(text: str) -> None:
    print(f"lens-ship: {sanitize(text, 4096)}", file=sys.stderr)  # noqa: T201


def _by_time(record: TailRecord) -> float:
    return record.time or 0.0
