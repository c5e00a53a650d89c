"""Looks at a spool without reading it through: where it begins and ends, how old a record is.

Rules:

- Read-only, and every file is open for one question only, as in `spooler.spool.segment`.
- Nothing is scanned: seqs have no gaps, so counts are arithmetic; a look costs one listing of the
  directory, and the ends of each segment that has changed since the last look.
- What cannot be read stands in `problem`; no look raises for it.
"""

from __future__ import annotations

import heapq
import os
from dataclasses import dataclass
from pathlib import Path

from spooler.errors import BodyUnreadable, SpoolError
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.segment import Segment
from spooler.spool.segments import MOST_SEGMENTS
from spooler.spool.stored import Row, is_sound

# A body that is larger is not decoded only to learn its time.
_BODY_BYTES = 256 * 1024
_MOST_PROBLEMS = 100  # segments in a row that cannot be read: those beyond are not looked at
_TRIES = 3  # segments to look through for one record


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """A spool as a look found it; seqs are 0 and times None where there is no record.

    `newest` is the Unix time of the last record; `problem` what of it cannot be read, or "".
    """

    first: int = 0
    last: int = 0
    bytes: int = 0
    newest: float | None = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Edge:
    """The bounds of a segment while its files have these sizes."""

    mark: tuple[float, ...]
    first: int
    last: int
    newest: float | None


class Glance:
    """One spool directory, looked at again and again; keeps a few numbers for each segment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._place = Path(os.path.realpath(directory))  # where it stays: see `safe_open`
        self._sizes: dict[int, tuple[int, int, float]] = {}  # segment -> bytes, of its WAL, mtime
        self._edges: dict[int, _Edge] = {}
        self._firsts: dict[int, int] = {}  # the first record of a segment never changes

    def look(self) -> View:
        """What is there now."""
        try:
            total = self._list()
        except OSError as error:
            return View(problem=f"{self.directory}: {error.strerror}")
        problems: list[str] = []
        last = self._end(problems)
        first = self._begin(problems)
        return View(
            first=first,
            last=last.last if last else 0,
            newest=last.newest if last else None,
            bytes=total,
            problem="; ".join(dict.fromkeys(problems)),
        )

    def bytes_beyond(self, position: int) -> int:
        """About how many bytes of disk the records beyond `position` take.

        Whole segments are counted as they are; of the one that `position` lies in, the share of its
        records.
        """
        if not self._sizes:
            return 0
        numbers = self._from(position + 1)
        whole = sum(sum(self._sizes[n][:2]) for n in numbers[1:] if not self._is_empty(n))
        edge = self._edge(numbers[0], [])
        if edge is None or edge.last <= position:
            return whole
        share = (edge.last - max(position, edge.first - 1)) / (edge.last - edge.first + 1)
        return whole + int(share * sum(self._sizes[numbers[0]][:2]))

    def time_beyond(self, position: int) -> float | None:
        """Unix time of the first record beyond `position`; None when it cannot be told.

        Where the record itself has none, that of its segment's last change.
        """
        for number in self._from(position + 1)[:_TRIES] if self._sizes else ():
            row = self._row(number, position)
            if row is not None:
                return _time_of(row) or self._sizes[number][2]
        return None

    def time_of(self, seq: int) -> float | None:
        """Unix time of record `seq`; None when it is not there, or has none."""
        numbers = self._from(seq) if self._sizes else []
        row = self._row(numbers[0], seq - 1) if numbers else None
        return _time_of(row) if row is not None and row[0] == seq else None

    # --- segments ---------------------------------------------------------------------------------

    def _list(self) -> int:
        """Note the sizes of all segments; the bytes of everything in the directory."""
        sizes: dict[int, tuple[int, float]] = {}
        wals: dict[int, int] = {}
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
                    sizes[number] = (found.st_size, found.st_mtime)
                    continue
                number = fmt.segment_number(entry.name.removesuffix("-wal"))
                if number is not None:
                    wals[number] = found.st_size
        self._sizes = {
            number: (size, wals.get(number, 0), mtime)
            for number, (size, mtime) in heapq.nsmallest(MOST_SEGMENTS, sizes.items())
        }
        self._edges = {n: edge for n, edge in self._edges.items() if n in sizes}
        self._firsts = {n: first for n, first in self._firsts.items() if n in sizes}
        return total

    def _end(self, problems: list[str]) -> _Edge | None:
        """The last segment that holds a record."""
        for number in reversed(self._sizes):
            if len(problems) >= _MOST_PROBLEMS:
                break
            edge = self._edge(number, problems)
            if edge is not None and edge.last:
                return edge
        return None

    def _begin(self, problems: list[str]) -> int:
        for number in self._sizes:
            if len(problems) >= 2 * _MOST_PROBLEMS:
                break
            first = self._first(number, problems)
            if first:
                return first
        return 0

    def _from(self, seq: int) -> list[int]:
        """The segments from the one on that `seq` lies in, or should; found by halving."""
        numbers = list(self._sizes)
        low, high = 0, len(numbers)
        while low < high:
            middle = (low + high) // 2
            if 0 < self._first(numbers[middle], []) <= seq:
                low = middle + 1
            else:
                high = middle
        return numbers[max(0, low - 1) :]

    def _first(self, number: int, problems: list[str]) -> int:
        """Seq of the first record of a segment, 0 while there is none or it cannot be read."""
        if number not in self._firsts:
            edge = self._edge(number, problems)
            if edge is None or not edge.first:
                return 0
            self._firsts[number] = edge.first
        return self._firsts[number]

    def _is_empty(self, number: int) -> bool:
        """Whether a segment is known to hold no record: it is only prepared."""
        known = self._edges.get(number)
        return known is not None and known.last == 0

    def _edge(self, number: int, problems: list[str]) -> _Edge | None:
        known = self._edges.get(number)
        if known is not None and known.mark == self._sizes[number]:
            return known
        try:
            edge = self._ask(number)
        except FileNotFoundError:
            return None  # delivered and deleted since the listing
        except SpoolError as error:
            problems.append(str(error))
            return None
        self._edges[number] = edge
        return edge

    def _ask(self, number: int) -> _Edge:
        with Segment(self._path(number)) as one:
            if number not in self._firsts:
                one.check()
            last = one.last()
            if last is not None and number not in self._firsts:
                self._firsts[number] = one.first(last)[0]
        return _Edge(
            mark=self._sizes[number],
            first=self._firsts.get(number, 0),
            last=last[0] if last else 0,
            newest=(_time_of(last) or self._sizes[number][2]) if last else None,
        )

    def _row(self, number: int, after: int) -> Row | None:
        """The first row above `after`, or None where there is none to be had."""
        try:
            with Segment(self._path(number)) as one:
                return next(iter(one.read(after, 1).rows), None)
        except (FileNotFoundError, SpoolError):
            return None

    def _path(self, number: int) -> Path:
        return self._place / fmt.segment_name(number)


def _time_of(row: Row) -> float | None:
    """The time that a sound record tells."""
    if len(row[2]) > _BODY_BYTES or not is_sound(row):
        return None
    try:
        time = codec.unpack(row[2]).get("time")
    except BodyUnreadable:
        return None
    return float(time) if isinstance(time, int | float) and 0 < time < 2**40 else None
