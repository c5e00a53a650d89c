"""The loss of each live run, from the ends of its spools.

Read-only and bounded: the last `RECORDS` records of the spools of at most `WORKLOADS` workloads,
downsampled to `POINTS` points, and read again only on request and after a change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from shipper.plot.downsample import Series
from shipper.plot.series import StepValues, read_step
from shipper.status.model import SpoolStatus, Status
from spooler.errors import BodyUnreadable, SpoolError
from spooler.records.axes import STEP_KEYS
from spooler.spool.reader import Reader, Stored

WORKLOADS = 24
_RANKS = 16  # of a workload that are looked at for the first one that logs
RECORDS = 2000
POINTS = 160
_MAX_BODY_BYTES = 64 * 1024

Curve = dict[str, Any]


class Curves:
    """The curves of the spools last asked for."""

    def __init__(self, step_keys: Sequence[str] = STEP_KEYS) -> None:
        self._step_keys = step_keys
        self._cache: dict[str, tuple[int, list[Curve]]] = {}  # spool -> its last seq, its curves

    def of(self, overview: Status) -> list[Curve]:
        """The curves of live runs: of each workload the lowest rank on this node that has one.

        Ranks that log nothing may have spools with what their collectors report.
        """
        before, self._cache = self._cache, {}
        curves: list[Curve] = []
        for spools in _by_workload(overview.spools)[:WORKLOADS]:
            for spool in spools[:_RANKS]:
                found = before.get(spool.spool)
                if found is None or found[0] != spool.written:
                    found = (spool.written, _read(spool, self._step_keys))
                self._cache[spool.spool] = found
                curves += found[1]
                if found[1]:
                    break
        return curves


def _by_workload(spools: Iterable[SpoolStatus]) -> list[list[SpoolStatus]]:
    """The live spools of each workload, the lowest rank first, the last written workload first."""
    found: dict[str, list[SpoolStatus]] = {}
    live = [spool for spool in spools if spool.state in ("writing", "disabled") and spool.written]
    for spool in sorted(live, key=lambda one: (one.rank or 0, -(one.newest or 0))):
        found.setdefault(spool.workload or spool.spool, []).append(spool)
    return sorted(found.values(), key=lambda ones: -max(one.newest or 0 for one in ones))


def _read(spool: SpoolStatus, step_keys: Sequence[str]) -> list[Curve]:
    runs: dict[str, list[StepValues]] = {}
    first = max(0, spool.written - RECORDS)
    with suppress(SpoolError, OSError):
        for chunk in Reader(Path(spool.directory)).chunks(first, first + RECORDS):
            for step in chain.from_iterable(_steps(one, step_keys) for one in chunk.records):
                runs.setdefault(step.run, []).append(step)
    curves = []
    for run, steps in runs.items():
        metric, series = _loss_metric(steps), Series()
        for step in steps:
            value = step.values.get(metric, math.nan) if metric else math.nan
            if math.isfinite(value):
                series.add(step.step, value)
        if series.count > 1:
            curves.append(
                {
                    "run": run,
                    "workload": spool.workload,
                    "rank": spool.rank,
                    "metric": metric,
                    "points": series.points(POINTS),
                    "time": spool.newest,
                }
            )
    return curves


def _steps(stored: Stored, step_keys: Sequence[str]) -> list[StepValues]:
    """The losses of a step: a thousand other metrics would take as much memory each."""
    steps: list[StepValues] = []
    if len(stored.body) <= _MAX_BODY_BYTES:
        with suppress(BodyUnreadable):
            steps = read_step(stored, step_keys)
    return [
        step._replace(values={k: v for k, v in step.values.items() if "loss" in k.lower()})
        for step in steps
    ]


def _loss_metric(steps: list[StepValues]) -> str | None:
    """`loss`, else a name that contains it: training before others, then the shortest."""
    return min(
        {name for step in steps[-50:] for name, y in step.values.items() if math.isfinite(y)},
        key=lambda name: ("train" not in name and name != "loss", len(name), name),
        default=None,
    )
