"""The loss curve of the demo as text, with the moment of the kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotext

Point = tuple[int, float]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What is to be drawn, in characters; `mark` is a step and what to write below it."""

    title: str
    points: Sequence[Point]
    mark: tuple[int, str]
    width: int
    height: int


def draw(drawing: Drawing) -> str:
    """Return the lines of the drawing, without colours."""
    points = thinned(drawing.points, 2 * drawing.width)
    steps = [step for step, _ in points]
    values = [value for _, value in points]
    ticks = _ticks(steps[-1], drawing)
    text = _lines(drawing, steps, values, ticks)
    return "\n".join(line.rstrip() for line in text.splitlines())


def thinned(points: Sequence[Point], limit: int) -> list[Point]:
    """At most `limit` points: the mean of each stretch, so that noise does not hide the course."""
    size = max(1, -(-len(points) // limit))
    stretches = (points[start : start + size] for start in range(0, len(points), size))
    return [(part[len(part) // 2][0], fmean(value for _, value in part)) for part in stretches]


def _ticks(last: int, drawing: Drawing) -> dict[int, str]:
    """The ends and the mark; an end that the mark's text would cover is left out."""
    step, text = drawing.mark
    ticks = {end: f"{end:,}" for end in (0, last)}
    room = (len(text) / 2 + 6) * last / drawing.width
    return {**{at: name for at, name in ticks.items() if abs(at - step) > room}, step: text}


def _lines(drawing: Drawing, steps: list[int], values: list[float], ticks: dict[int, str]) -> str:
    plotext.terminal.limit(False, False)
    figure: Any = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(drawing.width, drawing.height)
    figure.title(drawing.title)
    figure.draw(figure.signal(steps, values, marker="braille").lines())
    figure.line(drawing.mark[0], "vertical", style="dotted")
    figure.ruler("x").ticks(list(ticks), list(ticks.values()))
    built: str = figure.build().string(colorless=True)
    return built
