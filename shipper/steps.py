"""From stored records to whole steps, in order. Pure.

A step is what wandb shows as one: all parts that were logged under one number, one after the
other, by one run. It is *complete* when wandb closed it, when its run has logged another number,
or when its run or process has ended. The last step of a run may still be open: it is held back
for at most one flush interval, so that its parts travel together, and no longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from spooler.errors import BodyUnreadable
from spooler.records.step import flatten
from spooler.spool import codec
from spooler.spool.reader import Stored

# The metric that counts records that the training process could not write: `<this>/<reason>`.
DROPPED_NAME = "lens-ship/dropped"
# The metric that marks the last step of a run whose process exited uncleanly.
CUT_OFF_NAME = "lens-ship/cut_off"
_REASON_CHARACTERS = 64  # of a gap, as far as they are told
_RUN_CHARACTERS = 1024  # of a run's id: wandb takes 128
_TEXTS = frozenset({str})
NOTHING_DELETED: Mapping[int, int] = MappingProxyType({})


class Step(NamedTuple):
    """One step of one run, merged from the records `seqs`; `time` is that of its first part."""

    run: str
    step: int
    time: float
    data: Mapping[str, Any]  # flat: name -> value
    seqs: tuple[int, ...]

    @property
    def first(self) -> int:
        """Seq of the first part."""
        return self.seqs[0]

    @property
    def last(self) -> int:
        """Seq of the last part."""
        return self.seqs[-1]


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
    followed yet: the next step reports them.
    """

    complete: tuple[Step, ...]
    open: tuple[Step, ...]
    rejected: tuple[Rejected, ...]
    skipped: tuple[Skipped, ...] = ()
    gaps: tuple[int, ...] = ()


class _Building:
    """A step whose next part may be the next record."""

    __slots__ = ("data", "run", "seqs", "step", "time")

    def __init__(self, run: str, step: int, time: float) -> None:
        self.run = run
        self.step = step
        self.time = time
        self.data: Mapping[str, Any] = {}
        self.seqs: list[int] = []

    def add(self, seq: int, data: Mapping[str, Any]) -> None:
        """Later parts overwrite names of earlier ones, as they do in wandb."""
        self.data = {**self.data, **data} if self.data else data
        self.seqs.append(seq)

    def build(self) -> Step:
        return Step(
            run=self.run,
            step=self.step,
            time=self.time,
            data=self.data,
            seqs=tuple(self.seqs),
        )


def collect_steps(
    records: Iterable[Stored], deleted: Mapping[int, int] = NOTHING_DELETED
) -> CollectedSteps:
    """Merge records into steps.

    `deleted` says of a gap of records that had a seq how many of them the sink has not got.
    """
    collector = _Collector(deleted)
    for stored in records:
        collector.take(stored)
    return collector.result()


def cut_off(tail: Sequence[Stored]) -> tuple[Step, ...]:
    """From the last records of a process that died: the last step of each run it left open.

    Empty when the process ended cleanly, or had no run open. A run that a forked child has
    inherited is its parent's to end.
    """
    if any(stored.kind == "exit" for stored in tail):
        return ()
    open_runs: dict[str, Step] = {}
    for stored in tail:
        if stored.kind not in ("step", "finish"):
            continue
        body = _decode(stored, [])
        if body is None:
            continue
        if stored.kind == "finish":
            open_runs.pop(body["run"], None)
        elif body.get("inherited") is not True:
            open_runs[body["run"]] = Step(
                run=body["run"],
                step=body["step"],
                time=body["time"],
                data={CUT_OFF_NAME: 1},
                seqs=(stored.seq,),
            )
    return tuple(open_runs.values())


class _Collector:
    """Goes through records once, one at a time."""

    def __init__(self, deleted: Mapping[int, int]) -> None:
        self._deleted = deleted
        self._building: dict[str, _Building] = {}
        self._gaps: list[tuple[int, dict[str, Any]]] = []  # seq, what the next step reports of it
        self._complete: list[Step] = []
        self._rejected: list[Rejected] = []
        self._skipped: list[Skipped] = []

    def take(self, stored: Stored) -> None:
        if stored.kind == "step":
            self._take_step(stored)
        elif stored.kind == "finish":
            self._take_finish(stored)
        elif stored.kind == "gap":
            self._take_gap(stored)
        else:
            if stored.kind == "exit":
                self._complete.extend(step.build() for step in self._building.values())
                self._building.clear()
            self._skipped.append(Skipped(seq=stored.seq))

    def result(self) -> CollectedSteps:
        return CollectedSteps(
            complete=tuple(sorted(self._complete, key=lambda step: step.first)),
            open=tuple(step.build() for step in self._building.values()),
            rejected=tuple(self._rejected),
            skipped=tuple(self._skipped),
            gaps=tuple(seq for seq, _ in self._gaps),
        )

    def _take_step(self, stored: Stored) -> None:
        body = _decode(stored, self._rejected)
        if body is None:
            return
        gaps, self._gaps = self._gaps, []
        run = body["run"]
        started = self._building.get(run)
        if started is None and body["closed"] and not gaps:  # what almost every record is
            self._complete.append(
                Step(run, body["step"], body["time"], body["data"], (stored.seq,))
            )
            return
        if started is None or started.step != body["step"]:
            if started is not None:
                self._complete.append(started.build())
            started = self._building[run] = _Building(run, body["step"], body["time"])
        for seq, told in gaps:
            started.add(seq, told)
        started.add(stored.seq, body["data"])
        if body["closed"]:
            self._complete.append(self._building.pop(run).build())

    def _take_finish(self, stored: Stored) -> None:
        body = _decode(stored, self._rejected)
        if body is None:
            return
        self._skipped.append(Skipped(seq=stored.seq, run=body["run"]))
        started = self._building.pop(body["run"], None)
        if started is not None:
            self._complete.append(started.build())

    def _take_gap(self, stored: Stored) -> None:
        """Records that are missing here: the step that follows tells how many, and why."""
        try:
            body = codec.unpack(stored.body)
        except BodyUnreadable:
            body = {}
        reason, count = body.get("reason"), body.get("count")
        if not isinstance(reason, str) or not isinstance(count, int) or not 0 <= count < 2**53:
            self._skipped.append(Skipped(seq=stored.seq))
            return
        count = self._deleted.get(stored.seq, count)
        if count == 0:
            self._skipped.append(Skipped(seq=stored.seq))  # all of them were delivered in time
            return
        self._gaps.append((stored.seq, {f"{DROPPED_NAME}/{reason[:_REASON_CHARACTERS]}": count}))


def _decode(stored: Stored, rejected: list[Rejected]) -> dict[str, Any] | None:
    """The body of a step with its data flat, or that of a finish."""
    try:
        body = codec.unpack(stored.body)
    except BodyUnreadable as error:
        rejected.append(Rejected(stored=stored, reason="unreadable", detail=str(error)))
        return None
    problem = _problem(body) if stored.kind == "step" else _no_run(body)
    if stored.kind == "step" and not problem:
        try:
            body["data"] = flatten(body["data"])
        except RecursionError:
            problem = "data is nested too deeply"
    if problem:
        rejected.append(Rejected(stored=stored, reason="malformed", detail=problem))
        return None
    return body


def _no_run(body: Mapping[str, Any]) -> str:
    run = body.get("run")
    if not isinstance(run, str):
        return "run is no text"
    return "" if len(run) <= _RUN_CHARACTERS else f"run is longer than {_RUN_CHARACTERS} characters"


def _is_plain(body: Mapping[str, Any]) -> bool:
    """Whether a body is that of a step beyond doubt, as almost every one is."""
    data = body.get("data")
    run = body.get("run")
    return (
        type(data) is dict
        and _TEXTS.issuperset(map(type, data))
        and type(run) is str
        and len(run) <= _RUN_CHARACTERS
        and type(body.get("step")) is int
        and type(body.get("time")) is float
        and type(body.get("closed")) is bool
    )


def _problem(body: Mapping[str, Any]) -> str:
    """Why a body is not that of a step; bodies come from files that anyone may have written."""
    if _is_plain(body):
        return ""
    no_run = _no_run(body)
    if no_run:
        return no_run
    step = body.get("step")
    if not isinstance(step, int) or isinstance(step, bool):
        return "step is no whole number"
    if not isinstance(body.get("time"), float):
        return "time is no float"
    if not isinstance(body.get("data"), dict):
        return "data is no map"
    if not _TEXTS.issuperset(map(type, body["data"])):
        return "data has a name that is no text"
    if not isinstance(body.get("closed"), bool):
        return "closed is no boolean"
    return ""
