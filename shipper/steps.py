"""From stored records to whole steps, in order. Pure.

A step is what wandb shows as one: all parts that were logged under one number, one after the
other, by one run. It is *complete* when wandb closed it, when its run has logged another number,
or when its run or process has ended. The last step of a run may still be open: it is held back
for at most one flush interval, so that its parts travel together, and no longer.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from operator import attrgetter
from types import MappingProxyType
from typing import Any, NamedTuple

from shipper.blocks import LEAST, STEPS, Form, form_of
from shipper.blocks import Row as Numbers
from spooler.errors import BodyUnreadable
from spooler.records import finish, gap, step
from spooler.records.axes import STEP_KEYS, AxesOfStep, Row, merged, rows
from spooler.records.step import StepRecord
from spooler.spool import codec
from spooler.spool.reader import Stored

# The metric that counts records that the training process could not write: `<this>/<reason>`.
DROPPED_NAME = "lens-ship/dropped"
# The metric that marks the last step of a run whose process exited uncleanly.
CUT_OFF_NAME = "lens-ship/cut_off"
_REASON_CHARACTERS = 64  # of a gap, as far as they are told
_SEQS = attrgetter("seqs")
NOTHING_DELETED: Mapping[int, int] = MappingProxyType({})


class Step(NamedTuple):
    """One step of one run, merged from the records `seqs`; `time` is that of its first part.

    Sinks send `rows()`: almost always one, `step` and `data`.
    """

    run: str
    step: int
    time: float
    data: Mapping[str, Any]  # flat: name -> value
    seqs: tuple[int, ...]
    tracker: str = "wandb"
    # Counted by a process that did not begin the run: the tracker has given it another number.
    own_count: bool = False
    more: tuple[Row, ...] = ()  # of other steps: a row with several axes
    # What sets its names apart from those of other ranks and runs; see `spooler.hooks.names`.
    sole_writer: bool = False
    run_prefix: bool = False

    def rows(self) -> tuple[Row, ...]:
        """Step and values of each row that the receiver gets."""
        return ((self.step, self.data), *self.more)

    @property
    def first(self) -> int:
        """Seq of the first part."""
        return self.seqs[0]

    @property
    def last(self) -> int:
        """Seq of the last part."""
        return self.seqs[-1]


class Block(NamedTuple):
    """Consecutive whole steps of one run that differ in their numbers alone.

    `like` is the first of them, but for its place in the block. Each of `rows` has step, time and
    the values of `names`, which are finite numbers.
    """

    like: Step
    names: tuple[str, ...]
    seqs: tuple[int, ...]
    rows: list[Numbers]

    @property
    def run(self) -> str:
        return self.like.run

    def steps(self) -> list[Step]:
        """The same, step by step."""
        made = self.like._replace
        return [
            made(step=step, time=time, data=dict(zip(self.names, values, strict=True)), seqs=(seq,))
            for seq, (step, time, *values) in zip(self.seqs, self.rows, strict=True)
        ]

    def part(self, begin: int, end: int) -> Block:
        """Some of them."""
        return self._replace(seqs=self.seqs[begin:end], rows=self.rows[begin:end])


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A record that can never be sent, and why."""

    stored: Stored
    reason: str
    detail: str


class Skipped(NamedTuple):
    """A record that a sink has no use for; `run` is "" where it belongs to none."""

    seq: int
    run: str = ""
    left_out: int = 0  # values in it for which the sink has no form


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectedSteps:
    """What records hold: complete steps by first seq, open ones, and rejected records.

    `skipped` are the records that are not part of a step, `gaps` the seqs of gaps that no step has
    followed yet: the next step reports them. Steps in `blocks` are not in `complete`.
    """

    complete: tuple[Step, ...]
    open: tuple[Step, ...]
    rejected: tuple[Rejected, ...]
    skipped: tuple[Skipped, ...] = ()
    gaps: tuple[int, ...] = ()
    blocks: tuple[Block, ...] = ()

    def due(self, *, ended: bool, waited: Container[int]) -> DueSteps:
        """What is sent now: an open step and a gap once they have waited, or nothing follows."""
        ripe = [one for one in self.open if ended or one.first in waited]
        told = [gap for gap in self.gaps if ended or gap in waited]
        pending = [one.first for one in self.open if one not in ripe]
        pending += [gap for gap in self.gaps if gap not in told]
        return DueSteps(
            steps=sorted([*self.complete, *self.blocks, *ripe], key=_SEQS),
            pending=tuple(pending),
            skipped=[*self.skipped, *(Skipped(seq=gap) for gap in told)],
        )


class DueSteps(NamedTuple):
    """Steps to send in order, first seqs of what waits, and records that are part of no step."""

    steps: list[Any]  # `Step`, and `Block` where these were asked for
    pending: tuple[int, ...]
    skipped: list[Skipped]


class _Building:
    """A step whose next part may be the next record."""

    __slots__ = ("data", "first", "parts", "seqs")

    def __init__(self, first: StepRecord) -> None:
        self.first = first
        self.data: Mapping[str, Any] = {}
        self.parts: list[tuple[Mapping[str, Any], AxesOfStep | None]] = []
        self.seqs: list[int] = []

    def add(self, seq: int, data: Mapping[str, Any], axes: AxesOfStep | None = None) -> None:
        """Later parts overwrite names of earlier ones, as they do in wandb."""
        self.data = {**self.data, **data} if self.data else data
        self.parts.append((data, axes))
        self.seqs.append(seq)

    def build(self, keys: Sequence[str]) -> Step:
        return step_of(self.first._replace(axes=merged(self.parts)), self.data, self.seqs, keys)


def step_of(
    record: StepRecord,
    data: Mapping[str, Any],
    seqs: Iterable[int],
    keys: Sequence[str] = STEP_KEYS,
) -> Step:
    """The step of a record whose flat data is `data`; for `keys` see `spooler.records.axes.rows`.

    The one place that says which step a sink, a chart or a report shows.
    """
    given = record.step_given
    ((step, values), *more), counted = rows(record.step, data, record.axes, () if given else keys)
    own_count = record.inherited and not given and counted
    of_record = (record.tracker, own_count, tuple(more), record.sole_writer, record.run_prefix)
    # As a plain tuple: the constructor takes three times as long.
    return tuple.__new__(Step, (record.run, step, record.time, values, tuple(seqs), *of_record))


def rows_in(body: Mapping[str, Any], keys: Sequence[str] = STEP_KEYS) -> tuple[Row, ...]:
    """The rows of one step record, which may be a part of a step.

    Raises:
        BodyUnreadable: it is not the body of a step.
    """
    record = step.decode(body)
    return step_of(record, step.flatten(record.data), (), keys).rows()


def collect_steps(
    records: Iterable[Stored],
    deleted: Mapping[int, int] = NOTHING_DELETED,
    keys: Sequence[str] = STEP_KEYS,
    *,
    in_blocks: bool = False,
) -> CollectedSteps:
    """Merge records into steps.

    `deleted` says of a gap of records that had a seq how many of them the sink has not got. For
    `keys` see `step_of`. With `in_blocks`, steps that fit into a block are in one.
    """
    collector = _StepCollector(deleted, keys)
    given = tuple(records)
    at, count = 0, len(given)
    while at < count:
        taken = collector.take_block(given, at) if in_blocks else 0
        if not taken:
            collector.take(given[at])
        at += taken or 1
    return collector.result()


def unsendable(step: Step, records: Iterable[Stored], problem: str) -> list[Rejected]:
    """The records of a step that can never be sent."""
    return [
        Rejected(stored=stored, reason="unsendable", detail=problem)
        for stored in records
        if stored.seq in step.seqs
    ]


def cut_off(tail: Iterable[Stored], keys: Sequence[str] = STEP_KEYS) -> tuple[Step, ...]:
    """From the last records of a process that died: the last step of each run it left open.

    Empty when the process ended cleanly, or had no run open. A run that a forked child has
    inherited is its parent's to end.
    """
    open_runs: dict[str, Step] = {}
    for stored in tail:
        if stored.kind == "exit":
            return ()
        if stored.kind not in ("step", "finish"):
            continue
        try:
            body = codec.unpack(stored.body)
            if stored.kind == "finish":
                open_runs.pop(finish.decode(body).run, None)
                continue
            last = step.decode(body)
            data = step.flatten(last.data)
        except BodyUnreadable:
            continue
        if not last.inherited:
            open_runs[last.run] = step_of(last, data, (stored.seq,), keys)
    return tuple(
        last._replace(data={CUT_OFF_NAME: 1}, own_count=False, more=())
        for last in open_runs.values()
    )


class _Known(NamedTuple):
    """What bodies of one form are: steps like one, with the values of these names.

    `key`: the index of the value that is the step; None where that is the tracker's own number.
    `closed`: each is a whole step. Else one is whole if the next has another number.
    """

    form: Form
    like: Step
    names: tuple[str, ...]
    key: int | None
    closed: bool

    def rows(self, bodies: Sequence[bytes]) -> list[Numbers]:
        """The numbers of the first of these that are whole steps."""
        rows = self.form.rows(bodies)
        if not self.closed:
            pairs = enumerate(pairwise(rows))
            rows = rows[: next((at for at, (one, two) in pairs if one[0] == two[0]), len(rows) - 1)]
        if self.key is None:
            return rows
        place = self.key + 2
        if any(type(row[place]) is not int or row[place] not in STEPS for row in rows):
            return []
        return [(row[place], *row[1:]) for row in rows]


def _bodies(records: Sequence[Stored], at: int) -> Iterator[bytes]:
    """The bodies of the steps from record `at` on, up to one of another kind."""
    for _, kind, body in islice(records, at, None):
        if kind != step.NAME:
            return
        yield body


class _StepCollector:
    """Goes through records once, one at a time."""

    def __init__(self, deleted: Mapping[int, int], keys: Sequence[str]) -> None:
        self._deleted = deleted
        self._keys = keys
        self._key_set = frozenset(keys)
        self._building: dict[str, _Building] = {}
        self._gaps: list[tuple[int, dict[str, Any]]] = []  # seq, what the next step reports of it
        self._complete: list[Step] = []
        self._rejected: list[Rejected] = []
        self._skipped: list[Skipped] = []
        self._blocks: list[Block] = []
        self._known: dict[int, _Known] = {}  # by length of bodies
        self._no_block_before = self._failed = 0

    def take_block(self, records: Sequence[Stored], at: int) -> int:
        """Take the block that begins with record `at`; how many records it has, 0 without one."""
        if at < self._no_block_before or self._gaps or at + LEAST > len(records):
            return 0
        (_, first, body), (_, last, other) = records[at], records[at + LEAST - 1]
        if not first == last == step.NAME or len(body) != len(other):
            return 0
        known = self._known.get(len(body))
        bodies = known.form.fitting(_bodies(records, at)) if known else []
        if not bodies:
            known = self._learn(body)
            bodies = known.form.fitting(_bodies(records, at)) if known else []
        rows = known.rows(bodies) if known else []
        if known is None or len(rows) < LEAST or not self._ends(known, rows[0][0]):
            # Each search goes through all records that follow: few of them fail.
            self._failed += 1
            self._no_block_before = at + 2**self._failed
            return 0
        seqs = tuple(stored.seq for stored in records[at : at + len(rows)])
        self._blocks.append(Block(known.like, known.names, seqs, rows))
        return len(rows)

    def _ends(self, known: _Known, number: int) -> bool:
        """Whether step `number` of a form is not a part of the step before it, which it ends."""
        started = self._building.get(known.like.run)
        if started is None:
            return True
        if known.key is not None or started.first.step == number:
            return False
        self._complete.append(self._building.pop(known.like.run).build(self._keys))
        return True

    def _learn(self, body: bytes) -> _Known | None:
        """What bodies like this one are; None where they do not fit into a block."""
        try:
            record = step.decode(codec.unpack(body))
        except BodyUnreadable:
            return None
        names, key = tuple(record.data), None
        if record.axes is not None or not names:
            return None
        form = form_of(body)
        if form is None or len(form.layout.unpack(body)) != len(names) + 2:
            return None
        if not record.step_given:
            key = next((names.index(one) for one in self._keys if one in record.data), None)
        if not record.closed and key is not None:
            return None
        like = step_of(record, record.data, (), self._keys)
        self._known[len(body)] = known = _Known(form, like, names, key, record.closed)
        return known

    def take(self, stored: Stored) -> None:
        if stored.kind == "step":
            self._take_step(stored)
        elif stored.kind == "finish":
            self._take_finish(stored)
        elif stored.kind == "gap":
            self._take_gap(stored)
        else:
            if stored.kind == "exit":
                self._complete.extend(one.build(self._keys) for one in self._building.values())
                self._building.clear()
            self._skipped.append(Skipped(seq=stored.seq))

    def result(self) -> CollectedSteps:
        return CollectedSteps(
            complete=tuple(sorted(self._complete, key=_SEQS)),
            open=tuple(one.build(self._keys) for one in self._building.values()),
            rejected=tuple(self._rejected),
            skipped=tuple(self._skipped),
            gaps=tuple(seq for seq, _ in self._gaps),
            blocks=tuple(self._blocks),
        )

    def _take_step(self, stored: Stored) -> None:
        try:
            record = step.decode(codec.unpack(stored.body))
            data = step.flatten(record.data)
        except BodyUnreadable as error:
            self._reject(stored, error)
            return
        run = record.run
        started = self._building.get(run)
        if started is None and record.closed and not self._gaps:  # what almost every record is
            if record.axes is None and (record.step_given or data.keys().isdisjoint(self._key_set)):
                own_count = record.inherited and not record.step_given
                marks = (own_count, (), record.sole_writer, record.run_prefix)
                # As a plain tuple: the constructor takes three times as long.
                fields = (run, record.step, record.time, data, (stored.seq,), record.tracker)
                self._complete.append(tuple.__new__(Step, fields + marks))
            else:
                self._complete.append(step_of(record, data, (stored.seq,), self._keys))
            return
        if started is None or started.first.step != record.step:
            if started is not None:
                self._complete.append(started.build(self._keys))
            started = self._building[run] = _Building(record)
        for seq, told in self._gaps:
            started.add(seq, told)
        self._gaps = []
        started.add(stored.seq, data, record.axes)
        if record.closed:
            self._complete.append(self._building.pop(run).build(self._keys))

    def _take_finish(self, stored: Stored) -> None:
        try:
            run = finish.decode(codec.unpack(stored.body)).run
        except BodyUnreadable as error:
            self._reject(stored, error)
            return
        self._skipped.append(Skipped(seq=stored.seq, run=run))
        started = self._building.pop(run, None)
        if started is not None:
            self._complete.append(started.build(self._keys))

    def _reject(self, stored: Stored, error: BodyUnreadable) -> None:
        self._rejected.append(Rejected(stored=stored, reason=error.reason, detail=str(error)))

    def _take_gap(self, stored: Stored) -> None:
        """Records that are missing here: the step that follows tells how many, and why."""
        count = 0
        try:
            record = gap.decode(codec.unpack(stored.body))
        except BodyUnreadable:
            record = None
        if record is not None and 0 <= record.count < 2**53:
            count = self._deleted.get(stored.seq, record.count)
        if record is None or not count:  # or all of them were delivered in time
            self._skipped.append(Skipped(seq=stored.seq))
            return
        name = f"{DROPPED_NAME}/{record.reason[:_REASON_CHARACTERS]}"
        self._gaps.append((stored.seq, {name: count}))
