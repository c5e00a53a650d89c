"""The part of a foreign source that all formats share: numbering, and finding the way back in.

A format gives `scan`: from a state on, the items of the file, each with the state after it. States
are small immutable values that hold everything the following items depend on, so that reading may
go on from any of them, in any process. The index remembers some of them, evenly spread over what
has been read, and the last one: going on costs nothing, going back costs one stretch.
"""

from __future__ import annotations

import abc
import bisect
import contextlib
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

State = TypeVar("State")

# A chunk ends early, though not before its second record, when its bodies are larger than this.
CHUNK_BYTES = 16 * 1024 * 1024
LARGE_BODY = 1024 * 1024  # above this, long texts and lists are cut as in the training process
_MARKS = 512
_STRIDE = 256  # records between two marks, at first


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedRecord:
    """One record of the file."""

    kind: str
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A stretch of the file that cannot be read, and why; `reason` says where it is."""

    reason: str


Item = ImportedRecord | Unreadable


class ResumeIndex(Generic[State]):
    """Places to go on from: state after record `seq`, for some of them. Constant in size."""

    def __init__(self, start: State) -> None:
        self._seqs = [0]
        self._states = [start]
        self._stride = _STRIDE
        self._latest = (0, start)

    def __len__(self) -> int:
        return len(self._seqs)

    def before(self, after: int) -> tuple[int, State]:
        """The nearest known place at or before record `after`."""
        number = bisect.bisect_right(self._seqs, after) - 1
        near = (self._seqs[number], self._states[number])
        return self._latest if near[0] <= self._latest[0] <= after else near

    def note(self, seq: int, state: State) -> None:
        """Remember the state after record `seq`, if it is a mark's distance from the last one."""
        self._latest = (seq, state)
        if seq < self._seqs[-1] + self._stride:
            return
        self._seqs.append(seq)
        self._states.append(state)
        if len(self._seqs) > _MARKS:
            self._seqs, self._states = self._seqs[::2], self._states[::2]
            self._stride *= 2


class ScannedFile(abc.ABC, Generic[State]):
    """A foreign file read by scanning it; see the module and `shipper.importers.Source`."""

    def __init__(self, path: Path, origin: SourceInfo, start: State) -> None:
        self.path = path
        self.directory = path.parent
        self.origin = origin
        self._start = start
        self._index = ResumeIndex(start)

    @property
    @abc.abstractmethod
    def spool(self) -> str:
        """See `Source`."""

    @abc.abstractmethod
    def identity(self) -> Identity:
        """See `Source`."""

    @abc.abstractmethod
    def scan(self, file: BinaryIO, state: State) -> Iterator[tuple[Item, State]]:
        """Items from `state` on, each with the state after it, up to what is whole by now."""

    def read(self, after: int, limit: int) -> Chunk:
        """At most `limit` records and stretches of damage beyond `after`, in order.

        A call that meets something unreadable returns what lies before it.

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
                        damage.append(self._damage(seq, item))
                    full = size > CHUNK_BYTES and len(records) > 1
                    if full or len(records) + len(damage) >= limit:
                        return _chunk(records, damage, through, at_end=False)
        except SpoolError:
            if through == after:
                raise
            return _chunk(records, damage, through, at_end=False)
        return _chunk(records, damage, through, at_end=True)

    def last_seq(self) -> int:
        """See `Source`."""
        last, _ = self._index.before(2**63)
        for seq, _ in self._items(last):
            last = seq
        return last

    def is_owned(self) -> bool:
        """See `Source`."""
        return False

    def first_state(self) -> State:
        """The state after the first record, or after all there is without any."""
        state = self._start
        with _opened(self.path) as file:
            for item, after in self.scan(file, self._start):
                state = after
                if isinstance(item, ImportedRecord):
                    break
        return state

    def _damage(self, seq: int, lost: Unreadable) -> Damage:
        return Damage(path=str(self.path), first=seq, last=seq, reason=lost.reason)

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


def run_item(*, run: str, time: float, **known: Any) -> ImportedRecord:
    """The "run" record of a source, with the facts that are `known` of it."""
    body = run_record.encode(run=run, time=time, **known)
    return ImportedRecord(kind=run_record.NAME, body=pack(body))


def pack(body: dict[str, Any]) -> bytes:
    """A body as the training process would have packed it.

    Raises:
        ValueError: it is more than a record may have.
    """
    try:
        packed = codec.pack(body, plain)
    except (TypeError, ValueError, OverflowError, RecursionError):
        packed = codec.pack(careful(body))
    if len(packed) > LARGE_BODY:
        packed = codec.pack(careful(body))
    if len(packed) > fmt.BODY_LIMIT:
        raise ValueError(f"{len(packed)} bytes, more than a record may have")
    return packed


def _opened(path: Path) -> BinaryIO:
    try:
        return safe_open.open_named(path)
    except OSError as error:
        raise SpoolDamaged(str(path), 0, f"{error}") from error


def _chunk(records: list[Stored], damage: list[Damage], through: int, *, at_end: bool) -> Chunk:
    return Chunk(records=tuple(records), damage=tuple(damage), through=through, at_end=at_end)
