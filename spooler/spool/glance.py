"""Looks at a spool without reading it through: where it begins and ends, how old a record is.

Rules:

- Read-only, and every file is open for one query only, as in `spooler.spool.reader`; for the
  queries of one look within `looking`.
- Nothing is scanned: seqs have no gaps, so counts are arithmetic; a look costs one listing of the
  directory, and one query for each segment that has changed since the last look.
- What cannot be read is said in `problem`; it never raises for it.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spooler.errors import BodyUnreadable, SpoolError
from spooler.spool import codec, db
from spooler.spool import format as fmt
from spooler.spool.segments import MOST_SEGMENTS

# A body that is larger is not decoded only to learn its time.
_BODY_BYTES = 256 * 1024
_TRIES = 3  # segments to look through for one record
_MOST_OPEN = 4  # within one look


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
        self._place = Path(os.path.realpath(directory))  # where it stays: see `guard`
        self._sizes: dict[int, tuple[int, int, float]] = {}  # segment -> bytes, of its WAL, mtime
        self._edges: dict[int, _Edge] = {}
        self._firsts: dict[int, int] = {}  # the first record of a segment never changes
        self._opened: dict[int, db.Connection] | None = None  # within `looking`

    @contextmanager
    def looking(self) -> Iterator[None]:
        """What is asked in here is asked of files that are opened once; they are closed then."""
        self._opened = {}
        try:
            yield
        finally:
            opened, self._opened = self._opened, None
            for connection in opened.values():
                connection.close()

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
            row = self._row(number, fmt.SELECT_BEYOND, position)
            if row is not None:
                return _time_of(row) or self._sizes[number][2]
        return None

    def time_of(self, seq: int) -> float | None:
        """Unix time of record `seq`; None when it is not there, or has none."""
        numbers = self._from(seq) if self._sizes else []
        row = self._row(numbers[0], fmt.SELECT_ONE, seq) if numbers else None
        return None if row is None else _time_of(row)

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
            edge = self._edge(number, problems)
            if edge is not None and edge.last:
                return edge
        return None

    def _begin(self, problems: list[str]) -> int:
        for number in self._sizes:
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
        with self._open(number) as connection:
            try:
                first, last = connection.execute(fmt.SELECT_BOUNDS).fetchone()
                row = None
                if last is not None:
                    row = connection.execute(fmt.SELECT_ONE, (_BODY_BYTES, last)).fetchone()
            except db.Error as error:
                raise db.damaged(error, self._path(number), 0) from error
        return _Edge(
            mark=self._sizes[number],
            first=first or 0,
            last=last or 0,
            newest=(_time_of(row) or self._sizes[number][2]) if row else None,
        )

    def _row(self, number: int, query: str, seq: int) -> Any:
        """One row of (seq, kind, body, checksum), or None where there is none to be had."""
        try:
            with self._open(number) as connection:
                return connection.execute(query, (_BODY_BYTES, seq)).fetchone()
        except (FileNotFoundError, SpoolError, db.Error):
            return None

    @contextmanager
    def _open(self, number: int) -> Iterator[db.Connection]:
        """A segment, opened for this query, or for the whole look.

        Raises:
            SpoolError, FileNotFoundError: it cannot be opened.
        """
        held = self._opened or {}
        connection = held.pop(number, None) or db.open_for_reading(self._path(number))
        if self._opened is None:
            try:
                yield connection
            finally:
                connection.close()
            return
        self._opened[number] = connection
        if len(self._opened) > _MOST_OPEN:
            self._opened.pop(next(iter(self._opened))).close()
        yield connection

    def _path(self, number: int) -> Path:
        return self._place / fmt.segment_name(number)


def _time_of(row: tuple[Any, Any, Any, Any]) -> float | None:
    """The time that a sound record tells."""
    seq, kind, body, checksum = row
    if not isinstance(kind, str) or not isinstance(body, bytes) or seq < 0:
        return None
    if codec.checksum(kind, body, seq) != checksum:
        return None
    try:
        time = codec.unpack(body).get("time")
    except BodyUnreadable:
        return None
    return float(time) if isinstance(time, int | float) and 0 < time < 2**40 else None
