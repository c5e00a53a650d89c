"""Statistics over records: kinds, runs with their steps and metrics, gaps. Pure, bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

from shipper.steps import rows_in
from spooler.errors import BodyUnreadable
from spooler.records import REGISTRY, finish, gap
from spooler.records import run as run_record
from spooler.spool import codec
from spooler.spool.stored import Stored

_Number = TypeVar("_Number", int, float)

# Far above what trainings have. Spools are untrusted and must not fill the memory of a reader.
MAX_RUNS = 1000
MAX_METRICS = 2000  # of one run
MAX_GAPS = 1000
MAX_KINDS = 100
OTHER_KINDS = "…"  # stands for the kinds beyond the limit


@dataclass(kw_only=True)
class RunStats:
    """One run, as far as its records were read. Times are Unix seconds."""

    run: str
    project: str = ""
    name: str = ""
    steps: int = 0  # step records, parts included
    first_step: int | None = None
    last_step: int | None = None
    began: float | None = None
    ended: float | None = None  # time of its last record
    finished: bool = False
    exit_code: int | None = None
    sole_writer: bool = False
    run_prefix: bool = False
    reason: str = ""  # of the two
    metrics: set[str] = field(default_factory=set)
    more_metrics: bool = False

    def to_map(self) -> dict[str, Any]:
        return {**asdict(self), "metrics": sorted(self.metrics)}

    def add(self, kind: str, body: Mapping[str, Any]) -> None:
        self.began, self.ended = _range(self.began, self.ended, record_time(body))
        if kind == "step":
            self.steps += 1
            for number, data in rows_in(body):
                self.first_step, self.last_step = _range(self.first_step, self.last_step, number)
                self._add_metrics(data)
        elif kind == "run":
            begun = run_record.decode(body)
            self.project, self.name = begun.project or self.project, begun.name or self.name
            self._set_names(begun.sole_writer, begun.run_prefix, begun.reason)
        elif kind == "finish":
            self.finished, self.exit_code = True, finish.decode(body).exit_code

    def merge(self, later: RunStats) -> None:
        """Add what later records of the same run said."""
        self.project, self.name = self.project or later.project, self.name or later.name
        self.steps += later.steps
        steps = (self.first_step, self.last_step, later.first_step, later.last_step)
        self.first_step, self.last_step = _range(*steps)
        self.began, self.ended = _range(self.began, self.ended, later.began, later.ended)
        if later.finished:
            self.finished, self.exit_code = True, later.exit_code
        if later.reason:
            self._set_names(later.sole_writer, later.run_prefix, later.reason)
        self.more_metrics |= later.more_metrics
        self._add_metrics(sorted(later.metrics))

    def _set_names(self, sole_writer: bool, run_prefix: bool, reason: str) -> None:
        self.sole_writer, self.run_prefix, self.reason = sole_writer, run_prefix, reason

    def _add_metrics(self, names: Iterable[str]) -> None:
        for name in names:
            if len(self.metrics) < MAX_METRICS:
                self.metrics.add(name)
            elif name not in self.metrics:
                self.more_metrics = True


@dataclass(frozen=True, kw_only=True)
class GapStats:
    """What a gap record says. The seqs are 0 where the dropped records never had one."""

    seq: int
    reason: str
    count: int
    first: int
    last: int


@dataclass(kw_only=True)
class RecordStats:
    """Statistics over records. `undecodable` holds (seq, why) of bodies that do not decode."""

    kinds: Counter[str] = field(default_factory=Counter)
    runs: dict[str, RunStats] = field(default_factory=dict)
    more_runs: bool = False
    gaps: list[GapStats] = field(default_factory=list)
    undecodable: list[tuple[int, str]] = field(default_factory=list)
    clean_shutdown: bool = False

    @property
    def unknown_kinds(self) -> list[str]:
        return sorted(self.kinds.keys() - REGISTRY.keys() - {OTHER_KINDS})

    def count(self, kind: str, records: int) -> None:
        known = kind in self.kinds or len(self.kinds) < MAX_KINDS
        self.kinds[kind if known else OTHER_KINDS] += records

    def read(self, record: Stored) -> dict[str, Any]:
        """Add what a record says, without counting it. Returns its body, {} if undecodable."""
        body: dict[str, Any] = {}
        try:
            body = codec.unpack(record.body)
            self._read(record, body)
        except BodyUnreadable as error:
            if len(self.undecodable) < MAX_GAPS:
                self.undecodable.append((record.seq, str(error)))
        return body

    def _read(self, record: Stored, body: dict[str, Any]) -> None:
        self.clean_shutdown |= record.kind == "exit"
        if record.kind == "gap" and len(self.gaps) < MAX_GAPS:
            self.gaps.append(_gap_stats(record.seq, gap.decode(body)))
        run = self._run(body.get("run"))
        if run is not None:
            run.add(record.kind, body)

    def merge(self, later: RecordStats) -> None:
        """Add what was counted in later records."""
        for kind, records in later.kinds.items():
            self.count(kind, records)
        for theirs in later.runs.values():
            run = self._run(theirs.run)
            if run is not None:
                run.merge(theirs)
        self.more_runs |= later.more_runs
        self.gaps = (self.gaps + later.gaps)[:MAX_GAPS]
        self.undecodable = (self.undecodable + later.undecodable)[:MAX_GAPS]
        self.clean_shutdown |= later.clean_shutdown

    def _run(self, name: object) -> RunStats | None:
        if not isinstance(name, str):
            return None
        if name not in self.runs:
            if len(self.runs) >= MAX_RUNS:
                self.more_runs = True
                return None
            self.runs[name] = RunStats(run=name)
        return self.runs[name]


def record_time(body: Mapping[str, Any]) -> float | None:
    """The `time` of a body in Unix seconds, None where it is not a number that a clock shows."""
    time = body.get("time")
    if isinstance(time, bool) or not isinstance(time, int | float):
        return None
    return float(time) if abs(time) < 1e11 else None


def _range(*values: _Number | None) -> tuple[_Number | None, _Number | None]:
    """The least and the greatest of those that are not None."""
    known = [value for value in values if value is not None]
    return min(known, default=None), max(known, default=None)


def _gap_stats(seq: int, record: gap.GapRecord) -> GapStats:
    first, last = record.deleted or (0, 0)
    return GapStats(seq=seq, reason=record.reason, count=record.count, first=first, last=last)
