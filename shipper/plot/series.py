"""How the metrics of a run went, from the spools of all its processes.

A run that was stopped and resumed lies in several spools, one for each process. Where a later
process of the same rank has gone over the same steps again, its values count, as they do at the
receiver; so the newest spool is read first, and older ones only for steps that no newer one covers.
Within a spool the last part of a step that names a metric counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from shipper.discovery.layout import find_spools
from shipper.inspection.segment import look
from shipper.inspection.stats import MOST_NAMES, Run, Tally, record_time
from shipper.plot.downsample import Curve
from spooler.errors import BodyUnreadable, SpoolError
from spooler.records.step import flatten
from spooler.spool import codec
from spooler.spool import format as fmt
from spooler.spool.identity import Identity
from spooler.spool.reader import Reader, Stored

_READ_RECORDS = 2000
# More curves cannot be told apart in one picture, and each takes about half a megabyte.
MOST_CURVES = 64

Key = tuple[str, int | None]  # metric, rank


@dataclass(frozen=True, kw_only=True)
class Found:
    """A spool and the runs in it, as far as a sample shows."""

    reader: Reader
    identity: Identity
    runs: Mapping[str, Run]


@dataclass(kw_only=True)
class _Source:
    found: Found
    covered: Sequence[tuple[int, int]]  # steps that newer processes of this rank have gone over
    position: int = 0
    first: int | None = None
    last: int | None = None
    open: dict[str, tuple[int, float, float]] = field(default_factory=dict)  # step, x, y

    @property
    def rank(self) -> int | None:
        return self.found.identity.rank


def find_runs(places: Sequence[Path]) -> tuple[list[Found], list[str]]:
    """Every readable spool at or below `places`, newest first; and what could not be read."""
    found, problems = dict[str, Found](), list[str]()
    for place in places:
        single = fmt.is_spool_id(place.resolve().name)
        for directory in [place] if single else find_spools(place):
            reader = Reader(directory)
            if not reader.segments():
                continue
            try:
                identity = reader.identity()
            except (SpoolError, OSError) as error:
                problems.append(f"{directory}: {error}")
                continue
            runs = _runs_in(reader)
            found[identity.spool] = Found(reader=reader, identity=identity, runs=runs)
    newest = sorted(found.values(), key=lambda one: (-one.identity.created, one.identity.spool))
    return newest, problems


def _runs_in(reader: Reader) -> Mapping[str, Run]:
    tally = Tally()
    for number in reader.segments():
        try:
            path = reader.path_of(number)
            tally.add(look(path, number, alive=False, whole=False).tally)
        except FileNotFoundError:
            continue
    return tally.runs


def matching(found: Sequence[Found], run: str) -> list[str]:
    """The runs that `run` names: itself, else those that begin with it."""
    names = {name for one in found for name in one.runs}
    return [run] if run in names else sorted(name for name in names if name.startswith(run))


class Course:
    """The curves of one run; `read` may be called again for what has come since."""

    def __init__(
        self,
        run: str,
        found: Sequence[Found],
        *,
        patterns: Sequence[str] = ("*",),
        by_time: bool = False,
        ranks: Sequence[int] = (),
    ) -> None:
        self.run = run
        self.curves: dict[Key, Curve] = {}
        self.left_out: set[Key] = set()  # matched, and beyond what is kept
        self.problems: list[str] = []
        self._patterns = patterns
        self._wanted: dict[str, bool] = {}  # what was decided of a metric
        self._by_time = by_time
        self._marker = codec.pack({"run": run})[1:]  # key and value, as each body holds them
        self._found = [
            one for one in found if run in one.runs and (not ranks or one.identity.rank in ranks)
        ]
        self._sources: list[_Source] = []

    @property
    def spools(self) -> list[str]:
        """The spools that the run lies in, newest first."""
        return [one.identity.spool for one in self._found]

    def read(self) -> bool:
        """Read what there is; whether anything new was there."""
        if not self._sources:
            return self._read_all()
        # All but the last process of a rank have ended; what comes, comes from those.
        news = [self._read(source) for source in self._sources]
        return any(news)

    def names(self) -> list[str]:
        """Metrics that have a curve."""
        return sorted({metric for metric, _ in self.curves})

    def _read_all(self) -> bool:
        covered: dict[int | None, list[tuple[int, int]]] = {}
        for one in self._found:
            ranges = covered.setdefault(one.identity.rank, [])
            source = _Source(found=one, covered=tuple(ranges))
            self._read(source)
            if source.first is not None and source.last is not None:
                ranges.append((source.first, source.last))
            self._sources.append(source)
        return True

    def _read(self, source: _Source) -> bool:
        news = False
        for stored in self._records(source):
            if stored.kind == "step" and self._marker in stored.body:
                news |= self._note(source, stored)
        for metric, (_, x, y) in source.open.items():
            self._add(source, metric, x, y)
        source.open.clear()
        return news

    def _records(self, source: _Source) -> Iterator[Stored]:
        while True:
            try:
                chunk = source.found.reader.read(source.position, _READ_RECORDS)
            except (SpoolError, OSError) as error:
                self._complain(str(error))
                return
            for damage in chunk.damage:
                which = f"records {damage.first} to {damage.last}"
                self._complain(f"{damage.path}: {which} cannot be read ({damage.reason})")
            yield from chunk.records
            moved, source.position = chunk.through > source.position, chunk.through
            if chunk.at_end or not moved:
                return

    def _complain(self, text: str) -> None:
        if text not in self.problems and len(self.problems) < 100:
            self.problems.append(text)

    def _note(self, source: _Source, stored: Stored) -> bool:
        try:
            body = codec.unpack(stored.body)
        except BodyUnreadable as error:
            self._complain(f"{source.found.reader.directory}: record {stored.seq}: {error}")
            return False
        step, data = body.get("step"), body.get("data")
        if body.get("run") != self.run or not isinstance(step, int) or not isinstance(data, dict):
            return False
        source.first = step if source.first is None else min(source.first, step)
        source.last = step if source.last is None else max(source.last, step)
        if any(first <= step <= last for first, last in source.covered):
            return False
        x = record_time(body) if self._by_time else float(step)
        if x is None:
            return False
        for name, value in flatten(data).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                metric = str(name)
                if self._wants(metric):
                    self._open(source, metric, step, (x, _float(value)))
        return True

    def _open(self, source: _Source, metric: str, step: int, point: tuple[float, float]) -> None:
        """Hold a value until its step is over: a later part of the step may name it again."""
        held = source.open.get(metric)
        if held is not None and held[0] != step:
            self._add(source, metric, held[1], held[2])
        elif held is None and len(source.open) >= MOST_NAMES:
            return
        source.open[metric] = (step, *point)

    def _add(self, source: _Source, metric: str, x: float, y: float) -> None:
        key = (metric, source.rank)
        curve = self.curves.get(key)
        if curve is None:
            if key in self.left_out:
                return
            if len(self.curves) >= MOST_CURVES:
                if len(self.left_out) < MOST_NAMES:
                    self.left_out.add(key)
                return
            curve = self.curves[key] = Curve()
        curve.add(x, y)

    def _wants(self, metric: str) -> bool:
        known = self._wanted.get(metric)
        if known is None:
            known = any(fnmatchcase(metric, pattern) for pattern in self._patterns)
            if len(self._wanted) < MOST_NAMES:
                self._wanted[metric] = known
        return known


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def labels(keys: Sequence[Key]) -> dict[Key, str]:
    """A name for each curve: the metric, and the rank where there are several."""
    several = len({rank for _, rank in keys}) > 1
    return {
        (metric, rank): f"{metric} r{'?' if rank is None else rank}" if several else metric
        for metric, rank in keys
    }


def to_map(course: Course) -> list[dict[str, Any]]:
    """The curves for machines: stretch by stretch, as `Stretch` tells, with the mean."""
    return [
        {
            "metric": metric,
            "rank": rank,
            "points": curve.count,
            "not_finite": curve.bad,
            "stretches": [
                {**stretch._asdict(), "mean": stretch.mean}
                for stretch in curve.stretches()
                if stretch.points
            ],
        }
        for (metric, rank), curve in sorted(course.curves.items(), key=str)
    ]
