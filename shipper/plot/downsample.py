"""A curve of any length in bounded memory: points become stretches when there are too many. Pure.

A stretch keeps the lowest and the highest value with their places, so that a spike among a million
points is still seen, and sum and count, so that means are those of all points.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

KEPT = 1024  # stretches after thinning; twice as many before


class Stretch(NamedTuple):
    """Neighbouring points, or one; `bad` counts values that are not finite, which have no y."""

    x: float  # of the first
    end: float  # x of the last
    points: int  # of finite values
    total: float
    low: float
    low_x: float
    high: float
    high_x: float
    bad: int

    @property
    def mean(self) -> float:
        """Of the finite values; NaN without any."""
        return self.total / self.points if self.points else math.nan


@dataclass(kw_only=True)
class Curve:
    """The points of one metric of one rank, given in any order."""

    count: int = 0
    bad: int = 0
    last: tuple[float, float] = (-math.inf, math.nan)  # the point with the highest x
    low: float = math.inf
    high: float = -math.inf
    _stretches: list[Stretch] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """Add a point; `y` may be NaN or infinite."""
        self.count += 1
        if x >= self.last[0]:
            self.last = (x, y)
        if not math.isfinite(y):
            self.bad += 1
            stretch = Stretch(x, x, 0, 0.0, math.inf, x, -math.inf, x, 1)
        else:
            self.low, self.high = min(self.low, y), max(self.high, y)
            stretch = Stretch(x, x, 1, y, y, x, y, x, 0)
        self._stretches.append(stretch)
        if len(self._stretches) > 2 * KEPT:
            self._stretches = thinned(self._stretches, KEPT)

    def stretches(self, at_most: int = KEPT) -> list[Stretch]:
        """The curve in stretches, by x."""
        return thinned(self._stretches, at_most)


def thinned(stretches: list[Stretch], at_most: int) -> list[Stretch]:
    """At most so many stretches, by x; as they are where that is few enough.

    Each is of the same width in x, a power of two, and begins at a multiple of it: what was thinned
    before lies within one of those that come later, so that stretches never overlap.
    """
    stretches = sorted(stretches)
    if len(stretches) <= at_most:
        return stretches
    span = stretches[-1].x - stretches[0].x
    if at_most < 2 or span <= 0:
        return [_joined(stretches)]
    width = 2.0 ** math.ceil(math.log2(span / (at_most - 1)))
    groups = groupby(stretches, key=lambda one: math.floor(one.x / width))
    return [_joined(list(group)) for _, group in groups]


def _joined(group: list[Stretch]) -> Stretch:
    if len(group) == 1:
        return group[0]
    low = min(group, key=lambda one: one.low)
    high = max(group, key=lambda one: one.high)
    return Stretch(
        x=group[0].x,
        end=max(one.end for one in group),
        points=sum(one.points for one in group),
        total=sum(one.total for one in group),
        low=low.low,
        low_x=low.low_x,
        high=high.high,
        high_x=high.high_x,
        bad=sum(one.bad for one in group),
    )


def pieces(stretches: list[Stretch], smooth: int = 0) -> Iterator[list[tuple[float, float]]]:
    """The lines to draw: broken where values are not finite; `smooth` is in points, 0 for none.

    Unsmoothed, a stretch of several points is drawn from its lowest to its highest one. Smoothed,
    each is the mean of the points up to it, as many as `smooth` or the stretch itself has.
    """
    line: list[tuple[float, float]] = []
    for place, one in enumerate(stretches):
        if not one.points:
            if line:
                yield line
            line = []
        elif smooth > 1:
            line.append((one.end, _mean_up_to(stretches, place, smooth)))
        elif one.points == 1:
            line.append((one.low_x, one.low))
        else:
            line += sorted({(one.low_x, one.low), (one.high_x, one.high)})
    if line:
        yield line


def _mean_up_to(stretches: list[Stretch], place: int, points: int) -> float:
    count, total = 0, 0.0
    while place >= 0 and count < points and stretches[place].points:
        count += stretches[place].points
        total += stretches[place].total
        place -= 1
    return total / count
