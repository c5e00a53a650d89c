"""Reads the metrics of a run as series, from the spools of all its processes.

A run that was resumed lies in several spools, one for each process. Where a later process of the
same rank repeats steps, its values count, as they do at the receiver: the newest spool is read
first, and older ones only for steps that no newer one covers. Within a spool the last part of a
step that names a metric counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from shipper.discovery.layout import spools_at
from shipper.inspection.spool import merged_stats, read_segments
from shipper.inspection.stats import MAX_METRICS, RunStats, record_time
from shipper.plot.downsample import Series
from shipper.steps import rows_in
from spooler.errors import BodyUnreadable, SpoolError
from spooler.records.axes import STEP_KEYS
from spooler.spool import codec
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader, Stored

# More cannot be told apart in one chart, and each takes about half a megabyte.
MAX_SERIES = 64
_MAX_PROBLEMS = 100

SeriesKey = tuple[str, int | None]  # metric, rank


class StepValues(NamedTuple):
    """The numbers in a row of one step record, which may be a part of a step."""

    run: str
    step: int
    time: float | None  # Unix seconds
    values: dict[str, float]


def read_step(stored: Stored, step_keys: Sequence[str] = STEP_KEYS) -> list[StepValues]:
    """The numbers of a record in each of its rows, none if it is not a step.

    Raises:
        BodyUnreadable: its body does not decode.
    """
    if stored.kind != "step":
        return []
    body = codec.unpack(stored.body)
    return [
        StepValues(str(body.get("run")), step, record_time(body), _numbers(data))
        for step, data in rows_in(body, step_keys)
    ]


def _numbers(data: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: _float(value)
        for name, value in data.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


@dataclass(frozen=True, kw_only=True)
class SpoolRuns:
    """A spool and the runs in it, as far as a sample shows."""

    reader: Reader
    identity: Identity
    runs: Mapping[str, RunStats]


def find_runs(places: Sequence[Path]) -> tuple[list[SpoolRuns], list[str]]:
    """Every readable spool at or below `places`, newest first, and what could not be read."""
    found, problems = dict[str, SpoolRuns](), list[str]()
    for directory in chain.from_iterable(map(spools_at, places)):
        reader = Reader(directory)
        if not reader.segments():
            continue
        try:
            identity = reader.identity()
        except (SpoolError, OSError) as error:
            problems.append(f"{directory}: {error}")
            continue
        runs = merged_stats(read_segments(reader, alive=False, whole=False)).runs
        found[identity.spool] = SpoolRuns(reader=reader, identity=identity, runs=runs)
    newest = sorted(found.values(), key=lambda one: (-one.identity.created, one.identity.spool))
    return newest, problems


def matching_runs(spools: Sequence[SpoolRuns], run: str) -> list[str]:
    """The run with the id `run`, else all whose id begins with it."""
    names = {name for one in spools for name in one.runs}
    return [run] if run in names else sorted(name for name in names if name.startswith(run))


@dataclass(kw_only=True)
class RunSeries:
    """The series of one run. `omitted` are those beyond `MAX_SERIES`."""

    run: str
    spools: list[str] = field(default_factory=list)  # newest first
    series: dict[SeriesKey, Series] = field(default_factory=dict)
    omitted: set[SeriesKey] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)
    step_keys: Sequence[str] = STEP_KEYS  # see `shipper.steps`

    def add(self, key: SeriesKey, x: float, y: float) -> None:
        series = self.series.get(key)
        if series is None:
            if key in self.omitted or len(self.series) >= MAX_SERIES:
                if len(self.omitted) < MAX_METRICS:
                    self.omitted.add(key)
                return
            series = self.series[key] = Series()
        series.add(x, y)

    def report(self, problem: str) -> None:
        if problem not in self.problems and len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(problem)

    def to_map(self) -> list[dict[str, Any]]:
        """The series in buckets, see `Bucket`, with the mean of each."""
        return [
            {
                "metric": metric,
                "rank": rank,
                "points": series.count,
                "not_finite": series.bad,
                "buckets": [
                    {**bucket._asdict(), "mean": bucket.mean}
                    for bucket in series.buckets()
                    if bucket.points
                ],
            }
            for (metric, rank), series in sorted(self.series.items(), key=str)
        ]


def read_run(
    run: str,
    spools: Sequence[SpoolRuns],
    *,
    patterns: Sequence[str] = ("*",),
    by_time: bool = False,
    ranks: Sequence[int] = (),
    step_keys: Sequence[str] = STEP_KEYS,
) -> RunSeries:
    """The series of `run` whose metric matches a pattern. `spools` are ordered newest first.

    x is the step, or with `by_time` the Unix time.
    """
    found = RunSeries(run=run, step_keys=step_keys)
    covered: dict[int | None, list[tuple[int, int]]] = {}  # rank -> steps of newer processes

    @lru_cache(MAX_METRICS)
    def is_wanted(metric: str) -> bool:
        return any(fnmatchcase(metric, pattern) for pattern in patterns)

    for one in spools:
        rank = one.identity.rank
        if run not in one.runs or (ranks and rank not in ranks):
            continue
        found.spools.append(one.identity.spool)
        newer = covered.setdefault(rank, [])
        steps = _read_spool(one, found, newer=tuple(newer), is_wanted=is_wanted, by_time=by_time)
        if steps is not None:
            newer.append(steps)
    return found


def _read_spool(
    one: SpoolRuns,
    found: RunSeries,
    *,
    newer: Sequence[tuple[int, int]],
    is_wanted: Callable[[str], bool],
    by_time: bool,
) -> tuple[int, int] | None:
    """Add the points of a spool to `found`. Returns its first and last step."""
    rank, first, last = one.identity.rank, None, None
    # A later part of the same step may name a metric again: a value is held until its step is over.
    held: dict[str, tuple[int, float, float]] = {}  # metric -> step, x, y
    for step in _steps(one, found):
        first = step.step if first is None else min(first, step.step)
        last = step.step if last is None else max(last, step.step)
        x = step.time if by_time else float(step.step)
        if x is None or any(low <= step.step <= high for low, high in newer):
            continue
        for metric, y in step.values.items():
            if not is_wanted(metric):
                continue
            before = held.get(metric)
            if before is not None and before[0] != step.step:
                found.add((metric, rank), *before[1:])
            if before is not None or len(held) < MAX_METRICS:
                held[metric] = (step.step, x, y)
    for metric, (_, x, y) in held.items():
        found.add((metric, rank), x, y)
    return None if first is None or last is None else (first, last)


def _steps(one: SpoolRuns, found: RunSeries) -> Iterator[StepValues]:
    """The step records of the run `found.run` in a spool."""
    marker = codec.pack({"run": found.run})[1:]  # key and value, as each body holds them
    try:
        for chunk in one.reader.chunks():
            for damage in chunk.damage:
                found.report(str(damage))
            for stored in (stored for stored in chunk.records if marker in stored.body):
                try:
                    rows = read_step(stored, found.step_keys)
                except BodyUnreadable as error:
                    found.report(f"{one.reader.directory}: record {stored.seq}: {error}")
                    continue
                yield from (row for row in rows if row.run == found.run)
    except (SpoolError, OSError) as error:
        found.report(str(error))


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def series_names(keys: Sequence[SeriesKey]) -> dict[SeriesKey, str]:
    """A name for each series: the metric, and the rank if there are several."""
    several = len({rank for _, rank in keys}) > 1
    return {
        (metric, rank): f"{metric} r{'?' if rank is None else rank}" if several else metric
        for metric, rank in keys
    }
