"""A closed range of records, seen through a selection: what a replay reads from."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

from shipper.delivery.readable import ClosedRange, Records
from shipper.sinks import MARKS
from shipper.steps import rows_in
from spooler.errors import BodyUnreadable
from spooler.records import step
from spooler.records.axes import STEP_KEYS, Row
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Stored

Kinds = frozenset[str] | None  # what a sink carries; None for every kind
_READ_RECORDS = 1000


def carries(kinds: Kinds, kind: str) -> bool:
    return kinds is None or kind in kinds


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Conditions that must all hold; `since` and `until` are Unix seconds."""

    run: str = ""
    workload: str = ""
    kind: str = ""
    first_step: int | None = None
    last_step: int | None = None
    since: float | None = None
    until: float | None = None

    def takes(
        self, stored: Stored, body: Mapping[str, Any], step_keys: Sequence[str] = STEP_KEYS
    ) -> bool:
        """Whether a record with this decoded body is selected; `MARKS` always are."""
        if stored.kind in MARKS:
            return True
        if self.kind not in ("", stored.kind):
            return False
        if self.run not in ("", body.get("run")):
            return False
        return self._takes_time(body.get("time")) and self._takes_step(stored, body, step_keys)

    def digest(self, *more: str) -> str:
        """A short id: replays with the same selection and the same `more` are the same replay."""
        text = orjson.dumps([asdict(self), sorted(more)], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:12]

    def _takes_step(
        self, stored: Stored, body: Mapping[str, Any], step_keys: Sequence[str]
    ) -> bool:
        if self.first_step is None and self.last_step is None:
            return True
        return any(
            (self.first_step is None or number >= self.first_step)
            and (self.last_step is None or number <= self.last_step)
            for number, _ in rows_of(stored, body, step_keys)
        )

    def _takes_time(self, time: Any) -> bool:
        if self.since is None and self.until is None:
            return True
        if not isinstance(time, float):
            return False
        return (self.since is None or time >= self.since) and (
            self.until is None or time <= self.until
        )


EVERYTHING = Selection()


@dataclass(frozen=True, kw_only=True)
class RecordRange(ClosedRange):
    """Records `beyond` to `through` that are selected; a later process has written `newer`."""

    identity: Identity
    selection: Selection
    beyond: int = 0
    newer: Mapping[str, Collection[int]] = field(default_factory=dict)  # `own_names` -> steps
    only: Collection[int] | None = None  # seqs
    without: Collection[int] = ()  # seqs
    step_keys: Sequence[str] = STEP_KEYS

    def takes(self, stored: Stored) -> bool:
        """Whether a record is selected."""
        if stored.seq in self.without or (self.only is not None and stored.seq not in self.only):
            return False
        if stored.seq <= self.beyond:
            return False
        body = decode(stored)
        if self.overwrites(stored, body):
            return False
        return self.selection.takes(stored, body, self.step_keys)

    def overwrites(self, stored: Stored, body: Mapping[str, Any]) -> bool:
        """Whether the later process has written a row of this record."""
        newer = self.newer.get(own_names(body), ()) if self.newer else ()
        return bool(newer) and any(one in newer for one, _ in self.rows(stored, body))

    def rows(self, stored: Stored, body: Mapping[str, Any]) -> tuple[Row, ...]:
        """The rows of a record that is a step."""
        return rows_of(stored, body, self.step_keys)


def own_names(body: Mapping[str, Any]) -> str:
    """The run that has names of its own in shared rows, "" where runs of a rank share names."""
    return str(body.get("run")) if body.get("run_prefix") is True else ""


def rows_of(stored: Stored, body: Mapping[str, Any], step_keys: Sequence[str]) -> tuple[Row, ...]:
    """The rows of a record that is a step; the sink rejects one that cannot be decoded."""
    try:
        return rows_in(body, step_keys) if stored.kind == step.NAME else ()
    except BodyUnreadable:
        return ()


def records_in(source: Records, after: int = 0) -> Iterator[Stored]:
    """Every record of a source beyond `after`, in order, in constant memory."""
    while True:
        chunk = source.read(after, _READ_RECORDS)
        yield from chunk.records
        if chunk.at_end or chunk.through == after:
            return
        after = chunk.through


def decode(stored: Stored) -> dict[str, Any]:
    """A record's body; empty if it cannot be decoded, then the sink rejects the record."""
    try:
        return codec.unpack(stored.body)
    except BodyUnreadable:
        return {}
