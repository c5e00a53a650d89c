"""What all importers share: numbering of records, and resuming in the middle of a file.

An importer gives `scan`: the items of the file from a state on, each with the state after it. A
state is a small immutable value that holds everything the following items depend on. The index
keeps some states, evenly spread over the part that was read, and the last one: continuing is free,
going back reads at most the records between two of them.
"""

from __future__ import annotations

import abc
import bisect
import contextlib
import errno
import io
import math
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

from shipper.importers import SourceInfo
from spooler.errors import SpoolDamaged, SpoolError
from spooler.records import run as run_record
from spooler.records.values import careful, plain
from spooler.spool import codec, safe_open
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Chunk, Damage, Stored

StateT = TypeVar("StateT")

# Bytes of bodies after which a chunk ends, with two records at least.
CHUNK_BYTES = 16 * 1024 * 1024
LARGE_BODY = 1024 * 1024  # above this, long texts and lists are cut as in the training process
APART_SECONDS = 0.0011
_MARKS = 512
_STRIDE = 256  # records between two marks, at first


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedRecord:
    """One record that was read from the file."""

    kind: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A range of the file that cannot be read."""

    reason: str  # with the place in the file


Item = ImportedRecord | Unreadable


class ResumeIndex(Generic[StateT]):
    """The states after some of the records. Constant in size."""

    def __init__(self, start: StateT) -> None:
        self._seqs = [0]
        self._states = [start]
        self._stride = _STRIDE
        self._latest = (0, start)

    def __len__(self) -> int:
        return len(self._seqs)

    def before(self, after: int) -> tuple[int, StateT]:
        """The nearest record at or before `after` whose state is known, and that state."""
        number = bisect.bisect_right(self._seqs, after) - 1
        near = (self._seqs[number], self._states[number])
        return self._latest if near[0] <= self._latest[0] <= after else near

    def note(self, seq: int, state: StateT) -> None:
        self._latest = (seq, state)
        if seq < self._seqs[-1] + self._stride:
            return
        self._seqs.append(seq)
        self._states.append(state)
        if len(self._seqs) > _MARKS:
            self._seqs, self._states = self._seqs[::2], self._states[::2]
            self._stride *= 2


class ScannedFile(abc.ABC, Generic[StateT]):
    """An `ImportSource` read by scanning its file."""

    def __init__(self, path: Path, origin: SourceInfo, start: StateT) -> None:
        self.path = path
        self.directory = path.parent
        self.origin = origin
        self._start = start
        self._index = ResumeIndex(start)

    @property
    @abc.abstractmethod
    def spool(self) -> str: ...

    @abc.abstractmethod
    def identity(self) -> Identity: ...

    @abc.abstractmethod
    def scan(self, file: BinaryIO, state: StateT) -> Iterator[tuple[Item, StateT]]:
        """Items from `state` on, each with the state after it, up to the last complete one."""

    def read(self, after: int, limit: int) -> Chunk:
        """At most `limit` records and damaged ranges after `after`, in order.

        Where the file cannot be read any further, the records before that place are returned.

        Raises:
            NotASpool, NewerFormat, SpoolDamaged: the file cannot be read at all.
        """
        records: list[Stored] = []
        damage: list[Damage] = []
        size = 0
        through = after
        try:
            with contextlib.closing(self._items(after)) as items:
                for seq, item in items:
                    through = seq
                    if isinstance(item, ImportedRecord):
                        records.append(Stored(seq=seq, kind=item.kind, body=item.body))
                        size += len(item.body)
                    else:
                        lost = Damage(path=str(self.path), first=seq, last=seq, reason=item.reason)
                        damage.append(lost)
                    full = size > CHUNK_BYTES and len(records) > 1
                    if full or len(records) + len(damage) >= limit:
                        return _chunk(records, damage, through, at_end=False)
        except SpoolError:
            if through == after:
                raise
            return _chunk(records, damage, through, at_end=False)
        return _chunk(records, damage, through, at_end=True)

    def last_seq(self) -> int:
        last, _ = self._index.before(2**63)
        for seq, _ in self._items(last):
            last = seq
        return last

    def is_owned(self) -> bool:
        return False

    def first_state(self) -> StateT:
        """The state after the first record, or at the end of a file without any."""
        state = self._start
        with _opened(self.path) as file:
            for item, after in self.scan(file, self._start):
                state = after
                if isinstance(item, ImportedRecord):
                    break
        return state

    def _items(self, after: int) -> Generator[tuple[int, Item], None, None]:
        seq, state = self._index.before(after)
        with _opened(self.path) as file:
            try:
                for item, following in self.scan(file, state):
                    seq += 1
                    self._index.note(seq, following)
                    if seq > after:
                        yield seq, item
            except OSError as error:
                raise SpoolDamaged(str(self.path), seq, f"{error}") from error


def apart(time: float, before: float, dated: float) -> float:
    """The time of a step, further than a millisecond from that of the step before, as the hook has.

    `before` is what the file says of that step, `dated` what was made of it. Receivers of time
    series keep one value for a millisecond. A clock that was set back is believed.
    """
    return dated + APART_SECONDS if before <= time < dated + APART_SECONDS else time


def finite(value: Any) -> float | None:
    """A number of a file; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def next_data(file: BinaryIO, offset: int) -> int:
    """Offset of the first data at `offset` or later, or the end: skips holes of a sparse file."""
    try:
        number = file.fileno()
    except io.UnsupportedOperation:
        return offset  # in memory
    here = os.lseek(number, 0, os.SEEK_CUR)
    try:
        return os.lseek(number, offset, os.SEEK_DATA)
    except OSError as error:
        return max(offset, os.fstat(number).st_size) if error.errno == errno.ENXIO else offset
    finally:
        os.lseek(number, here, os.SEEK_SET)


def run_item(*, run: str, time: float, **known: Any) -> ImportedRecord:
    """A "run" record; `known` are more fields of it."""
    body = run_record.encode(run=run, time=time, **known)
    return ImportedRecord(kind=run_record.NAME, body=pack(body))


def pack(body: dict[str, Any]) -> bytes:
    """A body, packed as in the training process.

    Raises:
        ValueError: it is larger than a record may be.
    """
    try:
        packed = codec.pack(body, plain)
    except (TypeError, ValueError, OverflowError, RecursionError):
        packed = codec.pack(careful(body))
    if len(packed) > LARGE_BODY:
        packed = codec.pack(careful(body))
    if len(packed) > fmt.BODY_LIMIT:
        raise ValueError(f"{len(packed)} bytes, a record has at most {fmt.BODY_LIMIT}")
    return packed


def _opened(path: Path) -> BinaryIO:
    try:
        return safe_open.open_named(path)
    except OSError as error:
        raise SpoolDamaged(str(path), 0, f"{error}") from error


def _chunk(records: list[Stored], damage: list[Damage], through: int, *, at_end: bool) -> Chunk:
    return Chunk(records=tuple(records), damage=tuple(damage), through=through, at_end=at_end)
