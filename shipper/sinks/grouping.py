"""Cuts what is to be sent into requests of one run each. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeVar


class Cuttable(Protocol):
    """What one record becomes, or several: `length` parts of `size` units each.

    `text` counts characters of each.
    """

    @property
    def run(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def text(self) -> int: ...
    def part(self, begin: int, end: int) -> Any:
        """Parts `begin` to `end` alone."""


T = TypeVar("T", bound=Cuttable)


def group(items: Iterable[T], *, most: int, most_text: float = float("inf")) -> list[tuple[T, ...]]:
    """Cut items into requests of at most so many units and characters, where one part allows it.

    Each run keeps its own order, and requests come in the order of their first record.
    """
    requests: list[list[T]] = []
    latest: dict[str, list[T]] = {}
    filled: dict[str, tuple[int, int]] = {}
    for item in items:
        at, run, length, size, text = 0, item.run, item.length, item.size, item.text
        while at < length:
            units, characters = filled.get(run, (0, 0))
            room = (most - units) // size if size else units <= most
            if run not in latest or room < 1 or characters + text > most_text:
                latest[run] = []
                requests.append(latest[run])
                units, characters, room = 0, 0, max(1, most // size if size else 1)
            end = min(length, at + room)
            latest[run].append(item.part(at, end))
            filled[run] = units + (end - at) * size, characters + text
            at = end
    return [tuple(one) for one in requests]
