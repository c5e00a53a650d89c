"""The loss curve of each run that is being written, from the ends of its spools.

Read-only and bounded: of at most `SPOOLS` spools the last `RECORDS` records, kept as `POINTS`
points, and read anew only when somebody asks and something has changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from shipper.status.model import SpoolStatus, Status
from spooler.errors import BodyUnreadable, SpoolError
from spooler.records.step import flatten
from spooler.spool import codec
from spooler.spool.reader import Reader, Stored

SPOOLS = 24
RECORDS = 2000
POINTS = 160
_BODY_BYTES = 64 * 1024

Curve = dict[str, Any]


class Curves:
    """The curves of the spools last asked for."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, list[Curve]]] = {}  # spool -> its end then, its curves

    def of(self, overview: Status) -> list[Curve]:
        """The curves of live runs: of each workload the lowest rank that is written here."""
        chosen = list(_chosen(overview.spools))[:SPOOLS]
        known = {}
        for spool in chosen:
            seen = self._known.get(spool.spool)
            if seen is None or seen[0] != spool.written:
                seen = (spool.written, _read(spool))
            known[spool.spool] = seen
        self._known = known
        return [curve for spool in chosen for curve in known[spool.spool][1]]


def _chosen(spools: Iterable[SpoolStatus]) -> Iterable[SpoolStatus]:
    """One live spool for each workload, those last written first."""
    best: dict[str, SpoolStatus] = {}
    live = [spool for spool in spools if spool.state in ("writing", "withheld") and spool.written]
    for spool in sorted(live, key=lambda one: (one.rank or 0, -(one.newest or 0))):
        best.setdefault(spool.workload or spool.spool, spool)
    return sorted(best.values(), key=lambda one: -(one.newest or 0))


def _read(spool: SpoolStatus) -> list[Curve]:
    reader = Reader(Path(spool.directory))
    try:
        records = reader.read(max(0, spool.written - RECORDS), RECORDS).records
    except (SpoolError, OSError):
        return []
    runs: dict[str, list[tuple[float, dict[str, Any]]]] = {}
    for body in _steps(records):
        data = body.get("data")
        if isinstance(data, dict) and isinstance(body.get("step"), int):
            runs.setdefault(str(body.get("run")), []).append((body["step"], flatten(data)))
    curves = []
    for run, steps in runs.items():
        metric = _metric(steps)
        points = [(step, data[metric]) for step, data in steps if _is_number(data.get(metric))]
        if metric and len(points) > 1:
            curves.append(
                {
                    "run": run,
                    "workload": spool.workload,
                    "rank": spool.rank,
                    "metric": metric,
                    "points": thinned(points),
                    "time": spool.newest,
                }
            )
    return curves


def _steps(records: Iterable[Stored]) -> Iterable[dict[str, Any]]:
    for stored in records:
        if stored.kind == "step" and len(stored.body) <= _BODY_BYTES:
            try:
                yield codec.unpack(stored.body)
            except BodyUnreadable:
                continue


def _metric(steps: list[tuple[float, dict[str, Any]]]) -> str:
    """What is called loss, else what has it in its name, shortest first, training before others."""
    names = {name for _, data in steps[-50:] for name, value in data.items() if _is_number(value)}
    lossy = [name for name in names if "loss" in name.lower()]
    return min(
        lossy,
        key=lambda name: ("train" not in name and name != "loss", len(name), name),
        default="",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points: lowest and highest of each stretch, in order, and the last."""
    if len(points) <= POINTS:
        return points
    stretches = POINTS // 2 - 1
    kept: list[tuple[float, float]] = []
    for number in range(stretches):
        part = points[number * len(points) // stretches : (number + 1) * len(points) // stretches]
        ends = {part.index(min(part, key=_value)), part.index(max(part, key=_value))}
        kept += [part[place] for place in sorted(ends)]
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _value(point: tuple[float, float]) -> float:
    return point[1]
