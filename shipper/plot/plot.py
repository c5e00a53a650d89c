"""The part of `lens-ship plot` that is its own: lists what there is, or draws it."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson
from rich.table import Table
from rich.text import Text

from shipper.discovery.layout import find_spools
from shipper.humanize import clock, json_safe, number, sanitize
from shipper.inspection.spool import run_map
from shipper.inspection.stats import Run
from shipper.plot.downsample import Curve, pieces
from shipper.plot.picture import save
from shipper.plot.series import Course, Found, Key, find_runs, labels, matching, to_map
from shipper.plot.terminal import Chart, draw
from shipper.tables import console

_MOST_DRAWN = 12  # more lines in one picture cannot be told apart
_REDRAW_SECONDS = 1.0
_PIXELS = (1200, 700)
_SPANS = ((172800.0, 86400.0, "days"), (7200.0, 3600.0, "hours"), (120.0, 60.0, "minutes"))


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be drawn and how; 0 for sizes means what the terminal has, or a picture needs."""

    places: Sequence[Path]
    run: str = ""
    patterns: Sequence[str] = ()
    ranks: Sequence[int] = ()
    x: str = "step"
    log: bool = False
    smooth: int = 0
    sizes: tuple[int, int] = (0, 0)  # width, height
    png: Path | None = None
    on: bool = False
    as_json: bool = False


def plot(wish: Wish) -> int:
    """Draw, or say what could be drawn; the exit code: 1 when there is nothing of it."""
    found, problems = find_runs(wish.places)
    for problem in problems:
        _say(problem)
    if not wish.run:
        return _list_runs(found, wish)
    runs = matching(found, wish.run)
    if len(runs) != 1:
        what = "begins the id of several runs" if runs else "begins the id of no run"
        _say(f"{wish.run} {what}: {', '.join(runs[:10]) or _runs_there_are(found)}")
        return 1
    wish = replace(wish, run=runs[0])
    if wish.on:
        return _follow(wish)
    course = _course(wish, found)
    course.read()
    _tell(course)
    if not wish.patterns:
        return _list_metrics(course, wish)
    if not course.curves:
        _say(
            f"no metric of run {wish.run} is called {', '.join(wish.patterns)}; see lens-ship plot"
            f" {wish.run}"
        )
        return 1
    if wish.as_json:
        _print_json(to_map(course))
    elif wish.png is not None:
        save(_chart(course, wish, _PIXELS), wish.png, _x_label(course, wish))
        print(f"{sanitize(wish.png, 4096)} written")  # noqa: T201
    else:
        _draw(course, wish)
    return 0


def _course(wish: Wish, found: Sequence[Found]) -> Course:
    return Course(
        wish.run,
        found,
        patterns=wish.patterns or ("*",),
        by_time=wish.x != "step",
        ranks=wish.ranks,
    )


def _follow(wish: Wish) -> int:
    """Draw anew whenever something has come; from the beginning when a process has."""
    directories: set[Path] = set()
    course = Course(wish.run, ())
    while True:
        now = {spool for place in wish.places for spool in find_spools(place)}
        news = now - directories
        if news:
            course = _course(wish, find_runs(wish.places)[0])
        directories |= now
        if course.read() or news:
            if sys.stdout.isatty():
                print("\x1b[H\x1b[2J", end="")  # noqa: T201
            _draw(course, wish)
            sys.stdout.flush()
        time.sleep(_REDRAW_SECONDS)


def _draw(course: Course, wish: Wish) -> None:
    """Charts, then what the curves are; without colours, one chart for each."""
    terminal = shutil.get_terminal_size((100, 30))
    colours = sys.stdout.isatty()
    keys = sorted(course.curves, key=_order)[:_MOST_DRAWN]
    groups = [keys] if colours else [[key] for key in keys]
    height = wish.sizes[1] or max(10, min(24, terminal.lines - 4 - len(keys)))
    width = wish.sizes[0] or terminal.columns
    for group in groups:
        chart = _chart(course, wish, (width, height), group)
        print(draw(replace(chart, colours=colours)))  # noqa: T201
    print(f"x: {_x_label(course, wish)}")  # noqa: T201
    out = console()
    out.print(_table(course, keys))
    if len(course.curves) + len(course.left_out) > len(keys):
        left = len(course.curves) + len(course.left_out) - len(keys)
        out.print(f"{left} more curves match and are not drawn; narrow METRIC or --rank")


def _chart(
    course: Course, wish: Wish, sizes: tuple[int, int], keys: Sequence[Key] | None = None
) -> Chart:
    chosen = sorted(course.curves, key=_order)[:_MOST_DRAWN] if keys is None else keys
    names = labels(list(course.curves))
    start, unit, _ = _scale(course, wish)
    curves = {
        sanitize(names[key], 60): [
            [((x - start) / unit, y) for x, y in piece]
            for piece in pieces(course.curves[key].stretches(2 * sizes[0]), wish.smooth)
        ]
        for key in chosen
    }
    title = f"run {sanitize(course.run, 60)}"
    if len(curves) == 1:
        title = f"{next(iter(curves))}, {title}"
    return Chart(
        title=title,
        curves=curves,
        width=wish.sizes[0] or sizes[0],
        height=wish.sizes[1] or sizes[1],
        log=wish.log,
        ticks=_ticks(course, wish) if wish.png is None else {},
    )


def _span(course: Course) -> tuple[float, float]:
    ends = [curve.stretches() for curve in course.curves.values()]
    return min(one[0].x for one in ends), max(one[-1].end for one in ends)


def _scale(course: Course, wish: Wish) -> tuple[float, float, str]:
    """Where x begins, what one unit of it is in seconds, and what that is called."""
    if wish.x == "step" or not course.curves:
        return 0.0, 1.0, "step"
    first, last = _span(course)
    if wish.x == "wall" and wish.png is None:
        return 0.0, 1.0, "time of day"
    for least, unit, name in _SPANS:
        if last - first >= least:
            return first, unit, name
    return first, 1.0, "seconds"


def _x_label(course: Course, wish: Wish) -> str:
    start, _, unit = _scale(course, wish)
    if wish.x == "step":
        return "step"
    return "wall clock" if unit == "time of day" else f"{unit} since {clock(start)}"


def _ticks(course: Course, wish: Wish) -> dict[float, str]:
    """Where x is told: at round numbers, or at five moments of the clock."""
    start, unit, name = _scale(course, wish)
    first, last = ((end - start) / unit for end in _span(course))
    if name != "time of day":
        return {place: f"{place:,.10g}" for place in _round_between(first, last)}
    places = [first + (last - first) * n / 4 for n in range(5)]
    # The date stands at the first; the others are told by their time alone.
    texts = [clock(place) if n == 0 else clock(place)[11:] for n, place in enumerate(places)]
    return dict(zip(places, texts, strict=True))


def _round_between(first: float, last: float) -> list[float]:
    """Between four and nine round numbers, or the one number there is."""
    if last <= first:
        return [first]
    power = 10.0 ** math.floor(math.log10((last - first) / 4))
    spacing = next(power * s for s in (5.0, 2.0, 1.0) if power * s <= (last - first) / 4)
    return [n * spacing for n in range(math.ceil(first / spacing), math.floor(last / spacing) + 1)]


def _order(key: Key) -> tuple[str, int]:
    return key[0], -1 if key[1] is None else key[1]


def _table(course: Course, keys: Sequence[Key]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("metric", "points", "last", "at", "lowest", "highest", "not finite"):
        table.add_column(name, justify="left" if name == "metric" else "right")
    names = labels(list(course.curves))
    for key in keys:
        curve = course.curves[key]
        table.add_row(Text(sanitize(names[key], 80)), *_cells(curve))
    return table


def _cells(curve: Curve) -> tuple[str, ...]:
    x, y = curve.last
    at = f"{int(x):,}" if x < 1e9 else clock(x)
    finite = curve.count > curve.bad
    low, high = (number(curve.low), number(curve.high)) if finite else ("-", "-")
    return f"{curve.count:,}", number(y), at, low, high, f"{curve.bad:,}"


def _list_metrics(course: Course, wish: Wish) -> int:
    if wish.as_json:
        _print_json(to_map(course))
        return 0
    out = console()
    if course.curves:
        out.print(_table(course, sorted(course.curves, key=_order)))
    if course.left_out:
        out.print(f"and {len(course.left_out)} more")
    many = f"{len(course.spools)} spools" if len(course.spools) != 1 else "1 spool"
    run = sanitize(course.run)
    out.print(Text(f"run {run}, in {many}: lens-ship plot {run} METRIC…"))
    return 0 if course.curves else 1


def _list_runs(found: Sequence[Found], wish: Wish) -> int:
    runs: dict[str, Run] = {}
    processes: dict[str, int] = {}
    for one in reversed(found):
        for name, run in one.runs.items():
            runs.setdefault(name, Run(run=name)).add(run)
            processes[name] = processes.get(name, 0) + 1
    if wish.as_json:
        _print_json([{**run_map(run), "processes": processes[run.run]} for run in runs.values()])
        return 0 if runs else 1
    table = Table(box=None, pad_edge=False)
    for name in ("run", "project/name", "processes", "last step", "last record"):
        table.add_column(name)
    for run in sorted(runs.values(), key=lambda run: run.ended or 0.0):
        title = "/".join(sanitize(part, 60) for part in (run.project, run.name) if part)
        last = "-" if run.last_step is None else f"{run.last_step:,}"
        told = (Text(sanitize(run.run, 80)), Text(title), str(processes[run.run]), last)
        table.add_row(*told, clock(run.ended))
    if not runs:
        _say(f"no run at or below {', '.join(str(place) for place in wish.places)}")
        return 1
    console().print(table)
    return 0


def _runs_there_are(found: Sequence[Found]) -> str:
    names = sorted({name for one in found for name in one.runs})
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return f"there are {', '.join(names[:10])}{more}" if names else "there is none"


def _print_json(value: object) -> None:
    print(orjson.dumps(json_safe(value), option=orjson.OPT_INDENT_2).decode())  # noqa: T201


def _tell(course: Course) -> None:
    for problem in course.problems:
        _say(problem)


def _say(text: str) -> None:
    print(f"lens-ship: {sanitize(text, 4096)}", file=sys.stderr)  # noqa: T201
