"""`lens-ship plot`: lists runs and metrics, or draws series."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from shipper.humanize import clock, counted, json_safe, number, sanitize, to_json
from shipper.inspection.stats import RunStats
from shipper.plot.series import (
    RunSeries,
    SeriesKey,
    SpoolRuns,
    find_runs,
    matching_runs,
    read_run,
    series_names,
)
from shipper.plot.terminal import Chart, draw
from shipper.tables import console
from spooler.records.axes import STEP_KEYS

_MAX_DRAWN = 12  # more lines cannot be told apart in one chart
_UNITS = ((172800.0, 86400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"))


@dataclass(frozen=True, kw_only=True)
class PlotOptions:
    """What to draw and how."""

    places: Sequence[Path]
    run: str = ""
    patterns: Sequence[str] = ()
    ranks: Sequence[int] = ()
    by_time: bool = False
    log: bool = False
    width: int | None = None  # in characters, None for that of the terminal
    height: int | None = None
    as_json: bool = False
    step_keys: Sequence[str] = STEP_KEYS


def plot(options: PlotOptions) -> int:
    """Draw, or list what can be drawn. Returns the exit code: 1 if there is nothing of it."""
    spools, problems = find_runs(options.places)
    for problem in problems:
        _warn(problem)
    if not options.run:
        return _list_runs(spools, options)
    runs = matching_runs(spools, options.run)
    if len(runs) != 1:
        if runs:
            _warn(f"several runs begin with {options.run}: {', '.join(runs[:10])}")
        else:
            names = sorted({name for one in spools for name in one.runs})
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            _warn(
                f"no run begins with {options.run}, runs: {', '.join(names[:10]) or 'none'}{more}"
            )
        return 1
    found = read_run(
        runs[0],
        spools,
        patterns=options.patterns or ("*",),
        by_time=options.by_time,
        ranks=options.ranks,
        step_keys=options.step_keys,
    )
    for problem in found.problems:
        _warn(problem)
    if options.patterns and not found.series:
        missing = ", ".join(options.patterns)
        _warn(f"run {found.run} has no metric {missing}. List them: lens-ship plot {found.run}")
        return 1
    if options.as_json:
        print(to_json(json_safe(found.to_map()), indent=True).decode())  # noqa: T201
    elif options.patterns:
        _draw(found, options)
    else:
        _list_metrics(found)
    return 0 if found.series else 1


def _draw(found: RunSeries, options: PlotOptions) -> None:
    """Print all series in one chart, or without colours each in its own, and a table."""
    terminal = shutil.get_terminal_size((100, 30))
    colours = sys.stdout.isatty()
    keys = _sorted_keys(found)[:_MAX_DRAWN]
    names = series_names(list(found.series))
    width = options.width or terminal.columns
    height = options.height or max(10, min(24, terminal.lines - 4 - len(keys)))
    start, unit, x_label = _x_axis(found, options)
    for group in [keys] if colours else [[key] for key in keys]:
        lines = {
            sanitize(names[key], 60): [
                [((x - start) / unit, y) for x, y in line]
                for line in found.series[key].lines(2 * width)
            ]
            for key in group
        }
        title = f"run {sanitize(found.run, 60)}"
        chart = Chart(
            title=f"{next(iter(lines))}, {title}" if len(lines) == 1 else title,
            series=lines,
            width=width,
            height=height,
            log=options.log,
            colours=colours,
        )
        print(draw(chart))  # noqa: T201
    print(f"x: {x_label}")  # noqa: T201
    out = console()
    out.print(_table(found, keys))
    left = len(found.series) + len(found.omitted) - len(keys)
    if left:
        out.print(f"{counted(left, 'matching metric')} not drawn, narrow METRIC or --rank")


def _x_axis(found: RunSeries, options: PlotOptions) -> tuple[float, float, str]:
    """The x at the origin, the length of a unit, and the label."""
    if not options.by_time:
        return 0.0, 1.0, "step"
    every = [series.buckets() for series in found.series.values()]
    first, last = min(one[0].x for one in every), max(one[-1].end for one in every)
    fitting = ((unit, name) for least, unit, name in _UNITS if last - first >= least)
    unit, name = next(fitting, (1.0, "seconds"))
    return first, unit, f"{name} since {clock(first)}"


def _sorted_keys(found: RunSeries) -> list[SeriesKey]:
    return sorted(found.series, key=lambda key: (key[0], -1 if key[1] is None else key[1]))


def _table(found: RunSeries, keys: Sequence[SeriesKey]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("metric", "points", "last", "at", "lowest", "highest", "not finite"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    names = series_names(list(found.series))
    for key in keys:
        series = found.series[key]
        x, y = series.last
        finite = series.count > series.bad
        table.add_row(
            Text(sanitize(names[key], 80)),
            f"{series.count:,}",
            number(y),
            f"{int(x):,}" if x < 1e9 else clock(x),
            number(series.low) if finite else "-",
            number(series.high) if finite else "-",
            f"{series.bad:,}",
        )
    return table


def _list_metrics(found: RunSeries) -> None:
    out = console()
    if found.series:
        out.print(_table(found, _sorted_keys(found)))
    if found.omitted:
        out.print(f"and {len(found.omitted)} more")
    run = sanitize(found.run)
    out.print(
        Text(f"run {run} in {counted(len(found.spools), 'spool')}: lens-ship plot {run} METRIC")
    )


def _list_runs(spools: Sequence[SpoolRuns], options: PlotOptions) -> int:
    runs: dict[str, RunStats] = {}
    processes: dict[str, int] = {}
    for one in reversed(spools):
        for name, run in one.runs.items():
            runs.setdefault(name, RunStats(run=name)).merge(run)
            processes[name] = processes.get(name, 0) + 1
    if options.as_json:
        maps = [{**run.to_map(), "processes": processes[run.run]} for run in runs.values()]
        print(to_json(json_safe(maps), indent=True).decode())  # noqa: T201
    elif not runs:
        _warn(f"no run at or below {', '.join(str(place) for place in options.places)}")
    else:
        table = Table(
            "run", "project/name", "processes", "last step", "last record", box=None, pad_edge=False
        )
        for run in sorted(runs.values(), key=lambda run: run.ended or 0.0):
            title = "/".join(sanitize(part, 60) for part in (run.project, run.name) if part)
            last = "-" if run.last_step is None else f"{run.last_step:,}"
            name = sanitize(run.run, 80)
            table.add_row(Text(name), Text(title), str(processes[run.run]), last, clock(run.ended))
        console().print(table)
    return 0 if runs else 1


def _warn(text: str) -> None:
    print(f"lens-ship: {sanitize(text, 4096)}", file=sys.stderr)  # noqa: T201
