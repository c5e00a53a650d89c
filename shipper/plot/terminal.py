"""Draws a chart as text: lines of braille dots, four rows and two columns of them a character."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle, pairwise

from shipper.plot.downsample import Point

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a dot, by row and column
_COLOURS = (94, 92, 93, 91, 96, 95, 34, 32, 33, 31, 36, 35)  # numbers of SGR
_MAX_EXPONENT = 308.25  # ten to a higher power overflows


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Named series, each drawn as one or several lines. Sizes are in characters."""

    title: str
    series: Mapping[str, Sequence[Sequence[Point]]]
    width: int
    height: int
    log: bool = False
    colours: bool = False
    ticks: Mapping[float, str] = field(default_factory=dict)  # of x, round numbers if empty
    mark: float | None = None  # x of a dotted vertical line


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    dots: int

    def dot(self, value: float) -> int:
        span = self.high / 2 - self.low / 2  # of the halves, as the whole may be infinite
        share = (value / 2 - self.low / 2) / span if span > 0 else 0.5
        return round(share * (self.dots - 1))

    def round_numbers(self) -> list[float]:
        """Between four and nine of them, or the only number there is."""
        quarter = self.high / 4 - self.low / 4
        power = 10.0 ** math.floor(math.log10(quarter)) if quarter > 0 else 0.0
        spacing = next((power * s for s in (5.0, 2.0, 1.0) if power * s <= quarter), 0.0)
        if not spacing:
            return [self.low]
        first, last = math.ceil(self.low / spacing), math.floor(self.high / spacing)
        return [n * spacing for n in range(first, last + 1)]


def draw(chart: Chart) -> str:
    """The chart in at most `height` lines."""
    drawn = {name: [*_lines(pieces, log=chart.log)] for name, pieces in chart.series.items()}
    points = [point for lines in drawn.values() for line in lines for point in line]
    xs, ys = zip(*points, strict=True) if points else ((0.0,), (0.0,))
    legend = _legend(chart) if len(drawn) > 1 else []
    rows = max(1, chart.height - 4 - len(legend))
    up = _Axis(min(ys), max(ys), 4 * rows)
    labels = {rows - 1 - up.dot(y) // 4: _y_label(y, log=chart.log) for y in up.round_numbers()}
    margin = max(len(label) for label in labels.values())
    columns = max(1, chart.width - margin - 2)
    across = _Axis(min(xs), max(xs), 2 * columns)
    ticks = chart.ticks or {x: f"{x:,.10g}" for x in across.round_numbers()}
    places = {across.dot(x) // 2: label for x, label in ticks.items() if points}
    mark = across.dot(chart.mark) // 2 if chart.mark is not None and points else None
    cells = _cells(drawn, across, up, colours=chart.colours)
    edge = "".join("┬" if column in places else "─" for column in range(columns))
    return "\n".join(
        [
            chart.title[: chart.width].center(chart.width).rstrip(),
            f"{'':{margin}}┌{'─' * columns}┐",
            *(
                f"{labels.get(row, '') if points else '':>{margin}}"
                f"{'┤' if points and row in labels else '│'}"
                + "".join(
                    cells.get((row, column), "┊" if column == mark else " ")
                    for column in range(columns)
                )
                + "│"
                for row in range(rows)
            ),
            f"{'':{margin}}└{edge}┘",
            _x_labels(places, margin + 1, chart.width),
            *legend,
        ]
    )


def _lines(pieces: Sequence[Sequence[Point]], *, log: bool) -> Iterator[Sequence[Point]]:
    """With `log`, the logarithms of the values above 0."""
    for piece in pieces:
        yield [(x, math.log10(y)) for x, y in piece if y > 0] if log else piece


def _cells(
    drawn: Mapping[str, Sequence[Sequence[Point]]], across: _Axis, up: _Axis, *, colours: bool
) -> dict[tuple[int, int], str]:
    """The characters that are not empty, by row and column. Where lines meet, the last counts."""
    bits: dict[tuple[int, int], int] = {}
    colour_of: dict[tuple[int, int], int] = {}
    for colour, lines in zip(cycle(_COLOURS), drawn.values(), strict=False):
        for line in lines:
            for x, y in _dots([(across.dot(x), up.dots - 1 - up.dot(y)) for x, y in line]):
                cell = (y // 4, x // 2)
                bits[cell] = bits.get(cell, 0) | _BITS[y % 4][x % 2]
                colour_of[cell] = colour
    return {
        cell: _coloured(chr(0x2800 + dots), colour_of[cell] if colours else None)
        for cell, dots in bits.items()
    }


def _dots(line: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    yield from line[:1]
    for (x, y), (to_x, to_y) in pairwise(line):
        steps = max(abs(to_x - x), abs(to_y - y))
        for n in range(1, steps + 1):
            yield x + round((to_x - x) * n / steps), y + round((to_y - y) * n / steps)


def _y_label(y: float, *, log: bool) -> str:
    return f"{10.0 ** min(y, _MAX_EXPONENT):.3g}" if log else f"{y:.10g}"


def _x_labels(places: Mapping[int, str], margin: int, width: int) -> str:
    """Labels below their ticks, without those that have no space."""
    line = ""
    for column, label in sorted(places.items()):
        start = max(0, min(margin + column - len(label) // 2, width - len(label)))
        if not line or start > len(line):
            line = f"{line:{start}}{label}"
    return line


def _legend(chart: Chart) -> list[str]:
    """A line with the names, as far as they fit."""
    line, left = "", chart.width
    for colour, name in zip(cycle(_COLOURS), chart.series, strict=False):
        left -= len(name) + 4
        if left >= 0:
            line += f"{_coloured('⠒⠒', colour if chart.colours else None)} {name} "
    return [line.rstrip()]


def _coloured(text: str, colour: int | None) -> str:
    return text if colour is None else f"\x1b[{colour}m{text}\x1b[0m"
