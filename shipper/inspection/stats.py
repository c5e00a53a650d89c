"""Counts what records hold: kinds, runs with their steps and metrics, gaps. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spooler.errors import BodyUnreadable
from spooler.records import REGISTRY, gap
from spooler.records.step import flatten
from spooler.spool import codec
from spooler.spool.stored import Stored

# Far above what trainings have; a spool is written by others and must not fill our memory.
MOST_RUNS = 1000
MOST_NAMES = 2000  # metrics of one run
MOST_GAPS = 1000
MOST_KINDS = 100
OTHERS = "…"  # stands for the kinds beyond the limit


@dataclass(kw_only=True)
class Run:
    """One run, as far as its records were seen; times are Unix seconds."""

    run: str
    project: str = ""
    name: str = ""
    steps: int = 0  # records of steps, parts included
    first_step: int | None = None
    last_step: int | None = None
    began: float | None = None
    ended: float | None = None  # time of its last record
    finished: bool = False
    exit_code: int | None = None
    metrics: set[str] = field(default_factory=set)
    more_metrics: bool = False

    def note_step(self, body: Mapping[str, Any]) -> None:
        """Count a step or a part of one."""
        self.steps += 1
        step = body.get("step")
        if isinstance(step, int):
            self._widen(step)
        data = body.get("data")
        for name in flatten(data) if isinstance(data, dict) else ():
            if len(self.metrics) < MOST_NAMES:
                self.metrics.add(str(name))
            elif name not in self.metrics:
                self.more_metrics = True

    def note_time(self, time: float | None) -> None:
        """Let it begin no later and end no earlier than this."""
        if time is not None:
            self.began = time if self.began is None else min(self.began, time)
            self.ended = time if self.ended is None else max(self.ended, time)

    def add(self, other: Run) -> None:
        """Take in what was seen of the same run elsewhere, later on."""
        self.project, self.name = self.project or other.project, self.name or other.name
        self.steps += other.steps
        for step in (other.first_step, other.last_step):
            if step is not None:
                self._widen(step)
        self.note_time(other.began)
        self.note_time(other.ended)
        if other.finished:
            self.finished, self.exit_code = True, other.exit_code
        room = MOST_NAMES - len(self.metrics)
        new = sorted(other.metrics - self.metrics)
        self.metrics.update(new[:room])
        self.more_metrics |= other.more_metrics or len(new) > room

    def _widen(self, step: int) -> None:
        self.first_step = step if self.first_step is None else min(self.first_step, step)
        self.last_step = step if self.last_step is None else max(self.last_step, step)


@dataclass(frozen=True, kw_only=True)
class Gap:
    """What a gap record tells; seqs are 0 where the records never had one."""

    seq: int
    reason: str
    count: int
    first: int
    last: int


@dataclass(kw_only=True)
class Tally:
    """What was counted; `unreadable` are records whose body does not decode, as (seq, why)."""

    kinds: Counter[str] = field(default_factory=Counter)
    runs: dict[str, Run] = field(default_factory=dict)
    more_runs: bool = False
    gaps: list[Gap] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)
    goodbye: bool = False

    @property
    def unknown(self) -> list[str]:
        """Kinds that this version does not know."""
        return sorted(self.kinds.keys() - REGISTRY.keys() - {OTHERS})

    def note(self, stored: Stored) -> dict[str, Any]:
        """Count a record and look into it; its body, empty where it does not decode."""
        self.count(stored.kind, 1)
        return self.look_into(stored)

    def count(self, kind: str, records: int) -> None:
        """Count records of a kind without looking into them."""
        known = kind in self.kinds or len(self.kinds) < MOST_KINDS
        self.kinds[kind if known else OTHERS] += records

    def look_into(self, stored: Stored) -> dict[str, Any]:
        """Take from a record what it tells, without counting it."""
        try:
            body = codec.unpack(stored.body)
        except BodyUnreadable as error:
            if len(self.unreadable) < MOST_GAPS:
                self.unreadable.append((stored.seq, str(error)))
            return {}
        if stored.kind == "gap":
            self._note_gap(stored.seq, body)
        self.goodbye |= stored.kind == "exit"
        run = body.get("run")
        if isinstance(run, str):
            self._note_run(run, stored.kind, body)
        return body

    def add(self, other: Tally) -> None:
        """Take in what was counted elsewhere, later on."""
        for kind, records in other.kinds.items():
            self.count(kind, records)
        for run in other.runs.values():
            mine = self._run(run.run)
            if mine is not None:
                mine.add(run)
        self.more_runs |= other.more_runs
        self.gaps = (self.gaps + other.gaps)[:MOST_GAPS]
        self.unreadable = (self.unreadable + other.unreadable)[:MOST_GAPS]
        self.goodbye |= other.goodbye

    def _run(self, name: str) -> Run | None:
        if name not in self.runs:
            if len(self.runs) >= MOST_RUNS:
                self.more_runs = True
                return None
            self.runs[name] = Run(run=name)
        return self.runs[name]

    def _note_run(self, name: str, kind: str, body: Mapping[str, Any]) -> None:
        run = self._run(name)
        if run is None:
            return
        run.note_time(record_time(body))
        if kind == "step":
            run.note_step(body)
        elif kind == "run":
            run.project, run.name = _text(body.get("project")), _text(body.get("name"))
        elif kind == "finish":
            code = body.get("exit_code")
            run.finished, run.exit_code = True, code if isinstance(code, int) else None

    def _note_gap(self, seq: int, body: Mapping[str, Any]) -> None:
        if len(self.gaps) >= MOST_GAPS:
            return
        first, last = gap.deleted(body) or (0, 0)
        count = body.get("count")
        count = count if isinstance(count, int) else 0
        reason = _text(body.get("reason"))
        self.gaps.append(Gap(seq=seq, reason=reason, count=count, first=first, last=last))


def record_time(body: Mapping[str, Any]) -> float | None:
    """The `time` of a body, None where it is no number that a clock shows."""
    time = body.get("time")
    if isinstance(time, bool) or not isinstance(time, int | float):
        return None
    return float(time) if abs(time) < 1e11 else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
