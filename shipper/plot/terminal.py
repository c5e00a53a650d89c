"""Draws a chart as text. The only importer of plotext."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotext

from shipper.plot.downsample import Point

# plotext exits the whole process at values that are not finite, or whose span is not.
_MAX_VALUE = 1e150


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Named series, each drawn as one or several lines. Sizes are in characters."""

    title: str
    series: Mapping[str, Sequence[Sequence[Point]]]
    width: int
    height: int
    log: bool = False
    colours: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)  # of x, chosen by plotext if empty
    mark: float | None = None  # x of a dotted vertical line


def draw(chart: Chart) -> str:
    plotext.terminal.limit(False, False)
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("simple" if chart.colours else "colorless")
    figure.plot_size(chart.width, chart.height)
    figure.title(chart.title)
    heights: list[float] = []
    for name, lines in chart.series.items():
        pieces = [piece for line in lines if (piece := _drawable(line, log=chart.log))]
        points = [point for piece in pieces for point in piece]
        if not points:
            continue
        heights += [y for _, y in points]
        signal = figure.signal([x for x, _ in points], [y for _, y in points], marker="braille")
        signal.lines()
        start = 0
        for piece in pieces[:-1]:
            start += len(piece)
            signal.line(start, False)  # this point is not joined to the one before
        if len(chart.series) > 1:
            signal.label(name)
        figure.draw(signal)
    if chart.mark is not None:
        figure.line(chart.mark, "vertical", style="dotted")
    if chart.log and heights:
        ticks = _log_ticks(min(heights), max(heights))
        figure.ruler("y").ticks(list(ticks), list(ticks.values()))
    if chart.ticks:
        figure.ruler("x").ticks(list(chart.ticks), list(chart.ticks.values()))
    built: str = figure.build().string(colorless=not chart.colours)
    return "\n".join(line.rstrip() for line in built.splitlines())


def _drawable(line: Sequence[Point], *, log: bool) -> list[Point]:
    """The points that plotext can draw, with `log` the logarithms of values above 0.

    Its own logarithmic axis fails for a single value.
    """
    finite = [(x, y) for x, y in line if abs(y) < _MAX_VALUE and abs(x) < _MAX_VALUE]
    return [(x, math.log10(y)) for x, y in finite if y > 0] if log else finite


def _log_ticks(low: float, high: float) -> dict[float, str]:
    """Up to five ticks between two logarithms, labelled with the numbers themselves."""
    places = [low + (high - low) * n / 4 for n in range(5)] if high > low else [low]
    return {place: f"{10.0**place:.3g}" for place in places}
