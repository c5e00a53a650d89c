"""Sets of seqs as ranges: a lost segment is one range, however many records it held. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

Range = tuple[int, int]  # first and last, both in it


def merged(ranges: Iterable[Range]) -> list[Range]:
    """The same numbers in as few ranges as possible, ascending; empty ranges are left out."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if first > last:
            continue
        if result and first <= result[-1][1] + 1:
            result[-1] = (result[-1][0], max(last, result[-1][1]))
        else:
            result.append((first, last))
    return result


def of_numbers(numbers: Iterable[int]) -> list[Range]:
    """The ranges of single numbers."""
    return merged((number, number) for number in numbers)


def without(ranges: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """What of `ranges` is in none of `others`."""
    holes = merged(others)
    return [piece for whole in merged(ranges) for piece in _pieces(whole, holes)]


def common(ranges: Iterable[Range], others: Iterable[Range]) -> list[Range]:
    """What of `ranges` is in one of `others` too."""
    ranges = merged(ranges)
    return without(ranges, without(ranges, others))


def size(ranges: Iterable[Range]) -> int:
    """How many numbers there are."""
    return sum(last - first + 1 for first, last in merged(ranges))


def _pieces(whole: Range, holes: list[Range]) -> Iterator[Range]:
    first, last = whole
    for begin, end in holes:
        if end < first or begin > last:
            continue
        if begin > first:
            yield first, begin - 1
        first = end + 1
    if first <= last:
        yield first, last
