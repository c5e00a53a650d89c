"""Summarises a spool without reading it through: its bounds, its size, the time of a record.

Rules:

- Read-only, and every file is open for one question only, as in `spooler.spool.segment`.
- Nothing is scanned: seqs have no gaps, so counts are arithmetic. A summary costs one listing of
  the directory, and the ends of each segment that has changed since the one before.
- What cannot be read is in `problem`, nothing raises.
"""

from __future__ import annotations

import heapq
import os
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from spooler.errors import BodyUnreadable, SpoolError
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.segment import Segment
from spooler.spool.segments import MOST_SEGMENTS
from spooler.spool.stored import Row, is_sound

# A body that is larger is not decoded only to learn its time.
_BODY_BYTES = 256 * 1024
_MOST_PROBLEMS = 100  # unreadable segments in a row, those beyond are not read
_NO_RECORD = 2**63  # beyond every seq
_TRIES = 3  # segments to read for one record


@dataclass(frozen=True, kw_only=True, slots=True)
class SpoolSummary:
    """A spool at one moment. Seqs are 0 and times None where there is no record.

    `newest` is the Unix time of the last record, `problem` what of it cannot be read, or "".
    """

    first: int = 0
    last: int = 0
    bytes: int = 0
    newest: float | None = None
    problem: str = ""


class _Files(NamedTuple):
    """The files of a segment: their bytes, and when the database was written (Unix seconds)."""

    bytes: int
    wal_bytes: int
    mtime: float


class _Ends(NamedTuple):
    """First and last record of a segment while its files are as given, 0 without any."""

    files: _Files
    first: int
    last: int
    newest: float | None


class SummaryReader:
    """Summarises one spool directory repeatedly, and keeps a few numbers for each segment."""

    __slots__ = ("_ends", "_files", "_following", "_place", "directory")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._place = Path(os.path.realpath(directory))  # does not change: see `safe_open`
        self._files: dict[int, _Files] = {}  # by segment number, ascending
        self._ends: dict[int, _Ends] = {}
        # Segment and seq of a record, then seq and time of the one that follows it.
        self._following: tuple[int, int, tuple[int, float | None]] = (0, 0, (0, None))

    def read(self) -> SpoolSummary:
        """The spool as it is now."""
        try:
            total = self._list()
        except OSError as error:
            return SpoolSummary(problem=f"{self.directory}: {error.strerror}")
        problems: list[str] = []
        last, newest = 0, None
        for number in reversed(self._files):
            ends = self._ends_of(number, problems)
            if ends is not None and ends.last:
                last, newest = ends.last, ends.newest
                break
            if len(problems) >= _MOST_PROBLEMS:
                break
        first = 0
        for number in self._files:
            first = self._first_of(number, problems)
            if first or len(problems) >= 2 * _MOST_PROBLEMS:
                break
        problem = "; ".join(dict.fromkeys(problems))
        return SpoolSummary(first=first, last=last, newest=newest, bytes=total, problem=problem)

    def bytes_beyond(self, position: int) -> int:
        """About how many bytes of disk the records beyond `position` take.

        Whole segments are counted as they are; of the one that `position` lies in, the share of its
        records.
        """
        if not self._files:
            return 0
        number, *later = self._from(position + 1)
        known_empty = {n for n, ends in self._ends.items() if not ends.last}  # only prepared
        whole = sum(sum(self._files[n][:2]) for n in later if n not in known_empty)
        ends = self._ends_of(number, [])
        if ends is None or ends.last <= position:
            return whole
        share = (ends.last - max(position, ends.first - 1)) / (ends.last - ends.first + 1)
        return whole + int(share * sum(self._files[number][:2]))

    def time_beyond(self, position: int) -> float | None:
        """Unix time of the first record beyond `position`; None when it cannot be read.

        Where the record itself has none, that of its segment's last change.
        """
        for number in self._from(position + 1)[:_TRIES]:
            found = self._next_time(number, position)
            if found is not None:
                return found[1] or self._files[number].mtime
        return None

    def time_of(self, seq: int) -> float | None:
        """Unix time of record `seq`; None when it is not there, or has none."""
        for number in self._from(seq)[:1]:
            found = self._next_time(number, seq - 1)
            if found is not None and found[0] == seq:
                return found[1]
        return None

    # --- segments ---------------------------------------------------------------------------------

    def _list(self) -> int:
        """Note the files of all segments; returns the bytes of everything in the directory."""
        databases: dict[int, os.stat_result] = {}
        wal_bytes: dict[int, int] = {}
        total = 0
        with os.scandir(self._place) as entries:
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                total += found.st_size
                number = fmt.segment_number(entry.name)
                if number is not None:
                    databases[number] = found
                    continue
                number = fmt.segment_number(entry.name.removesuffix("-wal"))
                if number is not None:
                    wal_bytes[number] = found.st_size
        self._files = {
            number: _Files(found.st_size, wal_bytes.get(number, 0), found.st_mtime)
            for number, found in heapq.nsmallest(MOST_SEGMENTS, databases.items())
        }
        self._ends = {n: ends for n, ends in self._ends.items() if n in self._files}
        return total

    def _from(self, seq: int) -> list[int]:
        """The segments from the one on that `seq` lies in, or should; found by halving."""
        numbers = list(self._files)
        later = bisect_right(numbers, seq, key=lambda one: self._first_of(one, []) or _NO_RECORD)
        return numbers[max(0, later - 1) :]

    def _first_of(self, number: int, problems: list[str]) -> int:
        """Seq of the first record of a segment, 0 while there is none or it cannot be read."""
        ends = self._ends.get(number)
        if ends is None or not ends.first:  # else it never changes
            ends = self._ends_of(number, problems)
        return ends.first if ends is not None else 0

    def _ends_of(self, number: int, problems: list[str]) -> _Ends | None:
        known, files = self._ends.get(number), self._files[number]
        if known is not None and known.files == files:
            return known
        first = known.first if known is not None else 0
        try:
            with Segment(self._path(number)) as one:
                if not first:
                    one.check()
                last = one.last()
                if last is not None and not first:
                    first = one.first(last)[0]
        except FileNotFoundError:
            return None  # delivered and deleted since the listing
        except SpoolError as error:
            problems.append(str(error))
            return None
        newest = (_time_of(last) or files.mtime) if last else None
        ends = self._ends[number] = _Ends(files, first, last[0] if last else 0, newest)
        return ends

    def _next_time(self, number: int, after: int) -> tuple[int, float | None] | None:
        """Seq and time of the first row above `after`, None if there is none to read.

        Those of the row that follows it are kept: mostly they are asked for next.
        """
        if self._following[:2] == (number, after):
            return self._following[2]
        try:
            with Segment(self._path(number)) as one:
                read = one.read(after, 2, most=_BODY_BYTES)
        except (FileNotFoundError, SpoolError):
            return None
        found = [(row[0], _time_of(row)) for row in read.rows] or [(after + 1, None)] * read.large
        if len(found) > 1:
            self._following = number, found[0][0], found[1]
        return found[0] if found else None

    def _path(self, number: int) -> Path:
        return self._place / fmt.segment_name(number)


def _time_of(row: Row) -> float | None:
    """The time in a sound record."""
    if len(row[2]) > _BODY_BYTES or not is_sound(row):
        return None
    try:
        time = codec.unpack(row[2]).get("time")
    except BodyUnreadable:
        return None
    return float(time) if isinstance(time, int | float) and 0 < time < 2**40 else None
