"""A series of any length in bounded memory: points are merged into buckets. Pure.

A bucket keeps its lowest and highest value with their places, so that a spike among a million
points is still drawn, and sum and count, so that its mean is that of all its points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

KEPT = 1024  # buckets after downsampling, twice as many before

Point = tuple[float, float]


class Bucket(NamedTuple):
    """One or several neighbouring points. `bad` counts values that are not finite."""

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
        """Of the finite values, NaN without any."""
        return self.total / self.points if self.points else math.nan


@dataclass(kw_only=True)
class Series:
    """The points of one metric of one rank, added in any order."""

    count: int = 0
    bad: int = 0
    last: Point = (-math.inf, math.nan)  # the point with the highest x
    low: float = math.inf
    high: float = -math.inf
    _buckets: list[Bucket] = field(default_factory=list)

    def add(self, x: float, y: float) -> None:
        """Add a point. `y` may be NaN or infinite."""
        self.count += 1
        if x >= self.last[0]:
            self.last = (x, y)
        if math.isfinite(y):
            self.low, self.high = min(self.low, y), max(self.high, y)
            bucket = Bucket(x, x, 1, y, y, x, y, x, 0)
        else:
            self.bad += 1
            bucket = Bucket(x, x, 0, 0.0, math.inf, x, -math.inf, x, 1)
        self._buckets.append(bucket)
        if len(self._buckets) > 2 * KEPT:
            self._buckets = downsample(self._buckets, KEPT)

    def buckets(self, at_most: int = KEPT) -> list[Bucket]:
        """The series by x, in at most so many buckets."""
        return downsample(self._buckets, at_most)

    def lines(self, at_most: int = KEPT) -> list[list[Point]]:
        """Lines to draw, broken at values that are not finite.

        A bucket of several points is drawn as its lowest and its highest one.
        """
        return [
            [
                point
                for one in group
                for point in sorted({(one.low_x, one.low), (one.high_x, one.high)})
            ]
            for finite, group in groupby(self.buckets(at_most), key=lambda one: one.points > 0)
            if finite
        ]

    def points(self, at_most: int) -> list[Point]:
        """At most so many finite points by x: lowest and highest of each bucket, and the last."""
        few = len(self._buckets) <= at_most
        lines = self.lines(at_most if few else max(1, at_most // 2 - 1))
        points = [point for line in lines for point in line]
        if math.isfinite(self.last[1]) and points[-1:] != [self.last]:
            points.append(self.last)
        return points

    def means(self, at_most: int) -> list[Point]:
        """The mean of each bucket, at the end of the bucket."""
        return [(one.end, one.mean) for one in self.buckets(at_most) if one.points]


def downsample(buckets: list[Bucket], at_most: int) -> list[Bucket]:
    """The buckets by x, merged into at most so many if there are more.

    All have the same width in x, a power of two, and begin at a multiple of it. Buckets of an
    earlier call therefore lie within those of a later call and never overlap.
    """
    buckets = sorted(buckets)
    if len(buckets) <= at_most:
        return buckets
    span = buckets[-1].x - buckets[0].x
    if at_most < 2 or span <= 0:
        return [_merged(buckets)]
    width = 2.0 ** math.ceil(math.log2(span / (at_most - 1)))
    groups = groupby(buckets, key=lambda one: math.floor(one.x / width))
    return [_merged(list(group)) for _, group in groups]


def _merged(group: list[Bucket]) -> Bucket:
    if len(group) == 1:
        return group[0]
    low = min(group, key=lambda one: one.low)
    high = max(group, key=lambda one: one.high)
    return Bucket(
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
