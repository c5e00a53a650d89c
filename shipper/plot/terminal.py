"""Curves as text for a terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import plotext

Line = list[tuple[float, float]]

# plotext ends the whole process at what is not finite, or where a span is not.
_LARGEST = 1e150


@dataclass(frozen=True, kw_only=True)
class Chart:
    """What is to be drawn: lines by name, each in pieces; sizes in characters."""

    title: str
    curves: Mapping[str, Sequence[Line]]
    width: int
    height: int
    log: bool = False
    colours: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)  # of x; chosen by plotext without any


def draw(chart: Chart) -> str:
    """The lines of the drawing."""
    plotext.terminal.limit(False, False)
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("simple" if chart.colours else "colorless")
    figure.plot_size(chart.width, chart.height)
    figure.title(chart.title)
    heights: list[float] = []
    for name, lines in chart.curves.items():
        points = [point for piece in lines for point in _drawable(piece, log=chart.log)]
        if not points:
            continue
        heights += [y for _, y in points]
        signal = figure.signal([x for x, _ in points], [y for _, y in points], marker="braille")
        signal.lines()
        for place in _breaks(lines, log=chart.log):
            signal.line(place, False)
        if len(chart.curves) > 1:
            signal.label(name)
        figure.draw(signal)
    if chart.log and heights:
        ticks = _log_ticks(min(heights), max(heights))
        figure.ruler("y").ticks(list(ticks), list(ticks.values()))
    if chart.ticks:
        figure.ruler("x").ticks(list(chart.ticks), list(chart.ticks.values()))
    built: str = figure.build().string(colorless=not chart.colours)
    return "\n".join(line.rstrip() for line in built.splitlines())


def _drawable(piece: Line, *, log: bool) -> Line:
    """What plotext takes of a line; with `log`, the logarithms of what is above 0.

    Its own logarithmic axis fails where there is a single value.
    """
    sound = [(x, y) for x, y in piece if abs(y) < _LARGEST and abs(x) < _LARGEST]
    return [(x, math.log10(y)) for x, y in sound if y > 0] if log else sound


def _log_ticks(low: float, high: float) -> dict[float, str]:
    """Up to five places between two logarithms, told as the numbers themselves."""
    places = [low + (high - low) * n / 4 for n in range(5)] if high > low else [low]
    return {place: f"{10.0**place:.3g}" for place in places}


def _breaks(lines: Sequence[Line], *, log: bool) -> list[int]:
    """Places of points that are not to be joined to the one before."""
    places, count = [], 0
    for piece in lines:
        places.append(count)
        count += len(_drawable(piece, log=log))
    return places[1:]
